"""Where the reproducers of failures go, one folder per check, replaced when its test runs again."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isomorph.convert.errors import one_line
from isomorph.parity.plugin import REPRODUCERS
from isomorph.parity.pytest_plugin.options import option
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.verdict import Verdict

__all__ = ["Reproducer", "Reproducers", "cached", "slug"]


@dataclass(frozen=True)
class Reproducer:
    """folder: None where none was written. text: the folder, or why there is none. artifacts: of the result."""

    folder: Path | None = None
    text: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)


class Reproducers:
    """Those of one test. The folder is `DIR/parity-reproducers` of `--parity-report DIR`, else in pytest's cache, else
    among the temporary folders that pytest keeps."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def write(self, name: str, verdict: Verdict, original: ModelSpec, converted: ModelSpec) -> Reproducer:
        """The reproducer of a failed check; what an earlier run left is removed in any case."""
        report = option(self._request.config, "report")
        config = self._request.config
        top = config.invocation_params.dir / report / REPRODUCERS if report else cached(config)
        if top is not None and top.exists():
            shutil.rmtree(top / slug(name), ignore_errors=True)
        if verdict.status != "FAIL":
            return Reproducer()
        from isomorph.parity.explaining.reproduce import reproduce

        try:
            top = top or self._request.getfixturevalue("tmp_path_factory").mktemp("parity")
            top.mkdir(parents=True, exist_ok=True)
            folder = reproduce(verdict, original, converted, top / slug(name))
        except Exception as error:  # the failure itself is what matters, and is told
            return Reproducer(text=f"none ({one_line(error)})")
        shown = folder.relative_to(top.parent).as_posix() if report else str(folder)
        return Reproducer(folder, str(folder), {"reproducer": shown})


def cached(config: pytest.Config) -> Path | None:
    """The folder in pytest's cache; None where there is no cache, or none can be written."""
    cache = getattr(config, "cache", None)
    try:
        return None if cache is None else Path(cache.mkdir(REPRODUCERS))
    except OSError:
        return None


def slug(name: str) -> str:
    """A folder's name of a check's: readable, short, and its own."""
    path, colons, test = name.partition("::")  # a parameter may hold a slash as well
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", path.rpartition("/")[2] + colons + test).strip("._")[:80]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

"""A check that was made becomes part of the run: on the item, in JUnit's properties, held against its baseline."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isomorph.parity.console import json_text
from isomorph.parity.plugin import BASELINES, RESULTS
from isomorph.parity.pytest_plugin.baseline import HOW, baselines_of
from isomorph.parity.pytest_plugin.models import check
from isomorph.parity.pytest_plugin.options import Choice
from isomorph.parity.record import Place, Result
from isomorph.parity.report.texts import figures, line, plain
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings

__all__ = ["again", "judged", "keep", "name_of"]


def name_of(item: pytest.Item, number: int) -> str:
    """What a check is called: its test, and from the second on its number there."""
    return item.nodeid if number == 1 else f"{item.nodeid} #{number}"


def keep(item: pytest.Item, result: Result) -> None:
    """Add a result to the run."""
    path, line, _ = item.location
    placed = replace(result, place=Place(Path(path).as_posix(), (line or 0) + 1))
    said = json.loads(json_text(placed.to_dict()))  # numpy's numbers become plain
    item.stash.setdefault(RESULTS, []).append(said)
    item.user_properties += _properties(Result.from_dict(said))


def judged(
    item: pytest.Item, number: int, result: Result, models: tuple[ModelSpec, ModelSpec], choice: Choice
) -> Result:
    """The result, held against its baseline, or recorded as such."""
    baselines = baselines_of(item.config)

    def repeat(seed: int, how: Mapping[str, Any]) -> Mapping[str, Any]:
        arguments = {**choice.arguments, **how, "seed": seed, "database": None, "explain": False, "profile": False}
        return check(*models, replace(choice, arguments=arguments)).to_dict()

    how = {name: choice.arguments.get(name, getattr(Settings, name)) for name in HOW}
    seed = int(choice.arguments.get("seed", 0))
    found = baselines.judge(result, item.nodeid, number, seed, how, repeat)
    item.stash.setdefault(BASELINES, []).extend(baselines.take(item.nodeid))
    return found


def again(item: pytest.Item, seed: int, device: str | None) -> str:
    """The command that makes this test's checks again."""
    path, colons, rest = item.nodeid.partition("::")
    with contextlib.suppress(ValueError):  # another drive
        path = Path(os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)).as_posix()
    test = path + colons + rest
    more = f" --parity-device {device}" if device not in (None, "cpu") else ""
    return f"pytest {shlex.quote(test)} --parity-seed {seed}{more}"


def _properties(result: Result) -> list[tuple[str, str]]:
    """What JUnit XML says of one check; one set of properties for each, by the names of parity/report/junit.py."""
    said = {"name": result.name, "original": result.original, "converted": result.converted}
    found = {f"parity.{name}": line(value) for name, value in said.items()} | figures(result)
    found["parity.seconds"] = str(result.seconds)
    return list((found if result.passed else found | {"parity.message": plain(result.message)}).items())

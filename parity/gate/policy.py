"""A gate file as data: isomorph.toml, or [tool.isomorph] of a pyproject.toml, to a `Policy`. Standard library only.

    find(path) -> file          load(file) -> Policy          tasks.tasks_of(policy) -> what there is to do

Strict: whatever is not understood is an error that names file, line and key, and all that is found is told together.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.named_code import suggest
from isomorph.parity.gate.policy_lines import Lines

__all__ = ["Budgets", "ModelEntry", "Policy", "Waiver", "find", "load"]

NAME, PYPROJECT = "isomorph.toml", "pyproject.toml"


@dataclass(frozen=True)
class Budgets:
    """Limits, None for none. precision: times the original's own error. latency_ratio: times the original's time.
    size, memory: bytes."""

    precision: float | None = None
    latency_ratio: float | None = None
    size: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A `[[model]]`, with the defaults filled in. Paths are as written, relative to the gate file's folder.

    Either artifact, as `isomorph check` takes it, or convert: the options of `isomorph convert`, "to" among them.
    checks: the required ones; None where the file names none (see `required`). timeout: seconds for one request to a
    worker process. memory_limit: bytes of a worker's address space. line: of its header in the file.
    """

    name: str
    source: str
    artifact: str | None = None
    convert: Mapping[str, Any] | None = None
    weights: str | None = None
    artifact_weights: str | None = None
    inputs: tuple[str, ...] = ()
    level: str = "full"
    examples: int | None = None
    steps: int | None = None
    seed: int = 0
    modes: tuple[str, ...] = ("eval", "train")
    backward: bool = True
    strict: bool | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    timeout: float = 600.0
    memory_limit: int | None = None
    isolate: bool = False
    backend: str | None = None
    python: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("both",)
    checks: tuple[str, ...] | None = None
    budgets: Budgets = Budgets()
    line: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        return {**found, "budgets": {f.name: getattr(self.budgets, f.name) for f in fields(self.budgets)}}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> ModelEntry:
        """What `to_dict` gave, also after JSON."""
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
        return cls(**{**known, "budgets": Budgets(**said["budgets"])})

    @property
    def converted(self) -> str:
        """The converted model, as a report names it."""
        if self.artifact is not None:
            return self.artifact
        options = dict(self.convert or {})
        more = ", ".join(f"{name}={value}" for name, value in options.items() if name != "to")
        return f"converted now to {options.get('to')}" + (f" ({more})" if more else "")


@dataclass(frozen=True)
class Waiver:
    """Findings of one model that somebody answers for. findings: patterns "kind/quantity/name" or "budget/NAME".
    expires: ISO date, the last day (UTC) on which it holds. line: of its header in the file."""

    name: str
    model: str
    reason: str
    owner: str
    expires: str
    findings: tuple[str, ...]
    line: int = 1


@dataclass(frozen=True)
class Policy:
    """A gate file. file: as it was found, relative to the working directory where it lies below it, with slashes.
    folder: absolute. version: a verdict made under an older one is refused. valid_days: how long a verdict may be
    relied on. sha256: of the file; of a pyproject.toml, of the section's content alone."""

    file: str
    folder: str
    models: tuple[ModelEntry, ...]
    waivers: tuple[Waiver, ...] = ()
    version: int = 1
    valid_days: int = 30
    sha256: str = ""

    def model(self, name: str) -> ModelEntry:
        """The entry of that name. UsageError: there is none."""
        known = [entry.name for entry in self.models]
        if name not in known:
            raise UsageError(f"{self.file}: no [[model]] is named {name!r}{suggest(name, known)}")
        return self.models[known.index(name)]


def find(path: str | os.PathLike[str] | None = None) -> Path:
    """The gate file: the path given; of a folder (by default the working directory) its isomorph.toml, else its
    pyproject.toml. UsageError: there is none."""
    given = Path() if path is None else Path(path)
    if not given.is_dir():
        return given
    found = next((given / name for name in (NAME, PYPROJECT) if (given / name).is_file()), None)
    if found is None:
        raise UsageError(f"there is no {NAME} and no {PYPROJECT} in {given.resolve()}; name the gate file")
    return found


def load(path: str | os.PathLike[str] | None = None) -> Policy:
    """The policy of a gate file (`find`).

    UsageError: it cannot be read, or something in it is not understood: an unknown key, a wrong type, a model that is
    named twice, a waiver without a reason; all that is wrong, one line each.
    """
    file = find(path)
    try:
        text = file.read_text("utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{_shown(file)}: no valid TOML: {error}") from error
    prefix = ""
    if file.name == PYPROJECT:
        prefix = "tool.isomorph."
        tools = document.get("tool")
        section = tools.get("isomorph") if isinstance(tools, dict) else None
        if not isinstance(section, dict):
            raise UsageError(f"{_shown(file)} has no [tool.isomorph]; name the gate file, or write the section")
        document = section
        text_of_it = json.dumps(document, sort_keys=True, default=str)
    from isomorph.parity.gate.policy_reader import Reader

    reader = Reader(_shown(file), Lines(text, prefix))
    policy = reader.policy(document)
    reader.complain()
    content = text if not prefix else text_of_it
    return Policy(
        **{**policy, "folder": str(file.resolve().parent), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    )


def _shown(file: Path) -> str:
    """A path as it stands in messages: relative to the working directory where it lies below it."""
    full = file.resolve()
    try:
        return full.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return full.as_posix()

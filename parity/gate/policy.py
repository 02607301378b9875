"""A gate file as data: isomorph.toml, or [tool.isomorph] of a pyproject.toml, to a `Policy`. Standard library only.

    find(path) -> file          load(file) -> Policy          tasks.tasks_of(policy) -> what there is to do

Strict: whatever is not understood is an error that names file, line and key, and all that is found is told together.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.named_code import suggest
from isomorph.parity.gate import policy_keys as keys
from isomorph.parity.gate.policy_lines import Lines
from isomorph.parity.gate.policy_sense import contradictions

__all__ = ["Budgets", "ModelEntry", "Policy", "Waiver", "find", "load"]

NAME, PYPROJECT = "isomorph.toml", "pyproject.toml"
SECTIONS = ("gate", "defaults", "model", "waiver")


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

    Either artifact, as `isomorph check` takes it, or convert: the options of `isomorph convert`, "to" among them. checks:
    the required ones; None where the file names none (see `required`). timeout: seconds for one request to a worker
    process. memory_limit: bytes of a worker's address space. line: of its header in the file.
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
    folder: absolute. version: a verdict made under an older one is refused. valid_days: how long a verdict may be relied
    on. sha256: of the file; of a pyproject.toml, of the section's content alone."""

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
        document = document.get("tool", {}).get("isomorph")
        if not isinstance(document, dict):
            raise UsageError(f"{_shown(file)} has no [tool.isomorph]; name the gate file, or write the section")
        text_of_it = json.dumps(document, sort_keys=True, default=str)
    reader = _Reader(_shown(file), Lines(text, prefix))
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


class _Reader:
    """Reads the tables of one file and collects what is wrong with them."""

    def __init__(self, file: str, lines: Lines) -> None:
        self.file, self.lines = file, lines
        self.problems: list[tuple[int, str]] = []

    def complain(self) -> None:
        """UsageError, if anything was wrong."""
        told = [f"{self.file}:{line}: {text}" for line, text in sorted(set(self.problems))]
        if len(told) == 1:
            raise UsageError(told[0])
        if told:
            raise UsageError("\n  ".join([f"{self.file}: {len(told)} problems", *told]))

    def policy(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a `Policy`."""
        for section in document:
            if section not in SECTIONS:
                self._wrong(self.lines.of(section), f"unknown section [{section}]{_near(section, SECTIONS)}")
        gate = self._table(document.get("gate", {}), "[gate]", keys.GATE, lambda key: self.lines.of("gate", key))
        defaults = self._defaults(document.get("defaults", {}))
        models = [self._model(table, at, defaults) for at, table in self._tables(document, "model")]
        waivers = [self._waiver(table, at) for at, table in self._tables(document, "waiver")]
        if "model" not in document:
            self._wrong(1, "no [[model]]: there is nothing to judge")
        self._unique("model", [(entry.name, entry.line) for entry in models if entry])
        self._unique("waiver", [(entry.name, entry.line) for entry in waivers if entry])
        for waiver in filter(None, waivers):
            known = [entry.name for entry in models if entry]
            if waiver.model not in known and None not in models:
                self._wrong(waiver.line, f"waiver {waiver.name!r}: no [[model]] is named {waiver.model!r}"
                            + suggest(waiver.model, known))  # fmt: skip
        return {"file": self.file, "models": tuple(models), "waivers": tuple(waivers), **gate}

    # -------------------------------------------------------------------------------------------------------- sections
    def _tables(self, document: Mapping[str, Any], section: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        found = document.get(section, [])
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            self._wrong(self.lines.of(section), f"{section!r} must be written as [[{section}]]")
            return
        yield from enumerate(found)

    def _defaults(self, table: Any) -> dict[str, Any]:
        def line(key: str) -> int:
            return self.lines.of("defaults", key)

        if not isinstance(table, dict):
            self._wrong(line(""), "'defaults' must be a table")
            return {}
        for key in ("name", "source", "artifact", "convert"):
            if key in table:
                self._wrong(line(key), f"[defaults]: {key!r} is of one model; write it in its [[model]]")
        rest = {key: value for key, value in table.items() if key not in (*keys.IDENTITY, "convert", "budgets")}
        found = self._table(rest, "[defaults]", keys.SETTINGS, line, also=("budgets",))
        return {**found, "budgets": self._budgets(table.get("budgets", {}), "[defaults.budgets]", line)}

    def _model(self, table: Mapping[str, Any], at: int, defaults: Mapping[str, Any]) -> ModelEntry | None:
        def line(key: str) -> int:
            return self.lines.of("model", key, at)

        before = len(self.problems)
        where = f"model {table['name']!r}" if isinstance(table.get("name"), str) else "[[model]]"
        rest = {key: value for key, value in table.items() if key not in ("convert", "budgets")}
        found = self._table(rest, where, keys.MODEL, line, also=("convert", "budgets"))
        budgets = self._budgets(table.get("budgets", {}), f"{where} budgets", line)
        if "convert" in table:
            found["convert"] = self._convert(table["convert"], where, line)
        for key in ("name", "source"):
            if key not in table:
                self._wrong(line(""), f"{where}: {key!r} is missing")
        if ("artifact" in table) == ("convert" in table):
            what = "both, and it must be one" if "artifact" in table else "neither"
            self._wrong(line(""), f"{where}: give 'artifact', a converted model, or 'convert', how to make it now: "
                        f"there is {what}")  # fmt: skip
        if len(self.problems) > before:
            return None
        merged = {**defaults, **found, "budgets": Budgets(**{**defaults.get("budgets", {}), **budgets})}
        entry = ModelEntry(**merged, line=line(""))
        for key, text in contradictions(entry):
            self._wrong(line(key), f"{where}: {text}")
        return entry

    def _convert(self, table: Any, where: str, line: Callable[[str], int]) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._wrong(line("convert"), f'{where}: \'convert\' must be a table such as {{ to = "keras" }}')
            return {}
        if "to" not in table:
            self._wrong(line("convert"), f"{where}: convert: 'to' is missing: keras, onnx or torch")
        return self._table(table, f"{where}: convert", keys.CONVERT, line)

    def _budgets(self, table: Any, where: str, line: Callable[[str], int]) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._wrong(line("budgets"), f"{where}: must be a table of {', '.join(keys.BUDGETS)}")
            return {}
        return self._table(table, where, keys.BUDGETS, line)

    def _waiver(self, table: Mapping[str, Any], at: int) -> Waiver | None:
        def line(key: str) -> int:
            return self.lines.of("waiver", key, at)

        before = len(self.problems)
        where = f"waiver {table['name']!r}" if isinstance(table.get("name"), str) else "[[waiver]]"
        found = self._table(table, where, keys.WAIVER, line)
        for key in keys.NEEDED_OF_WAIVER:
            if key not in table:
                self._wrong(line(""), f"{where}: {key!r} is missing")
        if len(self.problems) > before:
            return None
        return Waiver(findings=found.pop("finding"), **found, line=line(""))

    # -------------------------------------------------------------------------------------------------------- the rest
    def _table(
        self, table: Any, where: str, known: Mapping[str, keys.Reader], line: Callable[[str], int],
        also: tuple[str, ...] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """Every key of a table, read."""
        if not isinstance(table, dict):
            self._wrong(line(""), f"{where}: must be a table")
            return {}
        found = {}
        for key, value in table.items():
            reader = known.get(key)
            if reader is None:
                self._wrong(line(key), f"{where}: unknown key {key!r}{_near(key, (*known, *also))}")
                continue
            try:
                found[key] = reader(value)
            except ValueError as error:
                self._wrong(line(key), f"{where}: {key} = {_said(value)}: {error}")
        return found

    def _unique(self, section: str, named: list[tuple[str, int]]) -> None:
        seen: dict[str, int] = {}
        for name, line in named:
            if name in seen:
                self._wrong(line, f"{section} {name!r}: the name is taken already, in line {seen[name]}")
            seen.setdefault(name, line)

    def _wrong(self, line: int, text: str) -> None:
        self.problems.append((line, text))


def _near(name: str, known: tuple[str, ...]) -> str:
    return suggest(name, known) or f"; known are {', '.join(known)}"


def _said(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""The tables of a gate file to the parts of a `Policy`, and all that is wrong with them. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.named_code import suggest
from isomorph.parity.gate import policy_keys as keys
from isomorph.parity.gate.policy import Budgets, ModelEntry, Waiver
from isomorph.parity.gate.policy_lines import Lines
from isomorph.parity.gate.policy_sense import contradictions

__all__ = ["Reader"]

SECTIONS = ("gate", "defaults", "model", "waiver")


class Reader:
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
        """The fields of a `Policy`, as far as they could be read."""
        for section in document:
            if section not in SECTIONS:
                self._wrong(self.lines.of(section), f"unknown section [{section}]{_near(section, SECTIONS)}")
        gate = self._table(document.get("gate", {}), "[gate]", keys.GATE, lambda key: self.lines.of("gate", key))
        defaults = self._defaults(document.get("defaults", {}))
        models = [self._model(table, at, defaults) for at, table in self._tables(document, "model")]
        waivers = [self._waiver(table, at) for at, table in self._tables(document, "waiver")]
        if document.get("model", []) == []:
            line = self.lines.of("model") if "model" in document else 1
            self._wrong(line, "no [[model]]: there is nothing to judge")
        known = self._unique("model", document)
        self._unique("waiver", document)
        for waiver in filter(None, waivers):
            if waiver.model not in known:
                near = suggest(waiver.model, tuple(known))
                self._wrong(waiver.line, f"waiver {waiver.name!r}: no [[model]] is named {waiver.model!r}{near}")
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
            self._wrong(line("convert"), f"{where}: 'convert' must be a table such as {{ to = \"keras\" }}")
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

    def _unique(self, section: str, document: Mapping[str, Any]) -> dict[str, int]:
        """Name -> line of each table of a section, also of those that are wrong."""
        seen: dict[str, int] = {}
        tables = document.get(section, [])
        for at, table in enumerate(tables if isinstance(tables, list) else ()):
            name = table.get("name") if isinstance(table, dict) else None
            if not isinstance(name, str):
                continue
            if name in seen:
                line = self.lines.of(section, "name", at)
                self._wrong(line, f"{section} {name!r}: the name is taken already, in line {seen[name]}")
            seen.setdefault(name, self.lines.of(section, "", at))
        return seen

    def _wrong(self, line: int, text: str) -> None:
        self.problems.append((line, text))


def _near(name: str, known: tuple[str, ...]) -> str:
    return suggest(name, known) or f"; known are {', '.join(known)}"


def _said(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

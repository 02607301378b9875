"""Baselines: how large the errors of each check were, in a file that is committed and reviewed.

    pytest --parity-update-baseline      records them: the check is repeated with further seeds, to see how they vary
    pytest                               a check whose error has grown beyond that is a REGRESSION, even where the
                                         tolerance would still pass

What is held against what, and the model of the noise, are in `noise.py`. An error that shrank is no failure, and stays
no failure until the baseline is updated. A check with no entry is counted in the summary. An entry is known by the
test's node id, the number of the check in the test, and the device where that is not the cpu:

    "tests/test_net.py::test_same#1": {
      "environment": "3f1c0a9e",                                     of "environments" in the same file
      "figures": {"structure, output, eval, float64, share": {"error": 4.2e-16, "limit": 0.0003, ...}, ...},
      "how": {"dtype": "both", "examples": 24, "level": "full", ...},
      "seeds": [0, 7919, 15838, 23757, 31676]}

The limit is enforced as it stands there. Where a run is done in another way than its baseline was (more examples,
another level), a suspicion is looked at again in the baseline's way, as with another seed.

Standard library and pytest only. Processes: each judges its own tests against the file as it was at the start; what an
update records travels with the test reports, and the controller alone writes, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.pytest_plugin.noise import Figure, Known, figures_of, known_from, suspicions
from isomorph.parity.record import Result

__all__ = ["SCHEMA", "Baselines", "Said", "baselines_of", "device_of", "key_of", "node_of"]

SCHEMA = "isomorph.baseline/1"
FILE = "parity-baseline.json"
FURTHER_SEEDS = 4
SEED_STEP = 7919
HOW = ("level", "examples", "modes", "dtype", "backward", "steps")  # arguments of `check` that change the figures
VERSIONS = ("isomorph", "torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "numpy", "python", "machine")

Repeat = Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
"""The same check with another seed and other arguments (of `HOW`): its `Verdict.to_dict()`."""


@dataclass(frozen=True)
class Said:
    """What judging one check came to; crosses processes as `asdict`. outcome: "kept", "regression", "unsteady" (beyond
    the limit, but not with the baseline's seeds), "none" (no entry), "recorded", or "left" (it did not pass).
    entry: to be recorded, with its "environment" in full."""

    key: str
    outcome: str
    entry: Mapping[str, Any] | None = None
    note: str = ""


@dataclass
class Baselines:
    """The file at `path`, in one process. update: record instead of judging. entries, environments: as read. named:
    the ini file says that there is one."""

    path: Path
    update: bool = False
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    named: bool = False
    _said: dict[str, list[Said]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str], update: bool = False) -> Baselines:
        """The file, or none yet. UsageError: it cannot be read, or is no baseline."""
        file = Path(path)
        if not file.exists():
            return cls(file, update)
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']!r}, not {SCHEMA!r}")
            for versions in said["environments"].values():
                if not isinstance(versions, dict):
                    raise ValueError("an environment is no table of versions")
            for key, entry in said["entries"].items():
                _checked(key, entry, said["environments"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"the parity baseline {file} cannot be read: {' '.join(text.split())}; restore it, or delete it and "
                "run again with --parity-update-baseline"
            ) from None
        return cls(file, update, said["entries"], said["environments"])

    def judge(self, result: Result, node_id: str, number: int, seed: int, how: Mapping[str, Any], repeat: Repeat
              ) -> Result:  # fmt: skip
        """The result of the `number`th check (from 1) of a test, held against its baseline or recorded.

        seed, how: with which it was done; `how` holds at least `HOW`. repeat: asked for other seeds. What came of it is
        kept for `take`. The result is REGRESSION where the baseline says so; while recording, a check that fails with
        one of the further seeds has that verdict.
        """
        key = key_of(node_id, number, result.device)
        if not result.passed or result.verdict is None or result.verdict["status"] != "PASS":
            return self._say(result, Said(key, "left", note=f"{key}: {result.status}, its baseline is left as it was"))
        how = {name: _plain(how[name]) for name in HOW if name in how}
        if self.update:
            return self._record(key, result, seed, how, repeat)
        entry = self.entries.get(key)
        if entry is None:
            return self._say(result, Said(key, "none"))
        return self._compare(key, entry, result, seed, how, repeat)

    def take(self, node_id: str) -> list[dict[str, Any]]:
        """What `judge` came to in this test, once: JSON-able, to travel with the test's report."""
        return [asdict(said) for said in self._said.pop(node_id, ())]

    def write(self, said: Iterable[Mapping[str, Any]], exists: Callable[[str], bool]) -> str:
        """Record what the tests said, drop the entries whose key does not exist, write the file; a line that tells.

        UsageError: it cannot be written.
        """
        recorded = {str(one["key"]): dict(one["entry"]) for one in said if one["entry"] is not None}
        stale = [key for key in self.entries if key not in recorded and not exists(key)]
        kept = {key: entry for key, entry in self.entries.items() if key not in stale}
        environments = dict(self.environments)
        for entry in recorded.values():
            name = _name_of(entry["environment"])
            environments[name], entry["environment"] = entry["environment"], name
        entries = kept | recorded
        used = {entry["environment"] for entry in entries.values()}
        document = {
            "schema": SCHEMA, "entries": entries,
            "environments": {name: versions for name, versions in environments.items() if name in used},
        }  # fmt: skip
        from isomorph.parity.cli_convert import write_text

        write_text(self.path, _text(document))
        dropped = f", {len(stale)} dropped" if stale else ""
        return f"baselines: {len(recorded)} recorded{dropped}, {len(kept.keys() - recorded)} as they were: {self.path}"

    def summary(self, said: Iterable[Mapping[str, Any]]) -> list[str]:
        """Lines for the end of a run: what was not held against a baseline, and what to know beside the failures."""
        told = list(said)
        counts = Counter(one["outcome"] for one in told)
        lines = []
        if counts["none"] and (self.entries or self.named):
            where = "" if self.path.exists() else f" in {self.path}, which is not there"
            lines.append(f"no baseline{where}: {counts['none']} checks (--parity-update-baseline records them)")
        if counts["unsteady"]:
            lines.append(f"beyond the baseline with this seed only, no regression: {counts['unsteady']} checks")
        shown = ("unsteady", "left") if self.update else ("unsteady",)
        return lines + [f"  {one['note']}" for one in told if one["outcome"] in shown]

    # ------------------------------------------------------------------------------------------------ one check
    def _say(self, result: Result, said: Said) -> Result:
        self._said.setdefault(node_of(said.key), []).append(said)
        return result

    def _record(self, key: str, result: Result, seed: int, how: Mapping[str, Any], repeat: Repeat) -> Result:
        first = result.verdict or {}
        seeds = [seed + SEED_STEP * step for step in range(FURTHER_SEEDS + 1)]
        samples = [figures_of(first)]
        for other in seeds[1:]:
            verdict = repeat(other, how)
            if verdict["status"] != "PASS":
                text = f"passes with seed {seed}, {verdict['status']} with seed {other}: no baseline was recorded"
                failing = replace(result, status=verdict["status"], message=text, verdict=verdict)
                return self._say(failing, Said(key, "left", note=f"{key}: {text}"))
            samples.append(figures_of(verdict))
        known = {
            name: known_from(name.rpartition(", ")[2], [one[name] for one in samples if name in one])
            for name in sorted({name for one in samples for name in one})
        }
        entry = {
            "environment": _versions(first), "how": dict(how), "seeds": seeds,
            "figures": {name: asdict(one) for name, one in known.items()},
        }  # fmt: skip
        return self._say(result, Said(key, "recorded", entry))

    def _compare(self, key: str, entry: Mapping[str, Any], result: Result, seed: int, how: Mapping[str, Any],
                 repeat: Repeat) -> Result:  # fmt: skip
        known = {name: Known(**one) for name, one in entry["figures"].items()}
        figures = figures_of(result.verdict or {})
        beyond = suspicions(figures, known)
        if not beyond:
            return self._say(result, Said(key, "kept"))
        seeds, recorded = list(entry["seeds"]), dict(entry["how"])
        votes, asked = dict.fromkeys(beyond, 0), 0
        for other in seeds:
            again = figures if other == seed and recorded == how else _again(repeat(other, recorded))
            asked += 1
            for name in beyond:
                votes[name] += again is None or name in suspicions(again, known)
            if max(votes.values()) > len(seeds) / 2 or max(votes.values()) + len(seeds) - asked <= len(seeds) / 2:
                break
        regressed = [name for name in beyond if votes[name] > len(seeds) / 2]
        if not regressed:
            note = f"{key}: {_told(beyond[0], figures, known)} with seed {seed}, but not with the baseline's seeds"
            return self._say(result, Said(key, "unsteady", note=note))
        text = f"{_told(regressed[0], figures, known)}, in {votes[regressed[0]]} of {asked} runs with its seeds"
        more = f" (and {len(regressed) - 1} more)" if len(regressed) > 1 else ""
        message = f"{text}{more}{self._changed(entry, result)}; if it is meant: --parity-update-baseline"
        return self._say(replace(result, status="REGRESSION", message=message), Said(key, "regression", note=text))

    def _changed(self, entry: Mapping[str, Any], result: Result) -> str:
        """The versions that are not those of the baseline."""
        then, now = self.environments[entry["environment"]], _versions(result.verdict or {})
        said = [f"{name} {then[name]} -> {now[name]}" for name in sorted(then.keys() & now) if then[name] != now[name]]
        return f"; since then {', '.join(said)}" if said else ""


_KEY: pytest.StashKey[Baselines] = pytest.StashKey()


def baselines_of(config: pytest.Config) -> Baselines:
    """The session's, in this process: the file of the ini value `parity_baseline`, beside the ini file. UsageError."""
    if _KEY not in config.stash:
        folder = config.inipath.parent if config.inipath else config.rootpath
        name = config.getini("parity_baseline")
        found = Baselines.read(folder / (name or FILE), bool(config.getoption("parity_update_baseline")))
        config.stash[_KEY] = replace(found, named=bool(name))
    return config.stash[_KEY]


def key_of(node_id: str, number: int, device: str = "cpu") -> str:
    """The name of an entry."""
    return f"{node_id}#{number}" + (f"@{device}" if device != "cpu" else "")


def node_of(key: str) -> str:
    """The node id in the name of an entry."""
    return re.sub(r"#\d+(@[^\s#]+)?$", "", key)


def device_of(key: str) -> str:
    """The device in the name of an entry."""
    return key.rpartition("@")[2] if re.search(r"#\d+@[^\s#]+$", key) else "cpu"


def _told(name: str, figures: Mapping[str, Figure], known: Mapping[str, Known]) -> str:
    """One figure that is beyond what is known, in words."""
    where, _, kind = name.rpartition(", ")
    figure, base = figures[name], known[name]
    if kind == "ratio":
        return f"{where}: {figure.value:.3g} times the original's own error; the baseline allows {base.limit:.3g}"
    return (
        f"{where}: error {figure.error:.1e} ({figure.value:.1e} of the tolerance) is {figure.value / base.limit:.3g} "
        "times what the baseline allows"
    )


def _again(verdict: Mapping[str, Any]) -> dict[str, Figure] | None:
    """The figures of a repeated check; None where it does not even pass."""
    return figures_of(verdict) if verdict["status"] == "PASS" else None


def _versions(verdict: Mapping[str, Any]) -> dict[str, str]:
    said = verdict.get("environment", {})
    return {name: str(said[name]) for name in VERSIONS if name in said}


def _name_of(environment: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return list(value) if isinstance(value, tuple | list) else value


def _checked(key: str, entry: Mapping[str, Any], environments: Mapping[str, Any]) -> None:
    """KeyError, TypeError, ValueError: not an entry as `_record` makes it."""
    if entry["environment"] not in environments:
        raise ValueError(f"{key}: an environment that is not in the file")
    if not entry["seeds"] or not all(type(seed) is int and seed >= 0 for seed in entry["seeds"]):
        raise ValueError(f"{key}: seeds must be whole numbers of 0 or more")
    for name, value in entry["how"].items():
        _checked_how(key, name, value)
    for name, one in entry["figures"].items():
        values = asdict(Known(**one)).values()
        if not all(type(value) in (int, float) and 0 <= value < math.inf for value in values) or not one["limit"]:
            raise ValueError(f"{key}: {name}: figures must be finite numbers of 0 or more, the limit above 0")


def _checked_how(key: str, name: str, value: Any) -> None:
    """ValueError: not an argument of `check` as it was recorded. None: it was left to the level."""
    from isomorph.parity.pytest_plugin.options import MARK_KEYS

    if name not in HOW:
        raise ValueError(f"{key}: unknown {name} in 'how'")
    try:
        if value is not None:
            MARK_KEYS["train_steps" if name == "steps" else name](value)
    except ValueError as error:
        raise ValueError(f"{key}: {name} {error}, not {value!r}") from None


def _text(value: Any, indent: str = "") -> str:
    """Sorted JSON with one figure to a line, so that a diff shows what changed."""
    if not isinstance(value, dict) or not any(isinstance(item, dict) for item in value.values()):
        return json.dumps(value, sort_keys=True)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(name)}: {_text(item, inner)}" for name, item in sorted(value.items())]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

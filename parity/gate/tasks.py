"""What a policy asks for, cut into tasks that can be done apart, in other processes and on other machines.

    NAME::check[DEVICE,DTYPE]     one check, its required checks and the precision budget
    NAME::budget[latency_ratio]   and size, memory: measured once for each model, on its first device

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isomorph.parity.gate.policy import ModelEntry, Policy
from isomorph.parity.record import Place

__all__ = ["MEASURED", "Task", "tasks_of"]

MEASURED = ("size", "latency_ratio", "memory")  # the budgets that are tasks of their own


@dataclass(frozen=True)
class Task:
    """One thing to do. name: unique in its policy. model: the name of its `[[model]]`. kind: "check", or the budget
    that is measured. folder: of the gate file, absolute: what relative paths and modules start from. place: its
    `[[model]]` in the gate file. device, dtype: of the check. limit: of the budget."""

    name: str
    model: str
    kind: str
    folder: str
    place: Place
    entry: ModelEntry
    device: str = "cpu"
    dtype: str = "both"
    limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name, "model": self.model, "kind": self.kind, "folder": self.folder,
            "place": {"file": self.place.file, "line": self.place.line}, "entry": self.entry.to_dict(),
            "device": self.device, "dtype": self.dtype, "limit": self.limit,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Task:
        """What `to_dict` gave, also after JSON."""
        return cls(**{**said, "place": Place(**said["place"]), "entry": ModelEntry.from_dict(said["entry"])})

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its result but the models' contents and the versions: no folder, no place, no line. What
        belongs to other tasks of the model is left out: another budget does not make this result another one."""
        said = self.entry.to_dict()
        for key in ("line", "devices", "dtypes", "budgets", "name"):
            del said[key]
        budgets = {"precision": self.entry.budgets.precision} if self.kind == "check" else {self.kind: self.limit}
        return {"kind": self.kind, "device": self.device, "dtype": self.dtype, "budgets": budgets, **said}


def tasks_of(policy: Policy) -> tuple[Task, ...]:
    """Every task of a policy, in the order of its models: first the checks, then what is measured."""
    return tuple(task for entry in policy.models for task in _of_model(policy, entry))


def _of_model(policy: Policy, entry: ModelEntry) -> Iterator[Task]:
    place = Place(policy.file, entry.line)
    for device in entry.devices:
        for dtype in entry.dtypes:
            yield Task(
                f"{entry.name}::check[{device},{dtype}]",
                entry.name,
                "check",
                policy.folder,
                place,
                entry,
                device,
                dtype,
            )
    for kind in MEASURED:
        limit = getattr(entry.budgets, kind)
        if limit is not None:
            name = f"{entry.name}::budget[{kind}]"
            yield Task(name, entry.name, kind, policy.folder, place, entry, entry.devices[0], limit=float(limit))

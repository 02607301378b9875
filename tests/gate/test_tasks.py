"""A policy cut into tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from isomorph.parity.gate.tasks import Task, tasks_of
from isomorph.parity.record import Place

from .gate_files import gate
from .test_policy import WHOLE


def test_the_tasks_and_their_order(tmp_path: Path) -> None:
    tasks = tasks_of(gate(tmp_path, WHOLE))
    assert [(task.name, task.kind, task.device, task.dtype, task.limit) for task in tasks] == [
        ("digits::check[cpu,both]", "check", "cpu", "both", None),
        ("digits::check[cpu,own]", "check", "cpu", "own", None),
        ("digits::check[cuda:1,both]", "check", "cuda:1", "both", None),
        ("digits::check[cuda:1,own]", "check", "cuda:1", "own", None),
        ("digits::budget[size]", "size", "cpu", "both", 20e6),
        ("digits::budget[latency_ratio]", "latency_ratio", "cpu", "both", 1.5),
        ("digits::budget[memory]", "memory", "cpu", "both", float(1 << 30)),
        ("other::check[cpu,both]", "check", "cpu", "both", None),
        ("other::budget[size]", "size", "cpu", "both", 1000.0),
    ]
    assert {task.place for task in tasks if task.model == "digits"} == {
        Place((tmp_path / "isomorph.toml").as_posix(), 14)
    }
    assert {task.folder for task in tasks} == {str(tmp_path)}


def test_a_task_travels_as_json(tmp_path: Path) -> None:
    for task in tasks_of(gate(tmp_path, WHOLE)):
        assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_what_decides_a_result(tmp_path: Path) -> None:
    """The settings of a task hold what changes its result, and nothing that does not."""
    check, *_, size, latency, memory, other, _ = tasks_of(gate(tmp_path, WHOLE))
    moved = tasks_of(gate(tmp_path / "moved", "# one line more\n" + WHOLE))
    assert moved[0].settings == check.settings
    assert json.loads(json.dumps(check.settings)) == check.settings
    budgets = replace(check.entry.budgets, size=5, memory=6)
    assert replace(check, entry=replace(check.entry, budgets=budgets)).settings == check.settings
    for change in (
        {"seed": 6}, {"checks": None}, {"level": "thorough"}, {"weights": None}, {"convert": {"to": "onnx"}},
        {"inputs": ()}, {"strict": True}, {"steps": 1}, {"budgets": replace(check.entry.budgets, precision=1.0)},
    ):  # fmt: skip
        assert replace(check, entry=replace(check.entry, **change)).settings != check.settings, change
    assert replace(size, limit=5.0).settings != size.settings
    assert len({json.dumps(task.settings) for task in (check, size, latency, memory, other)}) == 5

"""Gate files and the code beside them, written into a folder; results that need no model."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from isomorph.parity.gate.execute import execute
from isomorph.parity.gate.policy import Policy, load
from isomorph.parity.gate.tasks import tasks_of
from isomorph.parity.record import Result

FUNCTIONS = """
import numpy as np

def tanh(x):
    return np.tanh(x)

def same(x):
    return (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)

def other(x):
    return np.tanh(x) * 1.01

def broken(x):
    raise RuntimeError("no luck")

def slow(x):
    for _ in range(60):
        np.tanh(x)
    return np.tanh(x)
"""
PAIR = """
[defaults]
level = "quick"
inputs = ["x=float32[b,4]:-1..1"]
[[model]]
name = "pair"
source = "functions:tanh"
artifact = "functions:{}"
"""


def gate(folder: Path, text: str, **code: str) -> Policy:
    """A gate file of this text, with modules of this code beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"functions": FUNCTIONS, **code}.items():
        (folder / f"{name}.py").write_text(dedent(content))
    file = folder / "isomorph.toml"
    file.write_text(dedent(text))
    return load(file)


def executed(policy: Policy, name: str | None = None, **given: Any) -> Result:
    """The result of the task of this name, by default of the only one."""
    tasks = {task.name: task for task in tasks_of(policy)}
    return execute(tasks[name or next(iter(tasks))], **given)


def lines_of(text: str, sought: str) -> list[int]:
    """The lines, from 1, in which a pattern stands."""
    return [number for number, line in enumerate(text.splitlines(), 1) if re.search(sought, line)]

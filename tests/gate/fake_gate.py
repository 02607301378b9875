"""Gates whose tasks do what `fake_tasks` says, so that no framework is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isomorph.parity.gate.cache import Cache
from isomorph.parity.gate.policy import load
from isomorph.parity.gate.progress import Progress
from isomorph.parity.gate.run import How, run
from isomorph.parity.record import Record

PERFORM = "tests.gate.fake_tasks:perform"
MODEL = """
[[model]]
name = "{name}"
source = "net.py:Net"
weights = "net.weights"
artifact = "{name}.keras"
inputs = ["x=float32[b,3]"]
"""

# A net, and one that is wrong, for what has to be judged for real.
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.linear(x))

class Wrong(Net):
    def forward(self, x):
        return torch.tanh(self.linear(x)) + 0.001
"""


def write(folder: Path, *names: str, more: str = "") -> Path:
    """A gate file with such models, whose code, weights and artifacts lie beside it."""
    (folder / "net.py").write_text("import parts\nclass Net:\n    size = 3\n")
    (folder / "parts.py").write_text("FACTOR = 2\n")
    (folder / "net.weights").write_bytes(b"weights")
    for name in names:
        (folder / f"{name}.keras").write_bytes(name.encode())
    file = folder / "isomorph.toml"
    file.write_text("[gate]\nversion = 4\n" + "".join(MODEL.format(name=name) for name in names) + more)
    return file


def judge(file: Path, cache: Path | None = None, progress: Progress | None = None, **how: Any) -> Record:
    """A run of it, in this process unless an engine is named; what is cached lies in `cache`."""
    fresh = how.pop("fresh", False)
    today = how.pop("today", None)
    kept = None if cache is None else Cache(cache, fresh)
    settings = {"engine": "inline", "artifacts": None if cache is None else cache / "artifacts", **how}
    return run(load(file), How(cache=kept, perform=PERFORM, **settings), progress, today)

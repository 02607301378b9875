"""scripts/demo and the README's Python do what they show, and the demo says so when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.package import ROOT


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path) -> None:
    model = tmp_path / "digits.keras"
    env = {**os.environ, "ISOMORPH_PYTHON": sys.executable}
    command = ["bash", str(ROOT / "scripts" / "demo"), "-o", str(model)]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all that must be equal is equal" in result.stdout
    assert "✗" not in result.stdout
    assert result.stderr == ""
    assert model.stat().st_size > 100_000


@pytest.mark.slow
def test_the_demo_fails_when_the_way_back_is_wrong(tmp_path: Path) -> None:
    """One weight of the pulled state dict is damaged: the labels differ, and the demo ends with 1."""
    code = (
        "import sys\n"
        "from isomorph.convert.conversion import Conversion\n"
        "from scripts import demo\n"
        "pull = Conversion.pull\n"
        "Conversion.pull = lambda self: {n: v * 0 if n == 'head.weight' else v for n, v in pull(self).items()}\n"
        "sys.argv = ['demo']\n"
        "sys.exit(demo.main())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "labels NOT EQUAL to the tuned Keras model's" in result.stdout
    assert "something that must be equal is not" in result.stdout

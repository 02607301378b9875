"""A whole check whose second model lives in another interpreter, and what becomes of it when that one fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isomorph.parity.check import check, examine
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings
from isomorph.parity.verdict import Verdict

MODELS = """
import os
import time
import numpy as np

W = (np.arange(6, dtype=np.float32).reshape(2, 3) - 2) / 8
B = np.array([1, -1], np.float32)

def port(input): return input @ W.T.astype(input.dtype) + B.astype(input.dtype)
def wrong(x): return x @ W.T.astype(x.dtype) - B.astype(x.dtype)
def refuses(x): raise ValueError("not today")
def dies(x):
    if os.environ.get("SPARED", "").count("x") >= 2:
        print("the last words", flush=True)
        os._exit(9)
    os.environ["SPARED"] = os.environ.get("SPARED", "") + "x"
    return port(x)
def hangs(x):
    if os.environ.get("SPARED", "").count("x") >= 2:
        time.sleep(1000)
    os.environ["SPARED"] = os.environ.get("SPARED", "") + "x"
    return port(x)

def original():
    import torch
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(W))
        module.bias.copy_(torch.from_numpy(B))
    return module
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has numpy and safetensors, and no framework."""
    folder = tmp_path_factory.mktemp("other")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "safetensors"):
        origin = Path(str(__import__(name).__file__)).parent
        for found in (origin, *origin.parent.glob(f"{name}.libs")):
            (site / found.name).symlink_to(found, target_is_directory=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def judge(tmp_path: Path, python: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "models.py"
    file.write_text(MODELS)

    def run(name: str, timeout: float = 60.0) -> Verdict:
        first = ModelSpec(f"{file}:original", inputs=("input=float32[b,3]",))
        taken = "input" if name == "port" else "x"
        second = ModelSpec(f"{file}:{name}", inputs=(f"{taken}=float32[b,3]",), python=python, timeout=timeout)
        return examine(first, second, Settings(level="quick", explain=False))

    return run


def test_a_port_in_another_interpreter_passes(judge, python: str) -> None:  # type: ignore[no-untyped-def]
    verdict = judge("port")
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.environment["converted.worker"] == python
    assert any("gradients" in str(entry) for entry in verdict.coverage["not_checked"])


def test_a_wrong_one_fails(judge) -> None:  # type: ignore[no-untyped-def]
    verdict = judge("wrong")
    assert verdict.status == "FAIL"
    assert {m.quantity for m in verdict.mismatches} == {"output"}


def test_one_that_raises_fails(judge) -> None:  # type: ignore[no-untyped-def]
    verdict = judge("refuses")
    assert verdict.status == "FAIL", verdict.summary()
    assert any(m.kind == "raised" and "ValueError: not today" in m.message for m in verdict.mismatches)


@pytest.mark.parametrize(("name", "how"), [("dies", "exit status 9"), ("hangs", "gave no answer within 2 s")])
def test_one_that_is_lost_is_an_error(judge, name: str, how: str) -> None:  # type: ignore[no-untyped-def]
    verdict = judge(name, timeout=2.0)
    assert verdict.status == "ERROR", verdict.summary()
    assert verdict.exit_code == 4
    assert how in verdict.coverage["reason"]
    assert name == "hangs" or "the last words" in verdict.coverage["reason"]


def test_check_takes_the_interpreter(tmp_path: Path, python: str) -> None:
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    verdict = check(
        f"{file}:original", f"{file}:port", inputs=["input=float32[b,3]"], python=python, level="quick", explain=False
    )
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.environment["converted.worker"] == python

"""The same verdict on Keras' JAX backend, in a process of its own: a backend is chosen once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax
jax.config.update("jax_enable_x64", True)
import torch
from isomorph.parity.check import check
from tests.parity.twin import TwinConversion, make_net

net, x = make_net(), torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
for fault in ("", "epsilon", "stop_gradient", "biased variance", "dropout scale"):
    verdict = check(net, TwinConversion(net, fault), x, level="quick")
    wrong = sorted({m.quantity for m in verdict.mismatches})
    print(verdict.environment["converted.keras_backend"], fault or "honest", verdict.status, wrong)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_verdict_on_the_jax_backend() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == [
        "jax honest PASS []",
        "jax epsilon FAIL ['input gradient', 'output', 'parameter gradient']",
        "jax stop_gradient FAIL ['parameter gradient']",
        "jax biased variance FAIL ['buffer']",
        "jax dropout scale FAIL ['input gradient', 'output', 'parameter gradient']",
    ]

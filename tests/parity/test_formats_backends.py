"""Keras models on Keras' JAX and torch backends, each in a process of its own: a backend is chosen once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
import torch
from isomorph.parity.runners.base import Request
from isomorph.parity.runners.keras_model import open_conversion, open_keras
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.runners.torch_runner import TorchRunner, example_leaves
from tests.parity.formats import gradients_are_right, keeps_protocol, largest
from tests.parity.test_formats_keras import Subclassed, functional
from tests.parity.twin import TwinConversion, make_net

opened = open_keras(ModelSpec(functional(dropout=0.5)))
print(opened.runner.about().environment["keras_backend"], opened.runner.index_bounds())
keeps_protocol(opened.runner, opened.example)
example = (np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5), np.ones((4, 2), np.float32))
subclassed = open_keras(ModelSpec(Subclassed(), example=example)).runner
keeps_protocol(subclassed, example)
gradients_are_right(subclassed.to_float64(), example, "train")
gradients_are_right(opened.runner.to_float64(), opened.example, "eval")

net = make_net()
x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
own = TorchRunner(net, example_leaves(x), ("x",))
twin = open_conversion(ModelSpec(TwinConversion(net), example=x)).runner
for mode in ("eval", "train"):
    seen = own.respond(Request((x.numpy(),), mode))
    request = Request((x.numpy(),), mode, cotangents=seen.cotangents, draws=seen.draws, structure=seen.structure)
    narrow, wide = (largest(a.respond(request), b.respond(request))
                    for a, b in ((own, twin), (own.to_float64(), twin.to_float64())))
    print(mode, narrow < 1e-4, wide < 1e-12)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_on_another_backend(backend: str) -> None:
    """Protocol, gradients in float64 against finite differences, and a twin against torch in both dtypes and modes."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines() == [f"{backend} {{'ids': 17}}", "eval True True", "train True True"]

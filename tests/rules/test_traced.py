"""Rows with free sizes, traced by `tf.function` with those sizes unknown: the rules see scalar tensors for sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isomorph.convert.api import to_keras
from isomorph.convert.builder import evaluated
from isomorph.convert.ir import Sym

from . import cases_conv, cases_pool, cases_resize
from .harness import Case, build, params, torch_side

TABLES = (cases_conv.CASES, cases_pool.CASES, cases_resize.CASES)
FREE = [c for cases in TABLES for c in cases if isinstance(c.dynamic, (dict, tuple))]


@pytest.mark.parametrize("case", params(FREE))
def test_traced_with_unknown_sizes(case: Case) -> None:
    tf = pytest.importorskip("tensorflow")
    module, inputs = build(case)
    outs = torch_side(module, inputs)[0]
    converted = to_keras(module, tuple(inputs), None, case.dynamic, mode="eval")
    arrays = [tf.constant(p.to_keras(x.numpy())) for p, x in zip(converted.inputs, inputs, strict=True)]
    traced = tf.function(lambda x: converted.model(x)).get_concrete_function(
        tf.TensorSpec(converted.model.inputs[0].shape, "float64")
    )
    got = converted.flatten_outputs(traced(arrays[0]))
    for port, y, want in zip(converted.outputs, got, outs, strict=True):
        np.testing.assert_allclose(port.to_torch(np.asarray(y)), want, rtol=1e-10, atol=1e-12)


class Spectra(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        half = torch.fft.rfft(x, norm="ortho")
        whole = torch.fft.fft2(x, norm="forward")
        return torch.fft.irfft(half * 2, norm="ortho"), whole.real, torch.fft.ifft(whole, dim=1).imag


def test_transforms_of_traced_sizes() -> None:
    """The number of places is a factor, and an integer tensor."""
    tf = pytest.importorskip("tensorflow")
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    converted = to_keras(Spectra(), (x,), None, {"x": {0: "b", 1: "s", 2: None}}, mode="eval")
    traced = tf.function(lambda x: converted.model(x)).get_concrete_function(tf.TensorSpec((None, None, 6), "float64"))
    for length in (5, 8):
        x = torch.randn(3, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
        for y, want in zip(converted.flatten_outputs(traced(tf.constant(x.numpy()))), Spectra()(x), strict=True):
            np.testing.assert_allclose(np.asarray(y), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "Max(1, n - 3)", "Min(n, m, 4)", "Max(n, m) // 2", "abs(m - n)", "int(2.5*float(n))", "floor(float(n)/3)",
        "ceil(float(m)/2)", "int(sqrt(float(n)))", "where(n > m, n - m, 1)", "floor(n/2)", "floor(-n/2)",
    ],
)  # fmt: skip
def test_expressions_of_traced_sizes(text: str) -> None:
    """The value with scalar tensors for sizes is the value with numbers; a whole number stays one."""
    tf = pytest.importorskip("tensorflow")
    traced = tf.function(lambda n, m: evaluated(Sym(text), {"n": n, "m": m}))
    for n, m in ((7, 4), (3, 9), (1, 1)):
        want = Sym(text).evaluate({"n": n, "m": m})
        got = traced(tf.constant(n), tf.constant(m))
        assert float(got) == want
        assert got.dtype.is_integer == isinstance(want, int)

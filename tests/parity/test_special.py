"""NaN and infinities in the same places; a kernel's known limitation is no mismatch, and is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.convert.api import to_keras
from isomorph.parity.judging.special import LIMITATIONS, judge_special, one_in_each_row
from isomorph.parity.ledger import Ledger

from .pairs import kinds, make_pair
from .twin import TwinConversion, make_net

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, 2 * x)


class Wrap(nn.Module):
    """A function behind a linear layer."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x + 0 * self.linear(x[..., :1].nan_to_num(0, 0, 0).expand(x.shape)))


class Pooled(nn.Module):
    """Convolution, max pooling, linear layer; `fault` drops infinities."""

    def __init__(self, fault: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-1e30, 1e30) if self.fault else x
        return self.linear(F.max_pool2d(self.conv(x), 3).mean((2, 3)))


def judge(*args: Any, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    judge_special(make_pair(*args, **options), ledger, coverage)
    return ledger, coverage


def test_the_honest_twin_passes() -> None:
    net = make_net()
    ledger, coverage = judge(net, TwinConversion(net), IMAGE)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["special"]["cases"] == 4
    assert coverage["special"]["elements"] > 20
    assert {c.dtype for c in ledger.checks} == {"float64", "float32"}


WRONG = {
    "NaN swallowed": (lambda y: y.clamp(-1, 1), lambda y: torch.fmax(torch.fmin(y, torch.ones(())), -torch.ones(()))),
    "NaN to number": (lambda y: y, lambda y: y.nan_to_num(0.0, float("inf"), float("-inf"))),
    "infinity clipped": (lambda y: y, lambda y: y.clamp(-1e300, 1e300)),
    "sign of infinity": (lambda y: y * y, lambda y: y * y.abs()),
    "infinity to NaN": (lambda y: F.relu(y), lambda y: y * (y > 0)),
    "clipped exponential": (lambda y: y.exp(), lambda y: y.clamp(max=80).exp()),
    "NaN spread": (lambda y: y, lambda y: y + 0 * y.sum(0, keepdim=True)),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_special_values_are_caught(name: str) -> None:
    left, right = WRONG[name]
    assert not judge(Wrap(left), Wrap(left), X)[0].mismatches
    ledger, _ = judge(Wrap(left), Wrap(right), X)
    assert ("nonfinite", "output") in kinds(ledger), ledger.mismatches
    assert "given" in ledger.mismatches[0].message


def test_finite_elements_beside_them_are_judged() -> None:
    """What is finite because something else was infinite: a bound, a limit of a function."""
    ledger, _ = judge(Wrap(F.hardtanh), Wrap(lambda y: y.clamp(-1, 1 + 1e-3)), X)
    assert kinds(ledger) == {("value", "output")}


@pytest.mark.parametrize("name", [name for name in WRONG if name != "infinity clipped"])  # 1e300 is inf in float32
def test_without_float64_the_pattern_is_judged_at_the_models_precision(name: str) -> None:
    left, right = WRONG[name]
    ledger, _ = judge(Wrap(left), Wrap(right), X, about={"float64": False})
    assert ("nonfinite", "output") in kinds(ledger), ledger.mismatches
    assert {m.dtype for m in ledger.mismatches} == {"float32"}


def test_a_kernel_that_ignores_nan_is_excused_and_said() -> None:
    net = Pooled()
    conversion = to_keras(net.eval(), (IMAGE,))
    ledger, coverage = judge(net, conversion, IMAGE)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["special"]["limitations"] == ["max pooling ignores NaN"]
    assert any("NaN in output 0" in text and "max pooling" in text for text in coverage["not_checked"])


def test_beside_an_excuse_infinities_are_still_judged() -> None:
    ledger, _ = judge(Pooled(), to_keras(Pooled(fault=True).eval(), (IMAGE,)), IMAGE)
    assert ("nonfinite", "output") in kinds(ledger)


def test_what_only_looks_like_a_limitation_is_no_excuse() -> None:
    """NaN lost by something else than the kernel that is known to lose it."""
    swallowing = Wrap(lambda y: y.nan_to_num(0.0, float("inf"), float("-inf")))
    ledger, coverage = judge(Wrap(lambda y: y), to_keras(swallowing.eval(), (X,)), X)
    assert ("nonfinite", "output") in kinds(ledger)
    assert coverage["special"]["limitations"] == []


def test_softmax_in_float32_is_excused() -> None:
    net = Wrap(lambda y: F.softmax(y, -1))
    ledger, coverage = judge(net, to_keras(net.eval(), (X,)), X)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["special"]["limitations"] in ([], ["softmax in float32 keeps NaN to itself"])  # [] without oneDNN


def test_a_model_without_an_inside_is_excused_where_the_original_has_such_a_call() -> None:
    def swallow(request: Any, response: Any) -> Any:
        return replace(response, outputs=tuple(np.nan_to_num(o, nan=1.0, posinf=np.inf, neginf=-np.inf)
                                               for o in response.outputs))  # fmt: skip

    about = {"format": "saved_model", "environment": {}, "float64": False}
    blind = make_pair(Pooled(), Pooled(), IMAGE, about=about, change=swallow)
    blind.converted.trace = lambda request: ()  # type: ignore[method-assign]
    ledger, coverage = Ledger(), {}
    judge_special(blind, ledger, coverage)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["special"]["limitations"] == ["max pooling ignores NaN"]
    blind = make_pair(Wrap(F.relu), Wrap(F.relu), X, about=about, change=swallow)
    blind.converted.trace = lambda request: ()  # type: ignore[method-assign]
    judge_special(blind, ledger, coverage)
    assert ("nonfinite", "output") in kinds(ledger)


def test_integers_take_no_special_values() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids)

    net = Embedded()
    ledger, coverage = judge(net, net, torch.tensor([[0, 1], [2, 4]]))
    assert not ledger.checks
    assert "no input takes them" in coverage["not_checked"][0]


def test_one_in_each_row_but_the_last() -> None:
    (array, ids) = one_in_each_row((np.zeros((4, 5), np.float32), np.zeros(3, np.int64)), np.inf, 0)
    assert np.isinf(array).sum(1).tolist() == [1, 1, 1, 0]
    assert ids.tolist() == [0, 0, 0]


def _litert(function: Callable[[Any], Any], given: np.ndarray) -> np.ndarray:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(given.shape, tf.float32))
    model = Interpreter(model_content=tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], given)
    model.invoke()
    return np.asarray(model.get_tensor(model.get_output_details()[0]["index"]))


def _onnx(op: str, given: np.ndarray, **attributes: Any) -> np.ndarray:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"], **attributes)], "g", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return np.asarray(runtime.InferenceSession(model.SerializeToString()).run(None, {"x": given})[0])


LOSING = [entry for entry in LIMITATIONS if entry.scope == "lost"]
OF_A_LOWERING = {
    "resampling spreads NaN": (nn.Upsample(scale_factor=2, mode="bilinear"), torch.randn(3, 2, 6, 6)),
    "the error function of infinity is NaN in float64": (nn.GELU(), torch.randn(3, 8)),
    "NaN in another order, or lost": (Distances(), torch.randn(3, 8)),
}


@pytest.mark.parametrize("entry", [e for e in LIMITATIONS if e.scope != "lost"], ids=lambda e: e.what.replace(" ", "_"))
def test_what_a_lowering_does_with_nan_is_excused_and_said(entry: Any) -> None:
    """Without the entry it is a mismatch: one that no longer holds must leave the table."""
    module, example = OF_A_LOWERING[entry.what]
    conversion = to_keras(module, (example,))
    for entries, excused in ((LIMITATIONS, True), ([e for e in LIMITATIONS if e is not entry], False)):
        pair, ledger = make_pair(module, conversion, example), Ledger()
        coverage: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("isomorph.parity.judging.special.LIMITATIONS", tuple(entries))
            judge_special(pair, ledger, coverage)
        assert (not ledger.mismatches) is excused, ledger.mismatches
        assert any(entry.what in text for text in coverage.get("not_checked", ())) is excused


@pytest.mark.parametrize("entry", LOSING, ids=lambda e: f"{e.formats[0]} {e.what}".replace(" ", "_"))
def test_every_limitation_still_holds(entry: Any) -> None:
    """One that no longer holds must leave the table."""
    import tensorflow as tf

    given = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    given[0, 1, 1, 0] = np.nan
    row = np.where(np.arange(8) == 3, np.nan, np.float32(1.0)).astype(np.float32)[None]
    kernels: dict[tuple[str, str], Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        ("keras", "max pooling ignores NaN"): lambda: (given, tf.nn.max_pool(given, 2, 2, "VALID").numpy()),
        ("keras", "softmax in float32 keeps NaN to itself"): lambda: (row, tf.nn.softmax(row).numpy()),
        ("litert", "max pooling ignores NaN"): lambda: (
            given, _litert(lambda x: tf.nn.max_pool(x, 2, 2, "VALID"), given)),
        ("litert", "maximum over axes ignores NaN"): lambda: (
            given, _litert(lambda x: tf.reduce_max(x, [1, 2]), given)),
        ("onnx", "maximum over axes ignores NaN"): lambda: (given, _onnx("ReduceMax", given, axes=[1, 2])),
    }  # fmt: skip
    assert entry.loses(*kernels[entry.formats[0], entry.what]())

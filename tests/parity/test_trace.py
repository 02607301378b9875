"""Traces: every call is there, in order, with the data flow and the gradients of that call alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isomorph
from isomorph.parity.explaining.flow import Flow, TracedCall
from isomorph.parity.runners.base import ModuleTrace, Request
from isomorph.parity.runners.keras_runner import KerasRunner
from isomorph.parity.runners.keras_trace import call_keras_alone, trace_keras
from isomorph.parity.runners.torch_runner import TorchRunner, example_leaves
from isomorph.parity.runners.torch_trace import trace_torch

from .twin import TwinConversion, make_net

EXAMPLE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def runner_of(module: nn.Module, *inputs: Tensor) -> TorchRunner:
    call = example_leaves(inputs)
    return TorchRunner(module, call, call.names(module)).to_float64()


def asked(runner: TorchRunner, mode: str, *inputs: Tensor) -> Request:
    """A request with the draws and cotangents that the runner recorded."""
    request = Request(tuple(np.array(i) for i in inputs), mode)
    response = runner.respond(request)
    return replace(request, cotangents=response.cotangents, draws=response.draws, structure=response.structure)


def of(trace: tuple[TracedCall, ...], path: str, call: int = 0) -> TracedCall:
    return next(c for c in trace if (c.path, c.call, c.function) == (path, call, False))


class Twice(nn.Module):
    """The same layer twice, the second time in place, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.inner(x))


def test_every_module_call_is_there_in_order_of_completion() -> None:
    runner = runner_of(Twice(), torch.randn(3, 4))
    trace = trace_torch(runner, asked(runner, "eval", torch.randn(3, 4)))
    modules = [(c.path, c.kind, c.call) for c in trace if not c.function]
    once = [("inner.0", "Linear"), ("inner.1", "ReLU"), ("inner", "Sequential")]
    assert modules == [*((*m, 0) for m in once), *((*m, 1) for m in once), ("", "Twice", 0)]
    assert [c.kind for c in trace if c.function] == ["Tensor.add"]


def test_the_values_before_an_in_place_module_are_those_before_it() -> None:
    runner = runner_of(Twice(), torch.randn(3, 4))
    trace = trace_torch(runner, asked(runner, "eval", torch.randn(3, 4)))
    assert of(trace, "inner.0").outputs[0].min() < 0
    assert np.array_equal(of(trace, "inner.1").outputs[0], np.maximum(of(trace, "inner.0").outputs[0], 0))


def test_the_flow_leads_from_the_output_to_the_input() -> None:
    x = torch.randn(3, 4)
    runner = runner_of(Twice(), x)
    flow = Flow(trace_torch(runner, asked(runner, "eval", x)))
    (output,) = flow.outputs(flow.root)
    (source,) = flow.sources[output]
    assert flow.call_of(source).kind == "Tensor.add"
    paths = {flow.call_of(n).path for n in flow.sources[source]}
    assert paths == {"", "inner"}
    reached, stack = set(), [output]
    while stack:
        reached.add(number := stack.pop())
        stack += flow.sources[number]
    assert set(flow.inputs(flow.root)) <= reached


def test_a_gradient_is_that_of_the_call_alone() -> None:
    """x reaches the output twice: the module's own share is not the input's whole gradient."""
    x = torch.randn(3, 4)
    runner = runner_of(Twice(), x)
    request = asked(runner, "train", x)
    trace = trace_torch(runner, request)
    assert request.cotangents is not None
    whole = runner.respond(request).input_gradients["x"]
    share = of(trace, "inner").input_gradients[0]
    assert share is not None
    np.testing.assert_allclose(share + request.cotangents[0], whole, rtol=1e-12)
    assert np.array_equal(of(trace, "").output_gradients[0], request.cotangents[0])


class Writes(nn.Module):
    """Works only if its child writes into the tensor that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        self.relu(x)
        return x * 2.0


def test_a_module_that_writes_for_others_to_read_is_traced_as_it_is() -> None:
    x = torch.randn(3, 4)
    runner = runner_of(Writes(), x)
    request = asked(runner, "eval", x)
    trace = trace_torch(runner, request)
    np.testing.assert_array_equal(trace[-1].outputs[0], runner.respond(request).outputs[0])


def test_a_trace_leaves_the_module_as_it_was() -> None:
    net = make_net()
    runner = runner_of(net, EXAMPLE)
    request = asked(runner, "train", EXAMPLE)
    before = runner.respond(request)
    trace_torch(runner, request)
    after = runner.respond(request)
    assert all(np.array_equal(a, b) for a, b in zip(before.outputs, after.outputs, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in runner._module.modules())


@pytest.fixture(scope="module")
def converted() -> tuple[nn.Module, Any]:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()), nn.Flatten(), nn.Linear(48, 5))
    return net, isomorph.to_keras(net, (EXAMPLE,))


def test_keras_layers_are_called_by_the_modules_paths(converted: tuple[nn.Module, Any]) -> None:
    net, conversion = converted
    original, runner = runner_of(net, EXAMPLE), KerasRunner(conversion).to_float64()
    request = asked(original, "train", EXAMPLE)
    here, there = trace_torch(original, request), trace_keras(runner, request)
    for path in ("0.0", "0.1", "2"):
        mine, other = of(here, path), of(there, path)
        assert sorted(mine.outputs[0].shape) == sorted(other.outputs[0].shape)
        np.testing.assert_allclose(np.sort(mine.outputs[0], None), np.sort(other.outputs[0], None), atol=1e-12)
        left, right = mine.input_gradients[0], other.input_gradients[0]
        assert left is not None
        assert right is not None
        np.testing.assert_allclose(np.sort(left, None), np.sort(right, None), atol=1e-12)


def test_ops_of_foreign_keras_code_are_seen_on_tensorflow() -> None:
    net = make_net()
    runner = KerasRunner(TwinConversion(net)).to_float64()
    request = asked(runner_of(net, EXAMPLE), "eval", EXAMPLE)
    trace = trace_keras(runner, request)
    kinds = {c.kind for c in trace}
    assert {"tf.Conv2D", "tf.Relu", "tf.MatMul", "TwinModel"} <= kinds
    relu = next(c for c in trace if c.kind == "tf.Relu")
    assert relu.output_gradients[0] is not None


def test_a_keras_trace_leaves_keras_and_the_model_as_they_were() -> None:
    net = make_net()
    runner = KerasRunner(TwinConversion(net)).to_float64()
    request = asked(runner_of(net, EXAMPLE), "train", EXAMPLE)
    calls, state = (keras.Layer.__call__, keras.Operation.__call__), runner.state()
    trace_keras(runner, request)
    assert (keras.Layer.__call__, keras.Operation.__call__) == calls
    assert all(np.array_equal(array, state[name]) for name, array in runner.state().items())


def test_a_layer_called_alone_gives_what_it_gave_in_the_run(converted: tuple[nn.Module, Any]) -> None:
    net, conversion = converted
    runner = KerasRunner(conversion).to_float64()
    trace = trace_keras(runner, asked(runner_of(net, EXAMPLE), "eval", EXAMPLE))
    index = next(i for i, c in enumerate(trace) if c.path == "0.0" and not c.function)
    outputs = call_keras_alone(runner, index, trace[index].inputs)
    assert outputs is not None
    np.testing.assert_allclose(outputs[0], trace[index].outputs[0], rtol=1e-14)
    doubled = call_keras_alone(runner, index, tuple(2 * a for a in trace[index].inputs))
    assert doubled is not None
    assert not np.allclose(doubled[0], outputs[0])


def test_a_trace_without_a_flow_gets_one_from_its_values() -> None:
    a, b, c = (np.arange(6.0).reshape(2, 3) + k for k in range(3))
    flow = Flow((ModuleTrace("one", "A", 0, (a,), (b,)), ModuleTrace("two", "B", 0, (b,), (c,)),
                 ModuleTrace("", "M", 0, (a,), (c,))))  # fmt: skip
    (output,) = flow.outputs(1)
    assert flow.calls[0].parent == flow.calls[1].parent == 2
    assert flow.sources[flow.inputs(1)[0]] == flow.outputs(0)
    assert flow.sources[output] == flow.inputs(1)
    assert flow.sources[flow.outputs(2)[0]] == (output,)

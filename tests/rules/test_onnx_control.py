"""ONNX -> torch: If, Loop, Scan and sequences, beyond ONNX's own suite: gradients, parameters that bodies read, export."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from isomorph.convert.onnx_in.api import to_torch


def module_of(graph: str, opset: int = 21, **weights: np.ndarray) -> Any:
    """The module of a graph in ONNX's textual form; weights: its initializers, which train."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    onnx.checker.check_model(model)
    return to_torch(model).module


W, V = np.array([2.0, 3.0, 4.0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

BRANCHES = """g (float[N, 3] x) => (float[N, 3] y) {
    zero = Constant<value = float {0.0}>()
    total = ReduceSum<keepdims = 0>(x)
    positive = Greater(total, zero)
    y = If(positive) <
        then_branch = a () => (float[N, 3] p) { p = Mul(x, w) },
        else_branch = b () => (float[N, 3] n) { m = Neg(x)  q = Mul(m, w)  n = Add(q, w) }
    >
}"""

COUNTED = """g (float[N, 3] x, int64 count) => (float[N, 3] y, float[K, N, 3] all) {
    going = Constant<value = bool {1}>()
    y, all = Loop(count, going, x) <body = b (int64 i, bool c, float[N, 3] s) => (bool d, float[N, 3] t, float[N, 3] o) {
        d = Identity(c)
        u = Mul(s, w)
        t = Tanh(u)
        o = Identity(t)
    }>
}"""

FIVE = COUNTED.replace(", int64 count)", ")").replace("going =", "count = Constant<value = int64 {5}>()\n going =")

WHILE = """g (float[3] x) => (float[3] y) {
    zero = Constant<value = int64 {0}>()
    y, k = Loop("", "", x, zero) <body = b (int64 i, bool c, float[3] s, int64 n) => (bool d, float[3] t, int64 m) {
        t = Mul(s, w)
        one = Constant<value = int64 {1}>()
        m = Add(n, one)
        total = ReduceSum<keepdims = 0>(t)
        most = Constant<value = float {100.0}>()
        d = Less(total, most)
    }>
}"""

RNN = """g (float[T, N, 3] x, float[N, 2] h) => (float[N, 2] last, float[T, N, 2] all) {
    last, all = Scan(h, x) <num_scan_inputs = 1, body = b (float[N, 2] s, float[N, 3] e) => (float[N, 2] t, float[N, 2] o) {
        p = MatMul(e, v)
        q = Add(p, s)
        t = Tanh(q)
        o = Identity(t)
    }>
}"""


def rnn(x: torch.Tensor, h: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    steps = []
    for e in x:
        h = torch.tanh(e @ v + h)
        steps.append(h)
    return h, torch.stack(steps)


def counted(x: torch.Tensor, count: int, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    steps = []
    for _ in range(count):
        x = torch.tanh(x * w)
        steps.append(x)
    return x, torch.stack(steps)


def parameter(module: Any) -> torch.nn.Parameter:
    (found,) = module.parameters()
    return found  # type: ignore[no-any-return]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_if_takes_the_branch_and_its_gradient() -> None:
    module = module_of(BRANCHES, w=W)
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        w = parameter(module)
        w.grad = None
        y = module(x)
        assert torch.equal(y, x * w if x.sum() > 0 else -x * w + w)
        y.sum().backward()
        assert torch.equal(w.grad, torch.full((3,), 2.0 if x.sum() > 0 else 4.0))


@pytest.mark.parametrize("graph", [BRANCHES, FIVE, RNN], ids=["If", "Loop", "Scan"])
def test_bodies_hold_no_parameters(graph: str) -> None:
    """They live in the outermost module alone: double(), copies and pickles keep what the bodies read."""
    weights = {"v": V} if graph is RNN else {"w": W}
    module = module_of(graph, **weights)
    given = [randn(4, 2, 3), randn(2, 2)] if graph is RNN else [randn(2, 3)]
    assert list(module.state_dict()) == list(weights)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with torch.no_grad():
            parameter(other).mul_(0.5)
        ours, theirs = other(*given), module(*given)
        assert not torch.equal(ours[0], theirs[0])
        other.load_state_dict(module.state_dict())
        ours = other(*given)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    found = module.double()(*(g.double() for g in given))
    assert all(y.dtype == torch.float64 for y in found)


def test_loop_counts_at_run_time() -> None:
    module = module_of(COUNTED, w=W)
    x = randn(2, 3)
    for count in (0, 1, 4):
        if count:
            expected = counted(x, count, parameter(module))
            found = module(x, torch.tensor(count))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        else:
            assert module(x, torch.tensor(0))[1].shape == (0, 0, 3)  # N is not known


def test_gradients_of_loops() -> None:
    module, scan = module_of(FIVE, w=W).double(), module_of(RNN, v=V).double()
    x = randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(module, {"w": w}, (x,)), (x, parameter(module)))
    x, h = randn(4, 2, 3).double().requires_grad_(), randn(2, 2).double().requires_grad_()
    given = (x, h, parameter(scan))
    assert torch.autograd.gradcheck(lambda x, h, v: torch.func.functional_call(scan, {"v": v}, (x, h)), given)
    assert all(torch.equal(a, b) for a, b in zip(scan(x, h), rnn(*given), strict=True))


def test_while_loop() -> None:
    module = module_of(WHILE, w=W)
    assert module(torch.ones(3)).sum() >= 100


D = torch.export.Dim.DYNAMIC


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_export(strict: bool) -> None:
    """A condition, a count and a length that are known at run time only stay so."""
    branches = module_of(BRANCHES, w=W)
    program = torch.export.export(branches, (torch.ones(2, 3),), dynamic_shapes=({0: D},), strict=strict).module()
    for x in (torch.ones(4, 3), -torch.ones(5, 3)):
        assert torch.equal(program(x), branches(x))
    five = module_of(FIVE, w=W)
    program = torch.export.export(five, (torch.ones(2, 3),), dynamic_shapes=({0: D},), strict=strict).module()
    assert all(torch.equal(a, b) for a, b in zip(program(randn(4, 3)), five(randn(4, 3)), strict=True))
    scan = module_of(RNN, v=V)
    shapes = ({0: D, 1: D}, {0: D})
    program = torch.export.export(scan, (randn(4, 2, 3), randn(2, 2)), dynamic_shapes=shapes, strict=strict).module()
    given = randn(6, 3, 3), randn(3, 2)
    assert all(torch.allclose(a, b) for a, b in zip(program(*given), scan(*given), strict=True))

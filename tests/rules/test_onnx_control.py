"""ONNX -> torch: If, Loop, Scan and sequences, beyond ONNX's own suite: gradients, parameters in bodies, export."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

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
    y, all = Loop(count, going, x) <
    body = b (int64 i, bool c, float[N, 3] s) => (bool d, float[N, 3] t, float[N, 3] o) {
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
    last, all = Scan(h, x) <num_scan_inputs = 1,
    body = b (float[N, 2] s, float[N, 3] e) => (float[N, 2] t, float[N, 2] o) {
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
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(module, {"w": w}, (x,)), (x, parameter(module))
    )
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


LENGTH = """g (float[T, 3] x, float[3] s) => (float[3] y, float[K, 3] all) {
    dims = Shape(x)
    zero = Constant<value = int64 {0}>()
    count = Gather(dims, zero)
    y, all = Loop(count, "", s) <body = b (int64 i, bool c, float[3] s1) => (bool c1, float[3] t, float[3] o) {
        c1 = Identity(c)
        e = Gather(x, i)
        u = Add(e, s1)
        t = Mul(u, w)
        o = Identity(t)
    }>
}"""


def test_loop_over_a_length() -> None:
    """The number of steps is a size: a Python number in the generated code, and symbolic in torch.export."""
    module = module_of(LENGTH, w=W)
    assert "x.size(0)" in module.code
    assert "from_sizes" not in module.code
    x, s = randn(4, 3), torch.ones(3)
    expected, rows = s, []
    for e in x:
        expected = (e + expected) * parameter(module)
        rows.append(expected)
    found = module(x, s)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], torch.stack(rows))
    program = torch.export.export(module, (x, s), dynamic_shapes=({0: D}, None), strict=False).module()
    assert all(torch.allclose(a, b) for a, b in zip(program(randn(7, 3), s), module(randn(7, 3), s), strict=True))


def test_export_of_a_while_loop() -> None:
    module = module_of(WHILE, w=W)
    program = torch.export.export(module, (torch.ones(3),), strict=False).module()
    assert torch.equal(program(torch.full((3,), 0.01)), module(torch.full((3,), 0.01)))


def test_export_refuses_what_torch_cannot_hold() -> None:
    module = module_of(COUNTED, w=W)
    with pytest.raises(NotImplementedError, match="number of steps is known at run time only"):
        torch.export.export(module, (randn(2, 3), torch.tensor(2)), strict=False)


NESTED = """g (float[N, 3] x) => (float[N, 3] y) {
    none = Constant<value = float {0.0}>()
    count = Constant<value = int64 {2}>()
    y = Loop(count, "", x) <body = b (int64 i, bool c, float[N, 3] s) => (bool c1, float[N, 3] t) {
        c1 = Identity(c)
        total = ReduceSum<keepdims = 0>(s)
        up = Greater(total, none)
        t = If(up) <
            then_branch = t1 () => (float[N, 3] p) { q = Mul(s, w)  p = Neg(q) },
            else_branch = e1 () => (float[N, 3] n) {
                dims = Shape(x)
                ones = ConstantOfShape<value = float[1] {1.0}>(dims)
                u = Add(s, ones)
                n = Add(u, w)
            }
        >
    }>
}"""


def test_nested_bodies_read_the_outermost_graph() -> None:
    module = module_of(NESTED, w=W)
    x, w = torch.ones(2, 3), parameter(module)
    y = module(x)
    assert torch.equal(y, -x * w + 1 + w)
    y.sum().backward()
    assert torch.equal(w.grad, torch.zeros(3))  # -x + 1 in each of two rows
    assert module.double()(x.double()).dtype == torch.float64


SIZED = """g (float[N, 3] x, bool c) => (float[N, 3] y, float[K, 1, 3] z) {
    dims = Shape(x)
    zero = Constant<value = int64[1] {0}>()
    n = Gather(dims, zero)
    two = Constant<value = int64[1] {2}>()
    many = Mul(n, two)
    y = If(c) <
        then_branch = a () => (float[N, 3] p) { p = Slice(x, zero, n, zero) },
        else_branch = b () => (float[N, 3] q) { one = ConstantOfShape<value = float[1] {1}>(dims)  q = Mul(one, w) }
    >
    count = Squeeze(many)
    s, z = Loop(count, "", x) <body = l (int64 i, bool d, float[N, 3] e) => (bool f, float[N, 3] g, float[1, 3] h) {
        f = Identity(d)
        three = Constant<value = int64[2] {-1, 3}>()
        last = Sub(n, two)
        r = Slice(e, last, n, zero)
        g = Neg(e)
        h = ReduceSum(r, zero)
    }>
}"""


def test_sizes_go_into_bodies_as_numbers() -> None:
    module = module_of(SIZED, w=W)
    codes = "".join(m.code for m in module.modules() if hasattr(m, "code"))
    assert not re.search("from_sizes|to_ints|to_number", codes)
    x = randn(4, 3)
    y, z = module(x, torch.tensor(False))
    assert torch.equal(y, parameter(module).expand(4, 3))
    sums = x[2:].sum(0, keepdim=True)
    assert torch.equal(z, torch.stack([sums, -sums] * 4))
    shapes = ({0: D}, None)
    program = torch.export.export(module, (x, torch.tensor(True)), dynamic_shapes=shapes, strict=False).module()
    for c in (True, False):
        given = randn(6, 3), torch.tensor(c)
        assert all(torch.equal(a, b) for a, b in zip(program(*given), module(*given), strict=True))


PADDED = """g (float[N, C] x, bool c) => (float[N, M] y) {
    pads = Constant<value = int64[4] {0, 2, 0, 1}>()
    y = If(c) <
        then_branch = a () => (float[N, M] p) { p = Pad<mode = "reflect">(x, pads) },
        else_branch = b () => (float[N, M] q) { q = Pad<mode = "wrap">(x, pads) }
    >
}"""


def test_sizes_are_computed_with_inside_branches() -> None:
    """Python's max of a size is wrong there (torch 2.13): the rules use torch's."""
    module = module_of(PADDED)
    x = randn(2, 5)
    program = torch.export.export(module, (x, torch.tensor(True)), strict=False).module()
    assert torch.equal(program(x, torch.tensor(True)), x[:, [2, 1, 0, 1, 2, 3, 4, 3]])
    assert torch.equal(program(x, torch.tensor(False)), x[:, [3, 4, 0, 1, 2, 3, 4, 0]])


INLINE = """g (float[N, C] x) => (float[N, M] y) {
    one = Constant<value = int64 {1}>()
    shape = Shape(x)
    c = Gather(shape, one)
    hit = Equal(c, one)
    y = If(hit) <
        then_branch = a () => (float[N, M] p) { three = Constant<value = int64[2] {1, 3}>()  p = Tile(x, three) },
        else_branch = b () => (float[N, M] n) { n = Identity(x) }
    >
}"""


def test_conditions_of_sizes_are_no_tensors() -> None:
    """One that is known leaves only its branch, one of a dynamic size is a Python bool."""
    fixed = module_of(INLINE.replace("float[N, C] x", "float[N, 1] x"))
    assert "repeat" in fixed.code
    assert not list(fixed.children())
    module = module_of(INLINE)
    assert "from_sizes" not in module.code
    assert module(torch.ones(2, 1)).shape == (2, 3)
    assert module(torch.ones(2, 5)).shape == (2, 5)
    program = torch.export.export(module, (torch.ones(2, 5),), dynamic_shapes=({0: D, 1: D},)).module()
    assert program(torch.ones(4, 7)).shape == (4, 7)


def test_scan_of_opset_8() -> None:
    """Sample by sample, up to its own length."""
    graph = RNN.replace("float[T, N, 3] x, float[N, 2] h", "int64[B] n, float[B, T, N, 3] x, float[B, N, 2] h")
    graph = graph.replace("float[N, 2] last, float[T, N, 2] all", "float[B, N, 2] last, float[B, T, N, 2] all")
    module = module_of(graph.replace("Scan(h, x)", "Scan(n, h, x)"), opset=8, v=V)
    x, h = randn(2, 4, 2, 3), randn(2, 2, 2)
    last, steps = module(torch.tensor([4, 2]), x, h)
    for sample, length in enumerate((4, 2)):
        expected = rnn(x[sample, :length], h[sample], parameter(module))
        assert torch.equal(last[sample], expected[0])
        assert torch.equal(steps[sample, :length], expected[1])
        assert torch.equal(steps[sample, length:], torch.zeros(4 - length, 2, 2))


def test_scan_axes_and_directions() -> None:
    body = RNN.replace(
        "num_scan_inputs = 1,",
        """num_scan_inputs = 1, scan_input_axes = [-2], scan_output_axes = [1],
        scan_input_directions = [1], scan_output_directions = [1],""",
    )
    graph = body.replace("float[T, N, 3] x", "float[N, T, 3] x").replace("float[T, N, 2] all", "float[N, T, 2] all")
    module = module_of(graph, v=V)
    x, h = randn(2, 4, 3), randn(2, 2)
    last, steps = module(x, h)
    expected = rnn(x.flip(1).transpose(0, 1), h, parameter(module))
    assert torch.equal(last, expected[0])
    assert torch.equal(steps, expected[1].flip(0).transpose(0, 1))


SEQUENCES = """g (float[N, 6] x, int64 k) => (float[N, M] y, int64 n, float[N, J] z) {
    sizes = Constant<value = int64[3] {1, 2, 3}>()
    last = Constant<value = int64 {-1}>()
    parts = SplitToSequence<axis = 1>(x, sizes)
    fewer = SequenceErase(parts, last)
    more = SequenceInsert(fewer, x)
    y = ConcatFromSequence<axis = -1>(more)
    n = SequenceLength(more)
    z = SequenceAt(more, k)
}"""


def test_sequences_of_known_length_leave_no_trace() -> None:
    module = module_of(SEQUENCES)
    x = randn(2, 6)
    for k in (0, 1, -1):
        y, n, z = module(x, torch.tensor(k))
        assert torch.equal(y, torch.cat([x[:, :3], x], 1))
        assert n == 3
        assert torch.equal(z, [x[:, :1], x[:, 1:3], x][k])
    assert not any(word in module.code for word in ("without", "with_element", "length_of", "chunks"))


MAPPED = """g (seq(float[N]) s, float[N] b) => (seq(float[N]) r) {
    r = SequenceMap(s, b) <body = m (float[N] a, float[N] c) => (float[N] d) { e = Mul(a, w)  d = Add(e, c) }>
}"""


def test_sequence_map() -> None:
    module = module_of(MAPPED, w=W)
    (first, second) = module([torch.ones(3), torch.zeros(3)], torch.ones(3))
    assert torch.equal(first, parameter(module) + 1)
    assert torch.equal(second, torch.ones(3))


OPTIONAL = """g (float[N] x, optional(float[N]) o) => (float[N] y, bool a, float[N] z, bool b) {
    held = Optional(x)
    a = OptionalHasElement(held)
    y = OptionalGetElement(held)
    b = OptionalHasElement(o)
    z = If(b) <
        then_branch = p () => (float[N] t) { t = OptionalGetElement(o) },
        else_branch = q () => (float[N] e) { e = Neg(x) }
    >
}"""


def test_optionals() -> None:
    """One made of a tensor is that tensor; one that comes from outside may be None."""
    module = module_of(OPTIONAL)
    assert module.code.count("has_element(") == 1
    x, o = torch.ones(2), torch.zeros(2)
    y, a, z, b = module(x, o)
    assert y is x
    assert (bool(a), bool(b)) == (True, True)
    assert z is o
    assert torch.equal(module(x, None)[2], -x)
    assert not module(x, None)[3]


def test_an_empty_optional_is_known() -> None:
    kind = helper.make_tensor_type_proto(1, ["N"])
    nodes = [helper.make_node("Optional", [], ["o"], type=kind), helper.make_node("OptionalHasElement", ["o"], ["y"])]
    given, made = (helper.make_tensor_value_info("x", 1, ["N"]), helper.make_tensor_value_info("y", 9, []))
    graph = helper.make_graph(nodes, "g", [given], [made])
    module = to_torch(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)).module
    assert not module(torch.ones(2))


def test_a_loop_without_an_end_is_refused() -> None:
    from isomorph.convert.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="it has no end"):
        module_of(COUNTED.replace("Loop(count, going, x)", 'Loop("", "", x)'), w=W)

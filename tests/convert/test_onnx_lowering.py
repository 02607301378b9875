"""From an ONNX graph to generated code: sizes stay numbers, constants are computed, bodies read outer values."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import onnx
import pytest
import torch
from onnx import parser

from isomorph.convert.errors import UnsupportedError
from isomorph.convert.onnx_in import registry
from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.operands import constant_of, ints, leaf


def module(text: str, opset: int = 21) -> Any:
    """The torch module of a model in ONNX's text form, shapes inferred."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
    return to_torch(onnx.shape_inference.infer_shapes(parser.parse_model(header + text), data_prop=True)).module


CHAIN = """g (float[b,s,6] x) => (float[b,s,2,3] y) {
    shape = Shape(x)
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    axis = Constant<value_ints = [0]>()
    heads = Constant<value_ints = [2, 3]>()
    b = Gather(shape, zero)
    s = Gather(shape, one)
    b1 = Unsqueeze(b, axis)
    s1 = Unsqueeze(s, axis)
    target = Concat<axis = 0>(b1, s1, heads)
    y = Reshape(x, target)
}"""


def test_shape_arithmetic_becomes_numbers() -> None:
    made = module(CHAIN)
    assert "from_sizes" not in made.code
    assert "constants" not in made.code
    assert made(torch.ones(4, 5, 6)).shape == (4, 5, 2, 3)
    dims = {"x": {0: torch.export.Dim("b"), 1: torch.export.Dim("s")}}
    exported = torch.export.export(made, (torch.ones(4, 5, 6),), dynamic_shapes=dims).module()
    assert exported(torch.ones(7, 3, 6)).shape == (7, 3, 2, 3)


def test_constants_are_computed_once() -> None:
    made = module("""g (float[2] x) => (float[2] y) {
        a = Constant<value_floats = [1.0, 2.0]>()
        b = Mul(a, a)
        c = Add(b, a)
        y = Add(x, c)
    }""")
    assert made.code.count("+") == 1
    assert [tuple(t.tolist()) for t in made.buffers()] == [(2.0, 6.0)]
    assert made.state_dict() == {}, "a constant is no part of the state"


def test_a_model_may_have_a_module_of_its_own_for_constants() -> None:
    made = module("""g (float[2] x) => (float[2] y) <float[2] "constants.c0" = {3.0, 4.0}> {
        c = Constant<value_floats = [1.0, 2.0]>()
        a = Add(x, c)
        y = Mul(a, "constants.c0")
    }""")
    assert made(torch.zeros(2)).tolist() == [3, 8]
    assert len(made.state_dict()) == 1


def test_an_output_may_be_a_size_or_a_constant() -> None:
    made = module("""g (float[b,3] x) => (int64[2] n, int64[1] c) {
        n = Shape(x)
        c = Constant<value_ints = [7]>()
    }""")
    n, c = made(torch.ones(5, 3))
    assert (n.tolist(), c.tolist()) == ([5, 3], [7])


BRANCHES = """g (float[3] x, bool flag) => (float[3] y) <float[3] w = {1.0, 2.0, 3.0}> {
    y = If(flag) <then_branch = a () => (float[3] p) { p = Mul(x, w) },
                  else_branch = b () => (float[3] q) { q = Add(x, w) }>
}"""


def test_a_body_reads_the_parameters_of_the_outer_module() -> None:
    made = module(BRANCHES)
    assert list(dict(made.named_parameters())) == ["w"]
    x = torch.tensor([1.0, 1.0, 1.0])
    assert made(x, torch.tensor(True)).tolist() == [1, 2, 3]
    out = made(x, torch.tensor(False))
    assert out.tolist() == [2, 3, 4]
    out.sum().backward()
    assert made.w.grad.tolist() == [1, 1, 1]


def test_a_program_can_be_copied_pickled_and_widened() -> None:
    made = module(BRANCHES)
    x = torch.ones(3)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other(x, torch.tensor(True)).tolist() == [1, 2, 3]
        assert next(other.parameters()) is not next(made.parameters())
    wide = copy.deepcopy(made).double()
    assert wide(x.double(), torch.tensor(True)).dtype == torch.float64
    assert list(inspect.signature(made.forward).parameters) == ["x", "flag"]


def test_inputs_bear_legal_names() -> None:
    made = module('g (float[2] "x:0", float[2] "x/1", float[2] "class", float[2] "1st") => (float[2] y) '
                  '{ y = Sum("x:0", "x/1", "class", "1st") }')  # fmt: skip
    names = list(inspect.signature(made.forward).parameters)
    assert len(set(names)) == 4
    assert all(name.isidentifier() for name in names)
    assert made(*[torch.ones(2)] * 4).tolist() == [4, 4]


def test_all_ops_without_a_rule_are_told_at_once() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.example" : 1]>
    g (float[2] x) => (float[2] y) { a = com.example.First(x)  b = com.example.Second(a)  y = com.example.First(b) }"""
    with pytest.raises(UnsupportedError) as caught:
        to_torch(parser.parse_model(text))
    assert "First" in str(caught.value)
    assert "Second" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_newest_version_not_above_the_opset_serves() -> None:
    """Softmax-1 flattens, Softmax-13 does not: opset 12 means the first, 21 the second."""
    text = "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 1>(x) }"
    x = torch.randn(2, 3, 4)
    assert torch.allclose(module(text, 12)(x).sum(dim=(1, 2)), torch.ones(2))
    assert torch.allclose(module(text, 21)(x).sum(dim=1), torch.ones(2, 4))


def test_a_second_rule_for_a_version_is_an_error() -> None:
    registry.load_rules()
    with pytest.raises(ValueError, match="two rules"):
        registry.rule("Relu", since=registry.find("", "Relu", 14).since)(lambda x: x)  # type: ignore[union-attr]


def test_ints_of_a_tensor_and_of_a_number() -> None:
    assert ints(torch.tensor([1, 2])) == (1, 2)
    assert ints((3, 4)) == (3, 4)
    assert ints(None) is None
    assert constant_of(torch.ones(2)) is not None


def test_a_leaf_computes_on_tensors() -> None:
    @leaf
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert twice(torch.ones(1)).item() == 2

"""ONNX -> torch: what exporters write to compute shapes becomes Python numbers; no tensor is made for a size."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from isomorph.convert.onnx_in.api import to_torch

TENSORS = re.compile(r"from_sizes|shape_tensor|to_ints|to_number|progression|reshape_to|broadcast|slice_by|item\(")

HEAD = "g (float[N, 12] x) => (float[] y) {"
ALL = """
    s = Shape(x)
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    two = Constant<value = int64 {2}>()
    v0 = Constant<value = int64[1] {0}>()
    v1 = Constant<value = int64[1] {1}>()
    v2 = Constant<value = int64[1] {2}>()
    rest = Constant<value = int64[1] {-1}>()
    n = Gather(s, zero)
    n1 = Unsqueeze(n, v0)
"""
# what follows `ALL`, and what the generated code has to show
CHAINS = {
    "heads": ("three = Constant<value = int64[2] {3, 4}>()  t = Concat<axis = 0>(n1, three)  y = Reshape(x, t)", ""),
    "zero": ("t = Concat<axis = 0>(v0, rest)  u = Unsqueeze(x, v2)  y = Reshape(u, t)", "flatten"),
    "half": ("h = Div(n, two)  h1 = Unsqueeze(h, v0)  y = Slice(x, v0, h1, v0)", "// 2"),
    "last": ("h = Div(n, two)  m = Neg(h)  m1 = Unsqueeze(m, v0)  y = Slice(x, m1, n1, v0)", ""),
    "backwards": ("a = Sub(n1, v1)  b = Sub(v0, n1)  c = Sub(b, v1)  y = Slice(x, a, c, v0, rest)", "flip"),
    "float": (
        """f = Cast<to = 1>(n1)  half = Constant<value = float {0.5}>()  g = Mul(f, half)  h = Floor(g)
        e = Cast<to = 7>(h)  y = Slice(x, v0, e, v0)""",
        "0.5 * size",
    ),
    "third": (
        """f = Cast<to = 1>(n1)  third = Constant<value = float {0.7}>()  g = Mul(f, third)  h = Ceil(g)
        e = Cast<to = 7>(h)  y = Slice(x, v0, e, v0)""",
        "rounded",
    ),
    "scaled": (
        """f = Cast<to = 1>(s)  by = Constant<value = float {2.0}>()  g = Mul(f, by)  h = Floor(g)
        e = Cast<to = 7>(h)  value = Constant<value = float {1.0}>()  o = Expand(value, e)
        z = ReduceSum<keepdims = 0>(x)  y = Mul(o, z)""",
        "2 * ",
    ),
    "expand": (
        """m = Constant<value = int64[2] {-1, 12}>()  hit = Equal(m, rest)  ones = Constant<value = int64[2] {1, 1}>()
        t = Where(hit, s, m)  q = Constant<value = float[1,12] {1,2,3,4,5,6,7,8,9,10,11,12}>()  e = Expand(q, t)
        y = Add(e, x)""",
        "expand",
    ),
    "torch_expand": (
        """hit = Equal(s, rest)  k = ConstantOfShape<value = int64[1] {1}>(v2)  t = Where(hit, k, s)
        q = Constant<value = float[1,1] {3}>()  e = Expand(q, t)  y = Add(e, x)""",
        "expand",
    ),
    "range": ("r = Range(zero, n, one)  f = Cast<to = 1>(r)  c = Unsqueeze(f, v1)  y = Add(x, c)", "torch.arange"),
    "odd": ("r = Range(one, n, two)  y = Gather(x, r)", "integers"),
    "pads": (
        """m = Constant<value = int64 {5}>()  a = Mod(n, m)  b = Sub(m, a)  c = Mod(b, m)  c1 = Unsqueeze(c, v0)
        p = Concat<axis = 0>(v0, v0, c1, v1)  pairs = Constant<value = int64[2] {-1, 2}>()  q = Reshape(p, pairs)
        low = Constant<value = int64[1] {-9}>()  r = Slice(q, rest, low, v0, rest)  t = Transpose<perm = [1, 0]>(r)
        flat = Reshape(t, rest)  e = Cast<to = 6>(flat)  w = Cast<to = 7>(e)  y = Pad(x, w)""",
        "% 5",
    ),
    "clamped": (
        """four = Constant<value = int64 {4}>()  a = Min(n, four)  b = Max(a, zero)  b1 = Unsqueeze(b, v0)
        y = Slice(x, v0, b1, v0)""",
        "sym_min",
    ),
    "split": ("a, b = Split<axis = 0, num_outputs = 2>(s)  t = Concat<axis = 0>(b, a)  y = Reshape(x, t)", ""),
    "written": (
        """at = Constant<value = int64[1, 1] {1}>()  six = Constant<value = int64[1] {6}>()
        t = ScatterND(s, at, six)  u = Concat<axis = 0>(t, rest)  y = Reshape(x, u)""",
        "",
    ),
    "product": ("p = ReduceProd<keepdims = 1>(s)  y = Reshape(x, p)", "12"),
    "size": ("z = Size(x)  z1 = Unsqueeze(z, v0)  y = Reshape(x, z1)", ""),
    "numbered": (
        """k = ConstantOfShape<value = float[1] {1.0}>(n1)  p = NonZero(k)  q = Squeeze(p, v0)  y = Gather(x, q)""",
        "torch.arange",
    ),
    "largest": ("m = ReduceMax<keepdims = 1>(n1)  t = Concat<axis = 0>(m, rest)  y = Reshape(x, t)", ""),
    "of_shape": ("k = ConstantOfShape<value = float[1] {2.0}>(s)  y = Mul(k, x)", "expand"),
    "inferred": (
        """t = Constant<value = int64[3] {-1, 3, 4}>()  r = Reshape(x, t)  s3 = Shape(r)  m = Gather(s3, v0)
        o = Concat<axis = 0>(m, v1, v1)  q = Constant<value = float[1,1,1] {3}>()  e = Expand(q, o)  y = Add(r, e)""",
        "x.size(0)",
    ),
}


def module_of(body: str) -> tuple[Any, Any]:
    text = f'<ir_version: 8, opset_import: ["": 18]> {HEAD} {ALL} {body} }}'
    model = onnx.parser.parse_model(text)
    return to_torch(model).module, model


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str) -> None:
    body, shown = CHAINS[name]
    module, model = module_of(body)
    assert not TENSORS.search(module.code), module.code
    assert shown in module.code
    program = torch.export.export(
        module, (torch.ones(6, 12),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    for rows in (6, 7):
        x = np.arange(rows * 12, dtype=np.float32).reshape(rows, 12)
        (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
        for run in (module, program):
            found = run(torch.from_numpy(x)).detach().numpy()
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", CHAINS)
def test_new_tensors_lie_where_the_input_lies(name: str) -> None:
    """The meta device refuses operands on the CPU."""
    module, _ = module_of(CHAINS[name][0])
    assert module.to("meta")(torch.ones(6, 12, device="meta")).device.type == "meta"


def test_module_follows_dtype() -> None:
    """A tensor made of a dynamic shape is of the module's dtype, not of float32."""
    module, _ = module_of(CHAINS["of_shape"][0])
    assert module.double()(torch.ones(2, 12).double()).dtype == torch.float64
    alone, _ = module_of("y = ConstantOfShape<value = float[1] {2.0}>(s)")
    assert alone.double()(torch.ones(2, 12).double()).dtype == torch.float64


def test_a_number_of_run_time_among_sizes() -> None:
    """One integer that is known when it runs does not turn the other dims into tensors."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N, 12] x, int64 k) => (float[] y) {
        s = Shape(x)
        zero = Constant<value = int64[1] {0}>()
        n = Gather(s, zero)
        k1 = Unsqueeze(k, zero)
        rest = Constant<value = int64[1] {-1}>()
        t = Concat<axis = 0>(n, k1, rest)
        y = Reshape(x, t)
    }"""
    module = to_torch(onnx.parser.parse_model(text)).module
    assert not re.search(r"from_sizes|reshape_to", module.code)
    assert module(torch.ones(5, 12), torch.tensor(3)).shape == (5, 3, 4)


def test_sizes_as_values() -> None:
    """Where a size is data it is a tensor of the type that ONNX says."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N, 12] x) => (int64[2] s, int32 n, float f, bool even) {
        s = Shape(x)
        zero = Constant<value = int64 {0}>()
        m = Gather(s, zero)
        n = Cast<to = 6>(m)
        f = Cast<to = 1>(m)
        two = Constant<value = int64 {2}>()
        rest = Mod(m, two)
        even = Equal(rest, zero)
    }"""
    module = to_torch(onnx.parser.parse_model(text)).module
    s, n, f, even = module(torch.ones(5, 12))
    assert torch.equal(s, torch.tensor([5, 12]))
    assert (n.dtype, int(n), n.shape) == (torch.int32, 5, ())
    assert (f.dtype, float(f)) == (torch.float32, 5.0)
    assert (even.dtype, bool(even)) == (torch.bool, False)


def test_sizes_of_an_unknown_rank() -> None:
    """Single dims, and their number, are Python numbers though the rank is known at run time only."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[M] flat, int64[R] dims) => (float[] y, int64 rank) {
        x = Reshape(flat, dims)
        s = Shape(x)
        last = Constant<value = int64[1] {-1}>()
        n = Gather(s, last)
        t = Concat<axis = 0>(last, n)
        y = Reshape(x, t)
        r = Shape(s)
        rank = Squeeze(r)
    }"""
    module = to_torch(onnx.parser.parse_model(text)).module
    assert "shape_tensor" not in module.code
    y, rank = module(torch.arange(24.0), torch.tensor([2, 3, 4]))
    assert torch.equal(y, torch.arange(24.0).reshape(6, 4))
    assert torch.equal(rank, torch.tensor(3))

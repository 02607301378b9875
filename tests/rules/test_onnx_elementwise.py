"""ONNX rules of arithmetic, functions, comparison and reduction: what the ONNX project's own tests leave out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .onnx_node import agree, converted, element, model_of, run

F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(F32)
Y = RNG.normal(size=(2, 3, 4)).astype(F32)
V = RNG.normal(size=3).astype(F32)  # of the middle dim
B = RNG.integers(0, 2, (2, 3, 4)).astype(bool)
BV = np.array([True, False, True])
MIDDLE = {"broadcast": 1, "axis": 1}


def along(v: np.ndarray) -> np.ndarray:
    return v[:, None]


def flat_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.reshape(len(x), -1))
    return (e / e.sum(1, keepdims=True)).reshape(x.shape)


def flat_hardmax(x: np.ndarray) -> np.ndarray:
    made = np.zeros((len(x), x[0].size), x.dtype)
    made[np.arange(len(x)), x.reshape(len(x), -1).argmax(1)] = 1
    return made.reshape(x.shape)


# op, opset, inputs, attributes, what it gives: versions of ops that the suite has no case of
OLD: list[tuple[str, int, tuple[Any, ...], dict[str, Any], Any]] = [
    ("Add", 6, (X, V), MIDDLE, X + along(V)),
    ("Sub", 6, (X, V), MIDDLE, X - along(V)),
    ("Mul", 5, (X, V), MIDDLE, X * along(V)),
    ("Div", 6, (X, V), MIDDLE, X / along(V)),
    ("Add", 6, (X, Y[0]), {"broadcast": 1}, X + Y[0]),
    ("Add", 6, (X, Y[0, :, :1]), {"broadcast": 1, "axis": -2}, X + Y[0, :, :1]),
    ("Pow", 5, (abs(X), V), MIDDLE, abs(X) ** along(V)),
    ("Equal", 5, (np.int32([[1, 2], [3, 4]]), np.int32([1, 3])), {"broadcast": 1, "axis": 0}, [[True, False]] * 2),
    ("Greater", 5, (X, V), MIDDLE, along(V) < X),
    ("Less", 5, (X, V), MIDDLE, along(V) > X),
    ("And", 5, (B, BV), MIDDLE, B & along(BV)),
    ("Or", 5, (B, BV), MIDDLE, B | along(BV)),
    ("Xor", 5, (B, BV), MIDDLE, B ^ along(BV)),
    ("PRelu", 6, (X, V), {}, np.where(X > 0, X, along(V) * X)),
    ("PRelu", 5, (X, V[:1]), {}, np.where(X > 0, X, V[0] * X)),
    ("Selu", 5, (X,), {}, F32(1.0507) * np.where(X > 0, X, F32(1.6732) * np.expm1(X))),
    ("Softmax", 5, (X,), {}, flat_softmax(X)),
    ("Softmax", 11, (X,), {"axis": -2}, flat_softmax(X.reshape(2, 12)).reshape(X.shape)),
    ("LogSoftmax", 11, (X,), {}, np.log(flat_softmax(X))),
    ("Hardmax", 11, (X,), {}, flat_hardmax(X)),
    ("Clip", 6, (X,), {"max": 0.5}, np.minimum(X, 0.5)),
    ("Clip", 5, (X,), {}, X),
    ("Cast", 5, (X,), {"to": "INT32"}, X.astype(np.int32)),
    ("Gemm", 6, (X[0], Y[0].T.copy(), V), {"broadcast": 1, "alpha": 2.0}, 2 * X[0] @ Y[0].T + V),
    ("ReduceL1", 5, (X,), {"axes": [1]}, abs(X).sum(1, keepdims=True)),
    ("ReduceL2", 5, (X,), {"axes": [-1], "keepdims": 0}, np.sqrt((X * X).sum(-1))),
    ("ReduceLogSum", 11, (abs(X),), {}, np.log(abs(X).sum(keepdims=True))),
    ("ReduceLogSumExp", 13, (X,), {"axes": [0, 2]}, np.log(np.exp(X).sum((0, 2), keepdims=True))),
    ("ReduceProd", 5, (X,), {"axes": [2, 0], "keepdims": 0}, X.prod((0, 2))),
    ("ReduceSumSquare", 11, (X,), {"keepdims": 0}, (X * X).sum()),
    ("ReduceMean", 5, (X,), {"axes": [1, 2]}, X.mean((1, 2), keepdims=True)),
    ("ArgMax", 5, (X,), {"axis": 1, "keepdims": 0}, X.argmax(1)),
    ("Max", 6, (X, Y), {}, np.maximum(X, Y)),
    ("Mean", 6, (X, Y), {}, (X + Y) / 2),
]


@pytest.mark.parametrize("hidden", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("row", OLD, ids=[f"{op}-{opset}-{i}" for i, (op, opset, *_) in enumerate(OLD)])
def test_an_older_version(row: Any, hidden: bool) -> None:
    op, opset, arrays, attributes, wanted = row
    wanted = np.asarray(wanted)
    model = model_of(op, *arrays, opset=opset, hidden=hidden, gives=element(wanted), **attributes)
    agree(run(model, *arrays)[0], wanted, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------- all element types
ONE = "Abs Neg Sign Relu IsNaN IsInf Not BitwiseNot Exp Log Sqrt Floor Ceil Round Reciprocal Sigmoid Softmax Hardmax"
ONE += " ReduceSum ReduceMean ReduceProd ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum"
ONE += " ReduceLogSumExp ArgMax ArgMin Erf Shrink"
TWO = "Add Sub Mul Div Mod Pow Max Min BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Less LessOrEqual Greater"
TWO += " GreaterOrEqual And Or Xor Sum Mean PRelu"
OTHER = "Clip CumSum CumProd MatMul Gemm Einsum Where"
# reason -> (op, type) in which onnx.reference is no measure
WRONG = {
    ("ReduceSumSquare", "uint32"): "widens to 64 bits",
    ("ReduceSumSquare", "int32"): "widens to 64 bits",
    ("ReduceL2", "uint64"): "wraps around before the root",
    ("ReduceMean", "uint64"): "wraps around before the division",
    ("Gemm", "uint64"): "goes through float64",
    ("Erf", "double"): "computes in float32",
}
RTOL = {"float16": 4e-3, "bfloat16": 4e-2, "float": 1e-5, "double": 1e-12}


def drawn(name: str, shape: tuple[int, ...]) -> Any:
    """Small numbers, negative ones too; some uint64 above the largest int64. None: a type numpy has no name for."""
    rng = np.random.default_rng(1)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if name.startswith("uint64"):
        return rng.integers(1, 9, shape).astype(np.uint64) + rng.integers(0, 2, shape).astype(np.uint64) * 2**63
    if name in ("uint8", "uint16", "uint32"):
        return rng.integers(1, 9, shape).astype(name)
    if name in ("int8", "int16", "int32", "int64"):
        return (rng.integers(1, 9, shape) * rng.choice([-1, 1], shape)).astype(name)
    kinds = {"float": 1, "double": 11, "float16": 10, "bfloat16": 16}
    if name not in kinds:
        return None
    return rng.uniform(0.1, 0.9, shape).astype(helper.tensor_dtype_to_np_dtype(kinds[name]))


def inputs_of(op: str, name: str) -> tuple[list[Any], dict[str, Any]]:
    x = drawn(name, (2, 3))
    if op == "BitShift":
        return [x, np.arange(6).reshape(2, 3).astype(x.dtype)], {"direction": "RIGHT"}
    if op == "Mod":
        return [x, x[::-1].copy()], {"fmod": int(name in RTOL)}
    if op == "Pow":
        return [x, np.int64([[0, 1, 2]]).astype(x.dtype)], {}
    if op == "Clip":
        return [x, np.array(2, x.dtype), np.array(5, x.dtype)], {}
    if op == "Where":
        return [np.array([[True, False, True]]), x, x[::-1].copy()], {}
    if op in ("CumSum", "CumProd"):
        return [x, np.array(1)], {"exclusive": 1}
    if op in ("MatMul", "Gemm", "Einsum"):
        return [x, drawn(name, (3, 2))], {"equation": "ij, jk -> ik"} if op == "Einsum" else {}
    return ([x, x[::-1].copy()] if op in TWO.split() else [x]), {}


def types_of(op: str) -> list[str]:
    schema = onnx.defs.get_schema(op)
    data = schema.inputs[1 if op == "Where" else 0].type_str
    names = next(
        ([t[7:-1] for t in c.allowed_type_strs] for c in schema.type_constraints if c.type_param_str == data), []
    )
    return [n for n in names or [data[7:-1]] if drawn(n, (1,)) is not None]


@pytest.mark.parametrize("op", [*ONE.split(), *TWO.split(), *OTHER.split()])
def test_every_type_of_the_schema(op: str) -> None:
    """Types that torch hardly computes with, such as uint64, too."""
    for name in types_of(op):
        arrays, attributes = inputs_of(op, name)
        model = model_of(op, *arrays, **attributes)
        with warnings.catch_warnings():  # numpy overflows as integers do
            warnings.simplefilter("ignore")
            wanted = ReferenceEvaluator(model).run(None, {f"x{i}": a for i, a in enumerate(arrays)})[0]
        (found,) = run(model, *arrays)
        if (op, name) not in WRONG:
            agree(found, wanted, rtol=RTOL.get(name, 0), atol=RTOL.get(name, 0))
        else:
            assert found.shape == np.shape(wanted)


# ----------------------------------------------------------------------------------------------------------- integers
INTEGERS: list[tuple[str, Any, dict[str, Any], Any]] = [
    ("Div", (np.int32([7, -7, 7, -7]), np.int32([2, 2, -2, -2])), {}, np.int32([3, -3, -3, 3])),
    ("Div", (np.uint64([2**64 - 1, 2**63, 7]), np.uint64([2, 2**63 + 1, 2**64 - 1])), {}, np.uint64([2**63 - 1, 0, 0])),
    ("Mod", (np.int32([7, -7, 7, -7]), np.int32([2, 2, -2, -3])), {}, np.int32([1, 1, -1, -1])),
    ("Mod", (np.int32([7, -7, 7, -7]), np.int32([2, 2, -2, -3])), {"fmod": 1}, np.int32([1, -1, 1, -1])),
    ("Mod", (np.uint64([2**64 - 1, 2**63]), np.uint64([10, 2**63 + 1])), {}, np.uint64([5, 2**63])),
    ("Pow", (np.int32([2, 3]), np.float32([0.5, 2])), {}, np.int32([1, 9])),
    ("Pow", (np.float32([2, 3]), np.int64([3, 2])), {}, np.float32([8, 9])),
    ("Pow", (np.float32([2, 3]), np.uint16([3, 2])), {}, np.float32([8, 9])),
    ("Pow", (np.float32([2, 3]), np.float64([3, 2])), {}, np.float32([8, 9])),
    ("Max", (np.uint64([2**63, 1]), np.uint64([2, 2**64 - 1])), {}, np.uint64([2**63, 2**64 - 1])),
    ("BitShift", (np.uint64([2**63, 2**63, 8]), np.uint64([63, 64, 0])), {"direction": "RIGHT"}, np.uint64([1, 0, 8])),
    ("BitShift", (np.uint16([2**15, 1]), np.uint16([1, 16])), {"direction": "LEFT"}, np.uint16([0, 0])),
    ("BitShift", (np.int8([-8, -8, 8]), np.int8([1, 9, 9])), {"direction": "RIGHT"}, np.int8([-4, -1, 0])),
    ("ReduceSum", (np.int32([2**31 - 1, 1]),), {"keepdims": 0}, np.int32(-(2**31))),
    ("CumSum", (np.int32([2**31 - 1, 1]), np.array(0)), {}, np.int32([2**31 - 1, -(2**31)])),
    (
        "Clip",
        (np.uint64([0, 2**63, 2**64 - 1]), np.uint64(5), np.uint64(2**63 + 1)),
        {},
        np.uint64([5, 2**63, 2**63 + 1]),
    ),
]


@pytest.mark.parametrize("row", INTEGERS, ids=[f"{row[0]}-{i}" for i, row in enumerate(INTEGERS)])
def test_integers_at_their_limits(row: Any) -> None:
    op, arrays, attributes, wanted = row
    agree(run(model_of(op, *arrays, **attributes), *arrays)[0], wanted)


def test_modulo_of_floats_takes_the_sign_of_the_divisor_at_zero_too() -> None:
    a, b = np.float32([0.0, -0.0, 5, -5, 5, -4]), np.float32([-2, 2, np.inf, np.inf, -np.inf, 2])
    (found,) = run(model_of("Mod", a, b), a, b)
    np.testing.assert_array_equal(found, np.float32([-0.0, 0.0, 5, np.inf, -np.inf, 0.0]))
    np.testing.assert_array_equal(np.signbit(found), [True, False, False, False, True, False])


# ------------------------------------------------------------------------------------------------ gradients, precision
INSIDE = "Asin Acos Atan Atanh Asinh Cos Sin Tan Cosh Sinh Erf Exp Tanh Sigmoid Gelu"  # of what lies in (-1, 1)
ANY = "Mish Softplus Softsign Celu Elu Selu Swish LeakyRelu Softmax LogSoftmax"
POSITIVE = "Log Sqrt Reciprocal ReduceLogSum ReduceProd ReduceL2 ReduceLogSumExp"
SMOOTH: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((op, (X / 4,), {}) for op in INSIDE.split()),
    *((op, (X,), {}) for op in ANY.split()),
    *((op, (abs(X) + 0.5,), {}) for op in POSITIVE.split()),
    ("Acosh", (abs(X) + 1.5,), {}),
    ("Gelu", (X,), {"approximate": "tanh"}),
    ("HardSigmoid", (X,), {}),
    ("HardSwish", (X,), {}),
    ("Pow", (abs(X) + 0.5, Y), {}),
    ("Mul", (X, Y), {}),
    ("Div", (X, Y + 3 * np.sign(Y)), {}),
    ("PRelu", (X, V[:, None]), {}),
    ("SwiGLU", (X, Y), {}),
    ("CumSum", (X, np.array(1)), {"reverse": 1, "exclusive": 1}),
    ("CumProd", (X, np.array(-1)), {}),
    ("ReduceMax", (X,), {}),
    ("ReduceMean", (X,), {"keepdims": 0}),
    ("Max", (X, Y), {}),
    ("Where", (B, X, Y), {}),
    ("Clip", (X, F32(-0.5), F32(0.7)), {}),
    ("Det", (X[:, :, :3],), {}),
    ("MatMul", (X, Y[0].T.copy()), {}),
    ("Gemm", (X[0], Y[0], V), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", (X, Y), {"equation": "bij,bkj->bik"}),
    ("Mod", (X, abs(Y) + 2), {"fmod": 1}),
]


@pytest.mark.parametrize("row", SMOOTH, ids=[f"{row[0]}-{i}" for i, row in enumerate(SMOOTH)])
def test_float64_all_the_way_and_right_derivatives(row: Any) -> None:
    op, arrays, attributes = row
    module = converted(model_of(op, *arrays, **attributes)).double()
    given = [torch.tensor(np.asarray(a, np.float64) if np.asarray(a).dtype == F32 else a) for a in arrays]
    for tensor in given:
        tensor.requires_grad_(tensor.is_floating_point())
    assert module(*given).dtype == torch.float64
    assert torch.autograd.gradcheck(module, given)


@pytest.mark.parametrize("row", SMOOTH, ids=[f"{row[0]}-{i}" for i, row in enumerate(SMOOTH)])
def test_ranks_that_are_known_at_run_time_only(row: Any) -> None:
    op, arrays, attributes = row
    wanted = run(model_of(op, *arrays, **attributes), *arrays)[0]
    agree(run(model_of(op, *arrays, hidden=True, **attributes), *arrays)[0], wanted)


def test_the_norm_has_a_derivative_where_it_is_zero() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    converted(model_of("ReduceL2", np.zeros((2, 3), F32)))(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------- export, the code it makes
FREE: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Add", (X, F32(1.5)), {}, (1,)),
    ("Clip", (X, F32(0), F32(6)), {}, (1, 2)),
    ("PRelu", (X, V[:, None]), {}, (1,)),
    ("Softmax", (X,), {}, ()),
    ("Hardmax", (X,), {}, ()),
    ("ReduceMean", (X, np.int64([1, 2])), {}, (1,)),
    ("ReduceMax", (X, np.int64([-1])), {"keepdims": 0}, (1,)),
    ("ArgMax", (X,), {"axis": 1, "select_last_index": 1}, ()),
    ("CumSum", (X, np.array(1)), {"exclusive": 1}, (1,)),
    ("MatMul", (X, Y[0].T.copy()), {}, (1,)),
    ("QuantizeLinear", (X, np.abs(V), np.int8([1, 2, 3])), {"axis": 1}, (1, 2)),
    ("DynamicQuantizeLinear", (X,), {}, ()),
    ("Cast", (X,), {"to": 7}, ()),
    ("Shrink", (X,), {"bias": 0.1}, ()),
    ("RandomNormalLike", (X,), {}, ()),
    ("Bernoulli", (abs(X) / 9,), {}, ()),
]


@pytest.mark.parametrize("row", FREE, ids=[row[0] for row in FREE])
def test_it_can_be_exported_with_a_free_batch(row: Any) -> None:
    op, arrays, attributes, constants = row
    outputs = 3 if op == "DynamicQuantizeLinear" else 1
    model = model_of(op, *arrays, constants=constants, dims={0: ("batch", 3, 4)}, outputs=outputs, **attributes)
    module = converted(model).eval()
    given = torch.tensor(arrays[0])
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (given,), dynamic_shapes=({0: batch},)).module()
    wide = torch.tensor(np.concatenate([arrays[0]] * 3))
    if op in ("RandomNormalLike", "Bernoulli"):
        assert program(wide).shape == wide.shape
    else:
        torch.testing.assert_close(program(wide), module(wide))


@pytest.mark.parametrize(
    ("op", "arrays", "attributes", "code"),
    [
        ("Add", (X, F32(1.5)), {}, "x0 + 1.5"),
        ("Sub", (X, F32(1.5)), {}, "x0 - 1.5"),
        ("Div", (np.int64([4]), np.int64([2])), {}, "torch.div(x0, 2, rounding_mode = 'trunc')"),
        ("Pow", (X, F32([2.0])), {}, "torch.pow(x0, 2.0)"),
        ("Clip", (X, F32(0), F32(6)), {}, "torch.nn.functional.relu6(x0, inplace = False)"),
        ("ReduceMean", (X, np.int64([-1])), {}, "torch.mean(x0, (2,), True)"),
        ("Greater", (X, F32(0)), {}, "x0 > 0.0"),
    ],
)
def test_the_code_is_plain(op: str, arrays: Any, attributes: Any, code: str) -> None:
    positions = tuple(range(1, len(arrays)))
    assert code in converted(model_of(op, *arrays, constants=positions, **attributes)).code


def test_a_number_does_not_stand_for_a_constant_that_adds_a_dim() -> None:
    x = np.array(2, F32)
    (found,) = run(model_of("Add", x, F32([[1.5]]), constants=(1,)), x, None)
    agree(found, F32([[3.5]]))


@pytest.mark.parametrize("op", ["Abs", "Neg", "Sign", "ReduceMax"])
def test_constants_are_folded_by_the_same_rule(op: str) -> None:
    fixed, x = np.int64([[3, -4], [0, 7]]), np.int64([[1, 2], [3, 4]])
    constant = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(fixed))
    nodes = [constant, helper.make_node(op, ["c"], ["d"]), helper.make_node("Add", ["x", "d"], ["y"])]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    module = converted(model)
    assert "torch" not in module.code
    agree(module(torch.tensor(x)).numpy(), ReferenceEvaluator(model).run(None, {"x": x})[0])

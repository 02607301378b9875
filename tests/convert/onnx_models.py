"""Small ONNX models that are right, and ways to make them wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def array(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array((np.arange(np.prod(shape, dtype=int)) % 7 - 3).astype(dtype).reshape(shape), name)


def value(name: str, dims: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], held: Any = (), functions: Any = (), **kw: Any
) -> Any:
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(held))
    imports = kw.pop("imports", [("", 21)])
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports]
    made = helper.make_model(graph, functions=list(functions), opset_imports=opsets)
    made.ir_version = 10
    return made


def mlp(width: int = 4) -> Any:
    """Two layers; the weights are larger than what shape inference is shown."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["a"], name="act"),
        helper.make_node("MatMul", ["a", "w2"], ["y"], name="second"),
    ]
    held = [array("w1", 600, width), array("b1", 600), array("w2", 600, 3)]
    return model(nodes, [value("x", ["batch", width])], [value("y", ["batch", 3])], held)


def branches() -> Any:
    """An If whose branches read the outer graph, and a Loop."""
    then = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["t"])], "then", [], [value("t", None)])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [value("e", None)])
    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "two"], ["next"]), helper.make_node("Identity", ["go"], ["still"])],
        "body", [value("i", [], INT64), value("go", [], BOOL), value("carried", None)],
        [value("still", [], BOOL), value("next", None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["m"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["n", "", "m"], ["y"], body=body),
    ]
    held = [numpy_helper.from_array(np.float32(2), "two"), numpy_helper.from_array(np.int64(3), "n")]
    return model(nodes, [value("x", [3]), value("c", [], BOOL)], [value("y", [3])], held)


def shapes() -> Any:
    """Shape arithmetic that ends in a Reshape and an Expand."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "minus"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("ConstantOfShape", ["n"], ["ones"], value=numpy_helper.from_array(np.float32([1.5]))),
        helper.make_node("Unsqueeze", ["ones", "one"], ["column"]),
        helper.make_node("Add", ["flat", "column"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.int64([v]), n) for n, v in (("zero", 0), ("minus", -1), ("one", 1))]
    return model(nodes, [value("x", ["b", 2, 3])], [value("y", ["b", 6])], held)


def conv() -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], epsilon=1e-3),
        helper.make_node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    held = [array("w", 5, 2, 3, 3), *(array(n, 5) for n in "bsm"), numpy_helper.from_array(np.full(5, 2, "f4"), "v")]
    return model(nodes, [value("x", [1, 2, 8, 8])], [value("y", [1, 5])], held)


def function(name: str, ops: list[tuple[str, str]], domain: str = "local", version: int = 21) -> Any:
    """A function of one value: these (domain, op) one after the other."""
    steps = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], domain=d) for i, (d, op) in enumerate(ops)]
    imports = [helper.make_opsetid("", version), helper.make_opsetid("local", 1)]
    return helper.make_function(domain, name, ["v0"], [f"v{len(ops)}"], steps, imports)


def called(*functions: Any, op: str = "f", domain: str = "local") -> Any:
    """A model that calls one of these functions."""
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    imports = [("", 21), (domain, 1)]
    return model([node], [value("x", [3])], [value("y", [3])], functions=functions, imports=imports)


RIGHT: dict[str, Callable[[], Any]] = {
    "mlp": mlp,
    "branches": branches,
    "shapes": shapes,
    "conv": conv,
    "function": lambda: called(function("f", [("", "Relu"), ("local", "g")]), function("g", [("", "Neg")])),
}


def edit(change: Callable[[Any], object], base: Callable[[], Any] = mlp) -> Callable[[], Any]:
    """A model that is right but for this change."""

    def make() -> Any:
        made = base()
        change(made)
        return made

    return make


def _set(target: Any, **fields: Any) -> None:
    for name, new in fields.items():
        setattr(target, name, new)


def _again(repeated: Any, fields: list[Any]) -> None:
    del repeated[:]
    repeated.extend(fields)


def nested(depth: int) -> Any:
    """Ifs inside Ifs."""
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y0"])], "g0", [], [value("y0", None)])
    for i in range(1, depth):
        node = helper.make_node("If", ["c"], [f"y{i}"], then_branch=graph, else_branch=graph if i < 2 else _leaf(i))
        graph = helper.make_graph([node], f"g{i}", [], [value(f"y{i}", None)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=_leaf(depth))
    return model([node], [value("x", [3]), value("c", [], BOOL)], [value("y", [3])])


def _leaf(i: int) -> Any:
    return helper.make_graph([helper.make_node("Neg", ["x"], [f"n{i}"])], f"n{i}", [], [value(f"n{i}", None)])


def bomb(levels: int, calls: int) -> Any:
    """Functions that each call the next one several times: calls ** levels nodes."""
    made = [function(f"f{i}", [("local", f"f{i + 1}")] * calls) for i in range(levels)]
    return called(*made, function(f"f{levels}", [("", "Neg")]), op="f0")


def one(op: str, inputs: list[str], held: Any = (), *, domain: str = "", out: Any = None, **attributes: Any) -> Any:
    """A model of one node."""
    node = helper.make_node(op, inputs, ["y"], domain=domain, **attributes)
    taken = [value("x", ["n"])] if "x" in inputs else []
    return model([node], taken, [out or value("y", None)], held, imports=[("", 21), *([(domain, 1)] if domain else [])])


def integers(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def ends(*values: int) -> list[Any]:
    """Scalars a, b, c."""
    return [numpy_helper.from_array(np.int64(v), name) for name, v in zip("abc", values, strict=True)]


def _wrong_attribute(m: Any) -> None:
    m.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("transB", "yes"))


HUGE = 1 << 50
USAGE, UNSUPPORTED = 2, 3
# what is wrong -> the model, the exit code, what the error says
WRONG: dict[str, tuple[Callable[[], Any], int, str]] = {
    "no graph": (edit(lambda m: m.ClearField("graph")), USAGE, "no graph"),
    "no opset": (edit(lambda m: m.ClearField("opset_import")), USAGE, "imports no opset"),
    "no IR version": (edit(lambda m: m.ClearField("ir_version")), USAGE, "no IR version"),
    "newer opset": (edit(lambda m: _set(m.opset_import[0], version=999)), UNSUPPORTED, "opset 999 .*newer"),
    "newer IR": (edit(lambda m: _set(m, ir_version=999)), UNSUPPORTED, "IR version 999 is newer"),
    "opset 0": (edit(lambda m: _set(m.opset_import[0], version=0)), USAGE, "version 0"),
    "two opsets": (
        edit(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13))), USAGE, "at versions 21 and 13"),
    "other domain": (lambda: one("Frob", ["x"], domain="com.example"), UNSUPPORTED, r"com\.example\.Frob"),
    "unknown op": (lambda: one("Frob", ["x"]), UNSUPPORTED, r"ai\.onnx\.Frob \(1x, first at 'y'\)"),
    "op of a later opset": (
        edit(lambda m: _set(m.opset_import[0], version=9), lambda: one("Gelu", ["x"])), UNSUPPORTED, "Gelu"),
    "domain not imported": (
        edit(lambda m: _set(m.graph.node[1], domain="ai.onnx.ml")), USAGE, r"ai\.onnx\.ml is not imported"),
    "cycle": (edit(lambda m: _again(m.graph.node[0].input, ["y", "w1"])), USAGE, "on a cycle"),
    "itself": (edit(lambda m: _again(m.graph.node[1].input, ["a"])), USAGE, "Relu 'act' is on a cycle"),
    "undefined": (edit(lambda m: _again(m.graph.node[1].input, ["q"])), USAGE, "'act' reads 'q'"),
    "undefined in a branch": (
        edit(lambda m: _again(m.graph.node[0].attribute[0].g.node[0].input, ["q", "x"]), branches), USAGE, "'q'"),
    "output of nothing": (edit(lambda m: _set(m.graph.output[0], name="q")), USAGE, "output 'q'"),
    "made twice": (edit(lambda m: _again(m.graph.node[1].output, ["h"])), USAGE, "makes 'h' twice"),
    "held twice": (edit(lambda m: m.graph.initializer.append(array("b1", 600))), USAGE, "'b1' twice"),
    "taken twice": (edit(lambda m: m.graph.input.append(value("x", [1]))), USAGE, "'x' twice"),
    "input is made": (edit(lambda m: _set(m.graph.input[0], name="h")), USAGE, "twice|nothing makes"),
    "short data": (edit(lambda m: _set(m.graph.initializer[0], raw_data=b"123")), USAGE, "bytes, and holds 3"),
    "huge dims": (edit(lambda m: _again(m.graph.initializer[1].dims, [HUGE])), USAGE, "bytes, and holds"),
    "overflowing dims": (edit(lambda m: _again(m.graph.initializer[1].dims, [HUGE, HUGE])), USAGE, "impossible"),
    "hidden overflow": (edit(lambda m: _again(m.graph.initializer[1].dims, [0, HUGE, HUGE])), USAGE, "impossible"),
    "negative dims": (edit(lambda m: _again(m.graph.initializer[1].dims, [-600])), USAGE, "impossible dims"),
    "unknown type": (edit(lambda m: _set(m.graph.initializer[1], data_type=99)), USAGE, "unknown type"),
    "no type": (edit(lambda m: _set(m.graph.initializer[1], data_type=0)), USAGE, "no type"),
    "other type": (edit(lambda m: _set(m.graph.initializer[1], data_type=7)), USAGE, "4800 bytes, and holds 2400"),
    "types that contradict": (
        edit(lambda m: m.graph.initializer[1].CopyFrom(array("b1", 600, dtype=np.int32))), USAGE, "they must agree"),
    "input of another type": (
        edit(lambda m: m.graph.input.append(value("b1", [600], INT64))), USAGE, "not the type its input"),
    "negative input": (edit(lambda m: m.graph.input[0].CopyFrom(value("x", [-7, 4]))), USAGE, "negative dim"),
    "huge input": (edit(lambda m: m.graph.input[0].CopyFrom(value("x", [HUGE, 4]))), USAGE, "any machine"),
    "huge constant": (lambda: one("ConstantOfShape", ["n"], [integers("n", HUGE)]), USAGE, "any machine"),
    "huge expand": (
        lambda: one("Expand", ["n", "n"], [integers("n", HUGE)], out=value("y", None, INT64)), USAGE, "any machine"),
    "huge range": (
        lambda: one("Range", ["a", "b", "c"], ends(0, HUGE, 1), out=value("y", None, INT64)), USAGE, "any machine"),
    "wrong attribute": (edit(_wrong_attribute), USAGE, "not valid ONNX.*transB"),
    "unknown attribute": (
        edit(lambda m: m.graph.node[1].attribute.append(helper.make_attribute("q", 1))), USAGE, "not valid.* q"),
    "attribute of a function": (
        edit(lambda m: m.graph.node[0].attribute.append(_reference())), USAGE, "takes 'alpha' from a function"),
    "too few inputs": (edit(lambda m: _again(m.graph.node[2].input, ["a"])), USAGE, "not valid ONNX"),
    "too many outputs": (edit(lambda m: m.graph.node[1].output.append("q")), USAGE, "not valid ONNX"),
    "axis of no tensor": (
        lambda: one("LayerNormalization", ["x", "w"], [array("w", 3)], axis=2**63 - 1), USAGE, "has no axis 92233"),
    "one output too many": (
        edit(lambda m: m.graph.node[0].output.append("z"), lambda: one("Split", ["x"], num_outputs=1)), USAGE,
        "Split 'y' has 2 outputs and says 1"),
    "calls itself": (lambda: called(function("f", [("local", "f")])), USAGE, r"local\.f calls itself"),
    "call each other": (
        lambda: called(function("f", [("local", "g")]), function("g", [("local", "f")])), USAGE, "calls itself"),
    "unused recursion": (
        lambda: called(function("f", [("", "Neg")]), function("g", [("local", "g")])), USAGE, "itself"),
    "two functions": (lambda: called(*[function("f", [("", "Neg")])] * 2), USAGE, r"two functions local\.f"),
    "many calls": (lambda: bomb(12, 10), USAGE, "nodes once its functions are inlined"),
    "deep calls": (lambda: bomb(200, 1), USAGE, "deep"),
    "deep subgraphs": (lambda: nested(28), USAGE, "more than 24 deep"),
    "other meaning": (
        lambda: called(function("f", [("", "Softmax")], version=11)), UNSUPPORTED, "of opset 11, the model opset 21"),
}  # fmt: skip


def _reference() -> Any:
    return AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="from_function")


def wrong(name: str) -> Any:
    return WRONG[name][0]()


def external(made: Any, name: str, **stated: object) -> Any:
    """The model with one initializer's data moved into a file; `stated` overrides location, offset and length."""
    tensor = next(t for t in made.graph.initializer if t.name == name)
    entries = {"location": "weights.bin", "offset": 0, "length": len(tensor.raw_data), **stated}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        if text is not None:
            tensor.external_data.add(key=key, value=str(text))
    return made


def saved(made: Any) -> bytes:
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def beside(folder: Path, **stated: object) -> Path:
    """A model in `folder` whose weights w1 lie in weights.bin beside it."""
    made = mlp()
    (folder / "weights.bin").write_bytes(made.graph.initializer[0].raw_data)
    (folder / "m.onnx").write_bytes(saved(external(made, "w1", **stated)))
    return folder / "m.onnx"

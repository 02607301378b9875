"""ONNX models read without trusting them: what is right comes through, what is wrong is one clear line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from isomorph.convert.errors import IsomorphError, UsageError
from isomorph.convert.onnx_in.reading import NOTES, read
from tests.convert import onnx_models as models
from tests.convert.onnx_models import RIGHT, WRONG, beside, saved


@pytest.mark.parametrize("name", RIGHT)
def test_every_form_of_a_model_is_read_alike(name: str, tmp_path: Path) -> None:
    made = RIGHT[name]()
    before = saved(made)
    (tmp_path / "m.onnx").write_bytes(before)
    forms = [made, before, tmp_path / "m.onnx", str(tmp_path / "m.onnx"), ir.from_proto(made)]
    found = [saved(ir.to_proto(read(form))) for form in forms]
    assert found[1:] == found[:1] * 4
    assert saved(made) == before


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    made, code, text = WRONG[name]
    with pytest.raises(IsomorphError, match=text) as caught:
        read(made())
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)


def test_values_and_types_come_through() -> None:
    found = read(models.mlp())
    assert [v.name for v in found.graph.inputs] == ["x"]
    assert list(found.graph.initializers) == ["w1", "b1", "w2"]
    held = found.graph.initializers["w1"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), numpy_helper.to_array(models.mlp().graph.initializer[0]))
    hidden = next(n for n in found.graph if n.op_type == "Relu").outputs[0]
    assert (str(hidden.shape), hidden.dtype) == ("[batch,600]", ir.DataType.FLOAT)
    assert NOTES not in found.meta


def test_shape_inference_follows_constants() -> None:
    found = read(models.shapes())
    shapes = {n.op_type: str(n.outputs[0].shape) for n in found.graph}
    assert (shapes["ConstantOfShape"], shapes["Unsqueeze"]) == ("[b]", "[b,1]")


# -------------------------------------------------------------------------------------------------- onnx's own process
@pytest.mark.parametrize(("name", "value"), [("branches", "m"), ("mlp", "a")])
def test_apart_and_together_give_the_same(name: str, value: str) -> None:
    made = RIGHT[name]()
    made.graph.value_info.append(models.value(value, [1, 7, 9]))  # wrong: a note
    apart, together = read(made, apart=True), read(made, apart=False)
    assert saved(ir.to_proto(apart)) == saved(ir.to_proto(together))
    assert apart.meta[NOTES] == together.meta[NOTES]


@pytest.mark.parametrize("name", ["wrong attribute", "huge constant", "input of another type"])
def test_errors_come_through_from_the_other_process(name: str) -> None:
    made, _, text = WRONG[name]
    with pytest.raises(UsageError, match=text):
        read(saved(made()))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os; os.abort()", r"damaged: onnx's own checks crash on it \(signal 6\)"),
        ("raise MemoryError('too much')", "checks fail on it: MemoryError: too much"),
        ("import time; time.sleep(60)", "checks it for more than 1 s"),
    ],
    ids=["crash", "error", "hang"],
)
def test_what_happens_there_is_an_error_here(code: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from isomorph.convert.onnx_in import apart

    monkeypatch.setattr(apart, "CODE", code)
    monkeypatch.setattr(apart, "SECONDS", 1)
    with pytest.raises(UsageError, match=text):
        read(saved(models.mlp()))


def test_that_process_loads_no_framework() -> None:
    import subprocess
    import sys

    code = "import isomorph.convert.onnx_in.apart, sys; print({'torch', 'tensorflow', 'onnx_ir'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------------------------------------------- what is put right
def test_nodes_are_put_in_order() -> None:
    made = models.mlp()
    nodes = list(reversed(made.graph.node))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    assert [n.op_type for n in read(made).graph] == ["Gemm", "Relu", "MatMul"]


def test_an_initializer_is_no_input() -> None:
    made = models.mlp()
    made.ir_version = 3
    made.graph.input.extend(models.value(t.name, t.dims) for t in made.graph.initializer)
    found = read(made)
    assert [v.name for v in found.graph.inputs] == ["x"]
    assert list(found.graph.initializers) == ["w1", "b1", "w2"]


def test_other_harmless_oddities_are_taken() -> None:
    made = models.mlp()
    made.graph.name = ""
    made.opset_import[0].domain = "ai.onnx"
    made.graph.input[0].CopyFrom(models.value("x", [-1, 4]))  # an unknown dim, as Paddle writes it
    made.graph.output[0].type.tensor_type.ClearField("shape")
    found = read(made)
    assert dict(found.opset_imports) == {"": 21}
    assert found.graph.inputs[0].shape is not None
    assert not isinstance(found.graph.inputs[0].shape[0], int)
    assert found.graph.outputs[0].shape is not None


def test_a_wrong_declared_shape_is_a_note() -> None:
    made = models.mlp()
    made.graph.value_info.append(models.value("h", ["batch", 7]))
    assert "600" in str(read(made).meta[NOTES])


def test_functions_are_inlined_but_our_own() -> None:
    other = models.function("f", [("", "Relu"), ("local", "g")], version=20)  # the same ops as at 21
    found = read(models.called(other, models.function("g", [("", "Neg")])))
    assert [n.op_type for n in found.graph] == ["Relu", "Neg"]
    own = models.function("Noise", [("", "Identity")], domain="isomorph")
    found = read(models.called(own, op="Noise", domain="isomorph"))
    assert [n.op_identifier()[:2] for n in found.graph] == [("isomorph", "Noise")]
    assert len(found.functions) == 1


@pytest.mark.parametrize("linear", [True, False])
def test_a_sparse_initializer_becomes_a_full_one(linear: bool) -> None:
    full = np.zeros((4, 3), np.float32)
    full[1, 2], full[3, 0] = 5, -1
    at = np.array([5, 9] if linear else [[1, 2], [3, 0]], np.int64)
    values = numpy_helper.from_array(np.array([5, -1], np.float32), "w")
    made = models.one("MatMul", ["x", "w"])
    made.graph.input[0].CopyFrom(models.value("x", ["n", 4]))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(at), [4, 3]))
    made.graph.initializer.append(models.array("unused", 3))
    held = read(made).graph.initializers["w"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), full)
    made.graph.sparse_initializer[0].dims[0] = 1 << 40
    with pytest.raises(UsageError, match="impossible dims"):
        read(made)


def put_first(graph: Any, **arrays: Any) -> None:
    """Constant nodes at the beginning of a graph."""
    nodes = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a)) for n, a in arrays.items()]
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def test_arrays_in_constant_nodes_become_initializers() -> None:
    """Also inside a branch; integers, scalars and what is an output stay."""
    made = models.branches()
    then = next(a.g for a in made.graph.node[0].attribute if a.name == "then_branch")
    put_first(then, factor=np.float32([1, 2, 3]))
    then.node[1].input[1] = "factor"
    put_first(made.graph, offset=np.float32([4, 5, 6]), one=np.float32(1))
    put_first(made.graph, axes=np.int64([0, 1]), shown=np.float32([7, 8]))
    made.graph.output.append(models.value("shown", [2]))
    found = read(made).graph
    assert list(found.initializers) == ["two", "n", "offset"]
    assert [n.outputs[0].name for n in found if n.op_type == "Constant"] == ["axes", "shown", "one"]
    branch = next(n for n in found if n.op_type == "If").attributes["then_branch"].as_graph()
    assert list(branch.initializers) == ["factor"]
    assert branch.initializers["factor"].uses()


# ------------------------------------------------------------------------------------------------------------- the file
def test_what_is_no_onnx_file_is_said(tmp_path: Path) -> None:
    good = saved(models.mlp())
    cases = {
        "empty.onnx": (b"", "it is empty"),
        "text.onnx": (b"graph: { node { op_type: 'Relu' } }\n", "cut short, or no binary protobuf|no graph"),
        "half.onnx": (good[: len(good) // 2], "cut short"),
        "zip.onnx": (b"PK\x03\x04" + bytes(60), "cut short|no graph"),
        "zeros.onnx": (bytes(60), "cut short|no graph"),
        "deep.onnx": (deep_bytes(5000), "cut short|deep"),
    }
    for name, (data, text) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=f"{name}.*({text})") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    for path, text in (
        ("none.onnx", "no such file"),
        (".", "a folder"),
        ("x" * 5000, "."),
        ("a\0b", "cannot be read|no"),
    ):
        with pytest.raises(UsageError, match=text):
            read(tmp_path / path)
    with pytest.raises(UsageError, match="not int"):
        read(3)


def deep_bytes(depth: int) -> bytes:
    """A graph whose node has an attribute with a graph, and so on, as the bytes of a file."""
    inner = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            inner = tag + _varint(len(inner)) + inner
    return b"\x3a" + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


# ---------------------------------------------------------------------------------------------------------- data beside
def test_data_beside_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = beside(tmp_path)
    held = read(path).graph.initializers["w1"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), numpy_helper.to_array(models.mlp().graph.initializer[0]))
    found = read(ir.load(path)).graph.initializers["w1"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), held.numpy())
    monkeypatch.chdir("/")  # the folder is the model's, not the working one
    np.testing.assert_array_equal(read(path).graph.initializers["w1"].const_value.numpy(), held.numpy())


def test_a_constant_beside_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.bin").write_bytes(np.float32([1, 2, 3]).tobytes())
    tensor = TensorProto(dims=[3], data_type=1, data_location=TensorProto.EXTERNAL, name="c")
    tensor.external_data.add(key="location", value="c.bin")
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    made = models.one("Add", ["x", "c"])
    made.graph.node.insert(0, node)
    (tmp_path / "m.onnx").write_bytes(saved(made))
    found = read(tmp_path / "m.onnx").graph.initializers["c"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), np.float32([1, 2, 3]))


OUTSIDE = "refused, its data lies outside its folder"
EXTERNAL: dict[str, tuple[dict[str, object], str]] = {
    "absolute": ({"location": "/etc/passwd"}, OUTSIDE),
    "above": ({"location": "../secret.bin"}, OUTSIDE),
    "hidden above": ({"location": "sub/../../secret.bin"}, OUTSIDE),
    "nowhere": ({"location": None}, OUTSIDE),
    "the folder": ({"location": "."}, "is missing"),
    "missing": ({"location": "none.bin"}, r"data file none\.bin is missing"),
    "null": ({"location": "a\0b"}, "cannot be found"),
    "link": ({"location": "link.bin"}, OUTSIDE),
    "linked folder": ({"location": "up/secret.bin"}, OUTSIDE),
    "loop of links": ({"location": "loop.bin"}, "missing|cannot be found"),
    "pipe": ({"location": "pipe"}, "is missing"),
    "too long": ({"length": 9604}, "beyond the end"),
    "too short": ({"length": 8}, "needs 9600 bytes and is given 8"),
    "too far": ({"offset": 4}, "beyond the end"),
    "far beyond": ({"offset": 10**17}, "beyond the end"),
    "negative": ({"offset": -4}, "no numbers"),
    "negative length": ({"length": -1}, "no numbers"),
    "words": ({"offset": "many"}, "no numbers"),
    "endless": ({"length": "9" * 5000}, "no numbers"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_data_that_is_not_the_models_own_is_refused(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(9600))
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "up").symlink_to(tmp_path)
    (home / "loop.bin").symlink_to(home / "loop.bin")
    os.mkfifo(home / "pipe")
    stated, text = EXTERNAL[name]
    path = beside(home, **stated)
    with pytest.raises(UsageError, match=re.compile(text)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="give the model as a path"):
        read(path.read_bytes())


def test_parity_opens_files_by_the_same_door(tmp_path: Path) -> None:
    from isomorph.parity.runners.onnx_graph import load

    found: Any = load(beside(tmp_path))
    onnx.checker.check_model(found)
    with pytest.raises(UsageError, match=OUTSIDE):
        load(beside(tmp_path, location="../x"))


def test_a_sparse_constant_is_read_as_an_ordinary_one() -> None:
    values, places = helper.make_tensor("v", 1, [2], [1.0, 2.0]), helper.make_tensor("i", 7, [2], [0, 3])
    constant = helper.make_node("Constant", [], ["c"], sparse_value=helper.make_sparse_tensor(values, places, [5]))
    x, y = (helper.make_tensor_value_info(name, 1, [5]) for name in "xy")
    graph = helper.make_graph([constant, helper.make_node("Add", ["x", "c"], ["y"])], "g", [x], [y])
    model = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    held = next(iter(model.graph.initializers.values()))
    assert held.const_value is not None
    assert held.const_value.numpy().tolist() == [1, 0, 0, 2, 0]


def test_a_deprecated_op_is_a_note() -> None:
    """GroupNormalization of opset 18 is deprecated, and files hold it."""
    x, y = (helper.make_tensor_value_info(name, 1, [2, 4, 3]) for name in "xy")
    scale, bias = (helper.make_tensor(name, 1, [2], [1.0, 2.0]) for name in ("scale", "bias"))
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2)
    graph = helper.make_graph([node], "g", [x], [y], [scale, bias])
    model = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert any("deprecated" in note for note in model.meta[NOTES])

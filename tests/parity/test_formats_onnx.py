"""ONNX models as runners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.parity.runners.base import Request
from isomorph.parity.runners.spec import ModelSpec
from tests.parity.formats import keeps_protocol

pytest.importorskip("onnxruntime")
from isomorph.parity.runners.onnx_runner import open_onnx

FLOAT = TensorProto.FLOAT
X = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.relu(self.conv(x)).mean((2, 3))
        return F.softmax(self.linear(h) * 0.1, -1), h.to(torch.int64)


def build(net: Net, path: Path, external: bool = False) -> str:
    """The same net by hand, with a symbolic batch."""
    weights = {name: p.detach().numpy() for name, p in net.named_parameters()}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="convolve"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["h"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["h", "linear.weight", "linear.bias"], ["l"], transB=1),
        helper.make_node("Constant", [], ["tenth"], value_float=0.1),
        helper.make_node("Cast", ["tenth"], ["scale"], to=FLOAT),
        helper.make_node("Mul", ["l", "scale"], ["m"]),
        helper.make_node("Softmax", ["m"], ["output_0"], axis=-1),
        helper.make_node("Cast", ["h"], ["output_1"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("output_0", FLOAT, ["n", 5]),
         helper.make_tensor_value_info("output_1", TensorProto.INT64, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return str(path)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_an_onnx_model_in_its_own_dtype_and_in_float64(net: Net, tmp_path: Path) -> None:
    opened = open_onnx(ModelSpec(build(net, tmp_path / "net.onnx")))
    runner, about = opened.runner, opened.runner.about()
    assert (about.format, about.gradients, about.float64, about.precision) == ("onnx", False, True, "float32")
    assert [(p.name, p.dims) for p in about.inputs] == [("x", ("n", 3, 6, 6))]
    assert {name: info.trainable for name, info in runner.parameters().items()} == dict.fromkeys(
        ("conv.weight", "conv.bias", "linear.weight", "linear.bias"), False
    )
    assert opened.example is not None
    keeps_protocol(runner, opened.example)
    request = Request((X,), "eval", backward=False)
    response, expected = runner.respond(request), net(torch.from_numpy(X))
    assert response.structure == [0, 1]
    assert response.dtypes == ("float32", "int64")
    assert np.max(np.abs(response.outputs[0] - expected[0].detach().numpy())) < 1e-6
    wide = runner.to_float64().respond(request)
    # 0.1 is a float32 number in the file, and keeps its value
    x = torch.from_numpy(X).double()
    exact = net.double()
    h = torch.relu(exact.conv(x)).mean((2, 3))
    softmax = F.softmax(exact.linear(h) * float(np.float32(0.1)), -1).detach().numpy()
    assert wide.dtypes == ("float64", "int64")
    assert np.max(np.abs(wide.outputs[0] - softmax)) < 1e-14


def test_every_node_can_be_seen(net: Net, tmp_path: Path) -> None:
    runner = open_onnx(ModelSpec(build(net, tmp_path / "net.onnx"))).runner
    traces = runner.trace(Request((X,), "eval", backward=False))
    assert [t.kind for t in traces] == [
        "Conv", "Relu", "ReduceMean", "Gemm", "Constant", "Cast", "Mul", "Softmax", "Cast",
    ]  # fmt: skip
    assert (traces[0].path, traces[1].path) == ("convolve", "r")
    assert np.array_equal(traces[0].inputs[0], X)
    assert len(traces[0].inputs) == 3
    assert np.array_equal(np.maximum(traces[0].outputs[0], 0), traces[1].outputs[0])
    assert np.allclose(traces[7].outputs[0], runner.respond(Request((X,), "eval")).outputs[0], atol=1e-7)


def test_weights_beside_the_file_are_read_and_outside_its_folder_refused(net: Net, tmp_path: Path) -> None:
    path = build(net, tmp_path / "net.onnx", external=True)
    assert (tmp_path / "weights.bin").is_file()
    open_onnx(ModelSpec(path))
    (tmp_path / "inner").mkdir()
    model = onnx.load(path, load_external_data=False)
    for location in ("../weights.bin", str(tmp_path / "weights.bin")):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        moved = tmp_path / "inner" / "net.onnx"
        moved.write_bytes(model.SerializeToString())
        with pytest.raises(UsageError, match="outside its folder"):
            open_onnx(ModelSpec(str(moved)))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match="missing"):
        open_onnx(ModelSpec(path))


def test_what_cannot_be_run_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(UsageError, match="no such file"):
        open_onnx(ModelSpec(str(path)))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="cannot be read"):
        open_onnx(ModelSpec(str(path)))
    path.write_bytes(one_node(helper.make_node("Unheard", ["x"], ["y"], domain="nobody")).SerializeToString())
    with pytest.raises(UsageError, match="ONNX Runtime cannot run it") as caught:
        open_onnx(ModelSpec(str(path)))
    assert "\n" not in str(caught.value)


def one_node(*nodes: Any, held: tuple[Any, ...] = (), element: int = FLOAT) -> Any:
    """A model of an input x (n, 4) and an output y."""
    graph = helper.make_graph(
        list(nodes), "one", [helper.make_tensor_value_info("x", element, ["n", 4])],
        [helper.make_tensor_value_info("y", element, None)], list(held),
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8)


def saved(model: Any, path: Path) -> ModelSpec:
    path.write_bytes(model.SerializeToString())
    return ModelSpec(str(path))


def test_float64_reaches_into_branches(tmp_path: Path) -> None:
    """A constant inside an If, where a cast that was missed would leave float32 or not type-check."""
    third = numpy_helper.from_array(np.float32(1 / 3), "third")
    branch = [
        helper.make_graph(
            [helper.make_node("Constant", [], [f"t{i}"], value=third),
             helper.make_node("Mul", ["x", f"t{i}"], [f"b{i}"])],
            f"branch{i}", [], [helper.make_tensor_value_info(f"b{i}", FLOAT, None)],
        )
        for i in (0, 1)
    ]  # fmt: skip
    true = numpy_helper.from_array(np.array(True), "yes")
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch[0], else_branch=branch[1])
    opened = open_onnx(saved(one_node(node, held=(true,)), tmp_path / "if.onnx"))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    wide = opened.runner.to_float64().respond(Request((x,), "eval", backward=False))
    assert wide.dtypes == ("float64",)
    assert np.array_equal(wide.outputs[0], x.astype(float) * float(np.float32(1 / 3)))


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_the_precision_is_that_of_the_tensors(tmp_path: Path, element: int) -> None:
    kind = {TensorProto.FLOAT16: np.float16, TensorProto.FLOAT: np.float32}[element]
    weight = numpy_helper.from_array(np.full((4,), 1.5, kind), "w")
    opened = open_onnx(saved(one_node(helper.make_node("Add", ["x", "w"], ["y"]), held=(weight,), element=element),
                             tmp_path / "add.onnx"))  # fmt: skip
    assert opened.runner.about().precision == np.dtype(kind).name
    response = opened.runner.respond(Request((np.ones((2, 4), np.float32),), "eval"))
    assert response.dtypes == (np.dtype(kind).name,)
    assert response.outputs[0].dtype == np.float32  # carried in float32
    assert opened.runner.to_float64().respond(Request((np.ones((2, 4), np.float32),), "eval")).dtypes == ("float64",)


def test_a_quantised_model_says_so_and_has_no_float64(tmp_path: Path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    runner = open_onnx(saved(one_node(*nodes, held=(scale, zero)), tmp_path / "q.onnx")).runner
    assert runner.about().precision == "int8"
    with pytest.raises(UnsupportedError, match="quantised"):
        runner.to_float64()
    response = runner.respond(Request((np.full((1, 4), 0.234, np.float32),), "eval"))
    assert np.allclose(response.outputs[0], 0.2)


def test_a_model_that_is_too_large_for_a_message(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data is written to a file beside it for ONNX Runtime, which has it when that is gone."""
    from isomorph.parity.runners import onnx_runner

    opened = open_onnx(ModelSpec(build(net, tmp_path / "net.onnx")))
    expected = opened.runner.respond(Request((X,), "eval", backward=False)).outputs
    monkeypatch.setattr(onnx_runner, "LIMIT", 100)
    large = open_onnx(ModelSpec(str(tmp_path / "net.onnx"))).runner
    for mine, other in zip(large.respond(Request((X,), "eval", backward=False)).outputs, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_model_that_is_no_file(net: Net, tmp_path: Path) -> None:
    """An onnx.ModelProto, or what holds one, is opened as the file is."""
    proto = onnx.load(build(net, tmp_path / "net.onnx"))
    assert open_onnx(ModelSpec(proto)).runner.about() == open_onnx(ModelSpec(str(tmp_path / "net.onnx"))).runner.about()

"""`TorchConversion`: weights out and in, files, export and compile, and what `to_torch` takes."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors import safe_open

from isomorph.convert.errors import UnsupportedError, UsageError, WeightError
from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.conversion import TorchConversion

from .onnx_in_models import drawn, model, node, reference

WEIGHTS = {
    "conv.weight": drawn(4, 3, 3, 3), "norm.weight": drawn(4), "norm.bias": drawn(4, seed=1),
    "norm.running_mean": drawn(4, seed=2), "norm.running_var": drawn(4, positive=True), "fc/kernel": drawn(4, 5),
    "fc/bias": drawn(5), "rate": np.float32(0.5), "axes": np.array([2, 3]), "rnn.w": drawn(1, 8, 5),
    "rnn.r": drawn(1, 8, 2), "rnn.b": drawn(1, 16), "zero": np.array([0]),
}  # fmt: skip
NODES = [
    node("Conv", ["x", "conv.weight"], ["a"]),
    node("BatchNormalization", ["a", *list(WEIGHTS)[1:5]], ["b"]),
    node("Relu", ["b"], ["c"]),
    node("ReduceMean", ["c", "axes"], ["d"], keepdims=0),
    node("Dropout", ["d", "rate"], ["e"]),
    node("MatMul", ["e", "fc/kernel"], ["f"]),
    node("Add", ["f", "fc/bias"], ["g"]),
    node("Unsqueeze", ["g", "zero"], ["h"]),
    node("Concat", ["h", "h"], ["steps"], axis=0),
    node("LSTM", ["steps", "rnn.w", "rnn.r", "rnn.b"], ["", "i"], hidden_size=2),
    node("Squeeze", ["i", "zero"], ["y"]),
]


@pytest.fixture(scope="module")
def proto() -> Any:
    return model(NODES, {"x": ("batch", 3, "high", 6)}, ["y"], WEIGHTS)


@pytest.fixture
def conversion(proto: Any) -> TorchConversion:
    return to_torch(proto)


def test_what_comes_in_by_any_way(proto: Any, tmp_path: Path) -> None:
    x = drawn(2, 3, 5, 6)
    wanted = reference(proto, {"x": x})[0]
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (
        proto,
        proto.SerializeToString(),
        tmp_path / "m.onnx",
        str(tmp_path / "m.onnx"),
        ir.from_proto(proto),
    ):
        found = to_torch(source)
        assert not found.module.training
        np.testing.assert_allclose(found.module(torch.from_numpy(x)).detach(), wanted, rtol=1e-4, atol=1e-6)


def test_the_report(conversion: TorchConversion) -> None:
    stages: list[str] = []
    report = conversion.report
    assert report["layers"] == {"BatchNorm2d": 1, "Conv2d": 1, "Dropout": 1, "LSTM": 1, "Linear": 1}
    assert (report["parameters"], report["source"], report["notes"]) == (108 + 8 + 25 + 56 + 16, "onnx", [])
    assert [(p.name, p.dtype, p.dims) for p in conversion.inputs] == [("x", "float32", ("batch", 3, "high", 6))]
    to_torch(model(NODES[:1], {"x": (1, 3, 4, 4)}, ["a"], WEIGHTS), progress=stages.append)
    assert stages == ["read", "layers", "lower"]


def test_weights_go_out_and_in_as_the_source_has_them(conversion: TorchConversion) -> None:
    pulled = conversion.pull()
    assert set(pulled) == set(WEIGHTS) - {"rate", "axes", "zero"}
    for name, array in pulled.items():
        np.testing.assert_array_equal(array, WEIGHTS[name], strict=True)
    doubled = {name: 2 * array for name, array in pulled.items()}
    conversion.push(doubled)
    for name, array in conversion.pull().items():
        np.testing.assert_array_equal(array, doubled[name], strict=True)
    torch.testing.assert_close(conversion.module.fc.weight.detach(), torch.from_numpy(doubled["fc/kernel"].T))


def test_tuned_weights_arrive(conversion: TorchConversion) -> None:
    module = conversion.module.train()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module(torch.from_numpy(drawn(4, 3, 5, 6))).square().sum().backward()
    optimiser.step()
    for name, array in conversion.pull().items():
        assert not np.array_equal(array, WEIGHTS[name]), name


def test_weights_that_do_not_fit_are_all_named_and_none_written(conversion: TorchConversion) -> None:
    with pytest.raises(WeightError, match=r"nothing is not a weight.*fc/bias has shape \[3\], the model wants \[5\]"):
        conversion.push({"conv.weight": WEIGHTS["conv.weight"] + 1, "fc/bias": np.zeros(3), "nothing": np.zeros(3)})
    np.testing.assert_array_equal(conversion.pull()["conv.weight"], WEIGHTS["conv.weight"])


def test_the_code_is_readable(conversion: TorchConversion) -> None:
    code = conversion.module.code
    assert code.startswith("def forward(self, x):\n    conv = self.conv(x)\n    norm = self.norm(conv)\n")
    assert "fc = self.fc(" in code


def test_copies_and_pickles(conversion: TorchConversion) -> None:
    x = torch.from_numpy(drawn(2, 3, 5, 6))
    wanted = conversion.module(x)
    for other in (copy.deepcopy(conversion.module), pickle.loads(pickle.dumps(conversion.module))):
        torch.testing.assert_close(other(x), wanted, rtol=0, atol=0)
        assert other.conv.weight is not conversion.module.conv.weight


@pytest.mark.parametrize("training", [False, True])
def test_export_with_free_dims(conversion: TorchConversion, training: bool) -> None:
    conversion.module.train(training)
    next(m for m in conversion.module.modules() if isinstance(m, torch.nn.Dropout)).p = 0.0
    before = copy.deepcopy(conversion.module.state_dict())
    program = conversion.exported()
    for x in (torch.from_numpy(drawn(4, 3, 7, 6)), torch.from_numpy(drawn(3, 3, 5, 6))):
        conversion.module.load_state_dict(before)
        torch.testing.assert_close(program.module()(x), conversion.module(x))
        program = conversion.exported()
    assert set(program.state_dict) == set(before)


@pytest.mark.parametrize("recurrent", [False, True])
def test_compile(proto: Any, recurrent: bool) -> None:
    """As one graph, but for recurrent layers, which torch.compile takes piece by piece."""
    conversion = to_torch(proto if recurrent else model(NODES[:7], {"x": ("batch", 3, "high", 6)}, ["g"], WEIGHTS))
    x = torch.from_numpy(drawn(2, 3, 5, 6))
    compiled = torch.compile(conversion.module, backend="aot_eager", fullgraph=not recurrent)
    torch.testing.assert_close(compiled(x), conversion.module(x))
    wanted = torch.autograd.grad(conversion.module(x).sum(), conversion.module.conv.weight)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), conversion.module.conv.weight), wanted)


def test_another_dtype(proto: Any) -> None:
    conversion = to_torch(proto, dtype="float64")
    assert {p.dtype for p in conversion.module.parameters()} == {torch.float64}
    assert {p.dtype for p in (*conversion.inputs, *conversion.outputs)} == {"float64"}
    assert conversion.exported().module()(*conversion.example()).dtype == torch.float64
    x = torch.from_numpy(drawn(2, 3, 5, 6)).double()
    assert conversion.module(x).dtype == torch.float64
    assert torch.autograd.gradcheck(conversion.module, (x[:1].requires_grad_(),), atol=1e-4)


def test_files(conversion: TorchConversion, tmp_path: Path) -> None:
    conversion.save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        data = json.loads(file.metadata()["isomorph"])
    for name, tensor in conversion.module.state_dict().items():
        assert torch.equal(found.pop(name), tensor), name
    assert not found
    assert {w["source"] for w in data["weights"]} == set(conversion.pull())
    conversion.save(tmp_path / "m.pt2")
    x = torch.from_numpy(drawn(3, 3, 5, 6))
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), conversion.module(x))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pt2", "m.safetensors"]


@pytest.mark.parametrize("name", ["m.bin", "no/m.pt2", "folder.pt2"])
def test_files_that_cannot_be_written(conversion: TorchConversion, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(UsageError, match=name):
        conversion.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.pt2"]


def test_usage(proto: Any) -> None:
    for options in ({"layout": "nchw"}, {"trainable": "some"}, {"dtype": "int8"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            to_torch(proto, **options)
    with pytest.raises(UsageError):
        to_torch(torch.nn.Linear(1, 1))
    with pytest.raises((UnsupportedError, UsageError)):
        to_torch(b"no model")


def test_examples(conversion: TorchConversion) -> None:
    (x,) = conversion.example(batch=3, size=5)
    assert (tuple(x.shape), x.dtype) == ((3, 3, 5, 6), torch.float32)
    assert torch.equal(x, conversion.example(3, 5)[0])
    assert not torch.equal(x, conversion.example(3, 5, seed=1)[0])

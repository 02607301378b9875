"""isomorph convert towards ONNX and torch, and back: by command, in an empty folder, from end to end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.way_back import keras_net

from .conftest import Run

pytest.importorskip("tf2onnx")
Command = Callable[..., Run]
DIGITS = Path(__file__).parents[2] / "fixtures" / "digits" / "digits.safetensors"
NET = ("fixtures.digits.net:build", "--weights", DIGITS)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras model of Keras' own, and its ONNX file."""
    from isomorph.parity.cli import main

    folder = tmp_path_factory.mktemp("files")
    keras_net().save(folder / "net.keras")
    assert main(["convert", str(folder / "net.keras"), "-o", str(folder / "net.onnx"), "--verify", "none", "-q"]) == 0
    return folder


def tensors(file: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(file))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """The same names in the same dtypes, and the same bits."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


def test_torch_to_keras_to_onnx_to_torch_gives_back_the_state_dict(isomorph: Command) -> None:
    steps = ((*NET, "-o", "m.keras"), ("m.keras", "-o", "m.onnx"), ("m.onnx", "-o", "m.safetensors"))
    for step in steps:
        run = isomorph("convert", *step, "--verify", "quick", "--json")
        assert (run.code, run.document["status"]) == (0, "PASS"), run.err
    assert sorted(p.name for p in Path().iterdir()) == ["m.keras", "m.onnx", "m.safetensors"]
    assert same(tensors("m.safetensors"), tensors(str(DIGITS)))


def test_what_was_tuned_in_keras_arrives_in_torch(isomorph: Command) -> None:
    import keras
    import onnxruntime

    import isomorph as package
    from fixtures.digits.net import build

    assert isomorph("convert", *NET, "-o", "m.keras", "--verify", "none").code == 0
    conversion = package.load("m.keras")
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 8, 8, 1), np.float32), rng.integers(0, 10, 32)
    conversion.model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    conversion.model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    conversion.save("tuned.keras")

    assert isomorph("convert", "tuned.keras", "-o", "tuned.safetensors", "--verify", "quick").code == 0
    assert isomorph("convert", "tuned.keras", "-o", "tuned.onnx", "--verify", "none").code == 0
    state = tensors("tuned.safetensors")
    assert same(state, conversion.pull())
    assert not torch.equal(state["head.weight"], tensors(str(DIGITS))["head.weight"])
    net = build()
    net.load_state_dict(state)
    expected = np.asarray(conversion.model(x, training=False))
    image = x.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(net.eval()(torch.from_numpy(image)).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession("tuned.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_keras_to_torch_is_proven_on_every_step(isomorph: Command, files: Path) -> None:
    run = isomorph("convert", files / "net.keras", "--to", "torch", "-o", "net.safetensors", "--verify", "quick",
                   "--json", "--report", "r.json")  # fmt: skip
    document = run.document
    assert (run.code, run.err) == (0, "")
    assert json.loads(Path("r.json").read_text()) == document
    assert [(leg["from"], leg["to"]) for leg in document["legs"]] == [("keras", "onnx"), ("onnx", "torch")]
    first, second = (leg["checks"] for leg in document["legs"])
    assert [(c["original"], c["converted"]) for c in (*first, *second)] == [("keras", "onnx"), ("keras", "torch")]
    assert document["verdict"] == second[0]["verdict"]
    assert first[0]["verdict"]["coverage"]["correspondence"]["weights"]["conv/kernel"]["by"] == "record"
    coverage = document["verdict"]["coverage"]
    names = ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "head/kernel", "head/bias"]
    assert sorted(coverage["parameters"]["compared"]) == sorted(names)
    assert coverage["modes"] == ["eval", "train"]
    assert len(coverage["dims"]["batch"]) > 1
    assert all({"convert", "verify"} <= leg["seconds"].keys() for leg in document["legs"])
    assert {"conv.weight", "norm.running_var", "head.bias"} <= tensors("net.safetensors").keys()


def test_an_onnx_file_becomes_keras(isomorph: Command, files: Path) -> None:
    import keras

    run = isomorph("convert", files / "net.onnx", "--to", "keras", "-o", "net.keras", "--verify", "quick", "--json")
    assert run.code == 0, run.err
    checks = [(c["original"], c["converted"]) for leg in run.document["legs"] for c in leg["checks"]]
    assert checks == [("onnx", "torch"), ("torch", "keras"), ("onnx", "keras")]
    x = np.random.default_rng(0).random((3, 6, 6, 2), np.float32)
    got = np.asarray(keras.models.load_model("net.keras")(x))
    np.testing.assert_allclose(got, np.asarray(keras_net()(x)), rtol=1e-4, atol=1e-4)


def test_torch_becomes_onnx(isomorph: Command) -> None:
    import onnx

    run = isomorph("convert", *NET, "-o", "m.onnx", "--opset", "18", "--verify", "quick", "--json")
    assert run.code == 0, run.err
    checks = [(c["original"], c["converted"]) for leg in run.document["legs"] for c in leg["checks"]]
    assert checks == [("torch", "keras"), ("torch", "onnx")]
    assert run.document["inputs"][0]["dims"] == ["b", 1, 8, 8], "in torch's axis order"
    model = onnx.load("m.onnx")
    assert next(o.version for o in model.opset_import if o.domain == "") == 18


def test_a_program_for_torch(isomorph: Command, files: Path) -> None:
    assert isomorph("convert", files / "net.onnx", "-o", "net.pt2", "--verify", "quick").code == 0
    program = torch.export.load("net.pt2").module()
    x = np.random.default_rng(0).random((3, 6, 6, 2), np.float32)
    expected = np.asarray(keras_net()(x))
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())  # channels first
    np.testing.assert_allclose(program(image).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    assert isomorph("check", files / "net.keras", "net.pt2", "--level", "quick").code == 0


def test_code_that_makes_a_keras_model(isomorph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_by_keras.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = ("--input", "x=float32[b,5]", "--verify", "none", "--json")
    run = isomorph("convert", "made_by_keras:Own", "-o", "net.safetensors", *spec)
    assert run.code == 0, run.err
    assert [leg["from"] for leg in run.document["legs"]] == ["keras", "onnx"]
    assert isomorph("convert", "made_by_keras:Own", "-o", "net.onnx", *spec).code == 0
    assert (
        "--mode means nothing"
        in isomorph("convert", "made_by_keras:Own", "-o", "n.onnx", *spec[:2], "--mode", "eval").error
    )
    assert "it makes no Keras model" in isomorph("convert", "torch.nn:ReLU", "-o", "n.pt2").error


OWN_CLASSES = """
import keras

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.second(self.first(x) * 2)
"""


# --- conversions that are wrong -----------------------------------------------------------------------------------


def _spoilt(conversion: Any) -> None:
    with torch.no_grad():
        kernel = conversion.module.conv.weight
        kernel.copy_(kernel.flip(2))


def _forgetful(conversion: Any) -> None:
    conversion.module.norm.momentum = 0.5


def _turned(conversion: Any) -> None:
    conversion.module.head.register_forward_pre_hook(lambda module, args: (args[0].flip(1),))


@pytest.mark.parametrize("bug", [_spoilt, _forgetful, _turned])
@pytest.mark.parametrize("existing", [False, True])
def test_a_wrong_module_is_not_written(
    bug: Any, existing: bool, isomorph: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isomorph.convert.onnx_in import api

    real = api.to_torch

    def wrong(*args: Any, **kwargs: Any) -> Any:
        conversion = real(*args, **kwargs)
        bug(conversion)
        return conversion

    monkeypatch.setattr(api, "to_torch", wrong)
    if existing:
        Path("m.safetensors").write_text("precious")
    run = isomorph("convert", files / "net.keras", "-o", "m.safetensors", "--verify", "quick")
    assert run.code == 1
    assert "not proven to be the same model (FAIL); m.safetensors was not written" in run.error
    left = {p.name: p.read_text() for p in Path().iterdir()}
    assert left == ({"m.safetensors": "precious"} if existing else {})


def test_a_wrong_export_is_not_written(isomorph: Command, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import numpy_helper

    from isomorph.convert.onnx_out import api

    real = api.to_onnx

    def wrong(*args: Any, **kwargs: Any) -> Any:
        export = real(*args, **kwargs)
        bias = next(t for t in export.proto.graph.initializer if t.name == "head/bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.001), bias.name))
        return export

    monkeypatch.setattr(api, "to_onnx", wrong)
    run = isomorph("convert", files / "net.keras", "-o", "m.onnx", "--verify", "quick", "--json")
    assert run.code == 1
    named = {(m["quantity"], m["name"]) for m in run.document["verdict"]["mismatches"]}
    assert ("signature", "head/bias") in named
    assert os.listdir() == []

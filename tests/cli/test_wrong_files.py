"""Files that are not what they say, and requests that mean nothing: one line, the right exit code, nothing written."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isomorph.convert.routes import CONVERTERS, FORMATS, find, routes

from .conftest import Run

pytest.importorskip("tf2onnx")
Command = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.keras and net.onnx, and files that are damaged or want to run code."""
    import keras
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = tmp_path_factory.mktemp("wrong")
    net = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="fc")])
    net.save(path / "net.keras")
    whole = (path / "net.keras").read_bytes()
    (path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (path / "empty.keras").write_bytes(b"")
    (path / "text.keras").write_text("not a model")
    with zipfile.ZipFile(path / "no_config.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    net.save_weights(path / "only.weights.h5")
    (path / "only.h5").write_bytes((path / "only.weights.h5").read_bytes())

    inner = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda t: t * 2)])
    inner.save(path / "lambda.keras")

    class Doubled(keras.layers.Layer):
        def call(self, t: Any) -> Any:
            return t * 2

    keras.Sequential([keras.Input((3,)), Doubled()]).save(path / "custom.keras")

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    opset = [helper.make_opsetid("", 17)]

    def save(name: str, nodes: list[Any], domain: list[Any] | None = None) -> None:
        graph = helper.make_graph(nodes, "net", [x], [y], [weight])
        onnx.save(helper.make_model(graph, opset_imports=[*opset, *(domain or [])], ir_version=8), path / name)

    save("net.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])])
    save("unknown.onnx", [helper.make_node("Frobnicate", ["x", "w"], ["y"])])
    save("cycle.onnx", [helper.make_node("Add", ["x", "y"], ["y"])])
    whole = (path / "net.onnx").read_bytes()
    (path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (path / "empty.onnx").write_bytes(b"")
    (path / "text.onnx").write_text("not a model")
    (path / "taken.keras").mkdir()
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such keras file": (("{}/no.keras", "-o", "m.onnx"), 2, "no such file"),
    "no such onnx file": (("{}/no.onnx", "-o", "m.pt2"), 2, "no such file"),
    "a folder": (("{}/taken.keras", "-o", "m.onnx"), 2, "is not a file"),
    "a cut keras file": (("{}/cut.keras", "-o", "m.onnx"), 2, "Keras cannot load it"),
    "an empty keras file": (("{}/empty.keras", "-o", "m.onnx"), 2, "Keras cannot load it"),
    "a text": (("{}/text.keras", "-o", "m.onnx"), 2, "Keras cannot load it"),
    "no config": (("{}/no_config.keras", "-o", "m.onnx"), 2, "Keras cannot load it"),
    "weights alone": (("{}/only.h5", "-o", "m.onnx"), 2, "Keras cannot load it"),
    "a lambda": (("{}/lambda.keras", "-o", "m.onnx"), 2, "name code that makes the model, pkg.module:callable"),
    "an unknown class": (("{}/custom.keras", "-o", "m.onnx"), 2, "name code that makes the model, pkg.module:callable"),
    "a cut onnx file": (("{}/cut.onnx", "-o", "m.pt2"), 2, "ONNX"),
    "an empty onnx file": (("{}/empty.onnx", "-o", "m.pt2"), 2, "it is empty"),
    "a text as onnx": (("{}/text.onnx", "-o", "m.pt2"), 2, "ONNX"),
    "an unknown op": (("{}/unknown.onnx", "-o", "m.pt2"), 3, "Frobnicate"),
    "a cycle": (("{}/cycle.onnx", "-o", "m.pt2"), 2, "cycle.onnx"),
    "its own format": (("{}/net.keras", "-o", "m.keras"), 2, "SOURCE is a Keras model already"),
    "its own file": (("{}/net.onnx", "-o", "{}/net.onnx"), 2, "that is SOURCE's own file"),
    "another suffix": (("{}/net.keras", "--to", "torch", "-o", "m.onnx"), 2, "must end in .pt2 or .safetensors"),
    "no suffix": (("{}/net.keras", "-o", "m"), 2, "the name must end in .keras, .onnx, .pt2 or .safetensors"),
    "a source of no format": (("{}/net.tflite", "-o", "m.onnx"), 2, "is not understood"),
    "nothing to torch": (("nothing", "-o", "m.pt2"), 2, "is not understood"),
    "an opset for keras": (("{}/net.onnx", "-o", "m.keras", "--opset", "17"), 2, "--opset means nothing on the way"),
    "trainable to onnx": (("{}/net.keras", "-o", "m.onnx", "--trainable", "all"), 2, "--trainable means nothing"),
    "weights of a file": (("{}/net.keras", "-o", "m.onnx", "--weights", "w.pt"), 2, "--weights means nothing"),
    "batchnorm of torch": (("{}/net.onnx", "-o", "m.pt2", "--batchnorm", "keras"), 2, "--batchnorm means nothing"),
    "another layout": (("{}/net.onnx", "-o", "m.pt2", "--layout", "keras"), 2, "it is torch or source"),
    "an opset of old": (("{}/net.keras", "-o", "m.onnx", "--opset", "3"), 2, "opset=3"),
    "an unknown input": (
        ("{}/net.keras", "-o", "m.onnx", "--input", "y=float32[b,3]", "--input", "z=float32[b]"), 2, "no such input"
    ),
    "another dtype": (("{}/net.onnx", "-o", "m.pt2", "--input", "x=int64[b,3]"), 2, "the model takes float32"),
    "another size": (("{}/net.onnx", "-o", "m.pt2", "--input", "x=float32[b,4]"), 2, "the model's size is 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case: str, isomorph: Command, folder: Path) -> None:
    arguments, code, says = WRONG[case]
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    run = isomorph("convert", *(text.format(folder) for text in arguments))
    assert run.code == code, run.err
    assert says in run.err
    assert "Traceback" not in run.err
    assert len(run.error.splitlines()) == 1 if code == 2 else run.err.count("isomorph: error:") == 1
    assert os.listdir() == []
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_without_tf2onnx(isomorph: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional package: the line says how to get it."""
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    run = isomorph("convert", folder / "net.keras", "-o", "m.onnx")
    assert run.code == 2
    assert "pip install 'isomorph[onnx]'" in run.error


def test_the_routes(isomorph: Command) -> None:
    document = isomorph("routes", "--json").document
    assert (document["status"], document["exit_code"]) == ("PASS", 0)
    assert {(c["from"], c["to"]) for c in document["converters"]} == {(c.source, c.target) for c in CONVERTERS}
    assert {tuple(r["formats"]) for r in document["routes"]} == {
        ("torch", "keras"), ("keras", "onnx"), ("onnx", "torch"),
        ("torch", "keras", "onnx"), ("keras", "onnx", "torch"), ("onnx", "torch", "keras"),
    }  # fmt: skip
    text = isomorph("routes").out
    assert "keras -> onnx -> torch" in text
    assert len(routes()) == len(FORMATS) * (len(FORMATS) - 1)
    assert find("onnx", "keras").cost == 2


def test_the_table_of_onnx_ops(isomorph: Command, folder: Path) -> None:
    rows = isomorph("ops", "--onnx", "--json").document["onnx"]
    assert {"domain": "ai.onnx", "op": "Softmax", "since": 13, "family": rows[0]["family"]}.keys() == rows[0].keys()
    assert {("Conv", "conv"), ("MaxPool", "pool")} <= {(row["op"], row["family"]) for row in rows}
    assert len({(row["domain"], row["op"], row["since"]) for row in rows}) == len(rows)
    assert "takes no SOURCE" in isomorph("ops", "torch.nn:ReLU", "--onnx").error
    assert "see ops --onnx" in isomorph("ops", folder / "net.onnx").error


def test_every_converter_exists() -> None:
    from importlib import import_module

    for converter in CONVERTERS:
        module, _, function = converter.home.partition(":")
        assert callable(getattr(import_module(module), function))

"""What `to_onnx` refuses, and how its files are written."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf

from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError
from isomorph.convert.onnx_out import export, finish, opset
from isomorph.convert.onnx_out.api import to_onnx
from tests.convert.onnx_out_models import Subclassed, convolutional, functional, initializers, run

layers = keras.layers


def small() -> Any:
    return functional(
        (4,), layers.Dense(300, name="wide"), layers.Dropout(0.5, name="drop"), layers.Dense(2, name="out")
    )


@pytest.fixture(scope="module")
def made() -> export.OnnxExport:
    return to_onnx(small())


X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")


# --------------------------------------------------------------------------------------------------------------- saving
def test_saved_whole_and_again(made: export.OnnxExport, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    made.save(path)
    made.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert onnx.load(path) == made.proto
    assert np.array_equal(run(str(path), X)[0], run(made.proto, X)[0])


def test_external_data(made: export.OnnxExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    made.save(path, external_data=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 5000
    onnx.checker.check_model(str(path), full_check=True)
    assert np.array_equal(run(str(path), X)[0], run(made.proto, X)[0])
    before, after = initializers(made.proto), initializers(onnx.load(path))
    assert {n: a.tobytes() for n, a in before.items()} == {n: a.tobytes() for n, a in after.items()}
    monkeypatch.setattr(export, "LIMIT", 2**24 + 1000)  # above the limit it happens by itself
    made.save(tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").exists()
    with pytest.raises(UsageError, match="above 2 GB, which a single file cannot hold"):
        made.save(tmp_path / "one.onnx", external_data=False)
    assert not list(tmp_path.glob("one*"))


@pytest.mark.parametrize("target", ["m.pb", "nowhere/m.onnx", "folder.onnx"])
def test_bad_paths(made: export.OnnxExport, tmp_path: Path, target: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match=target):
        made.save(tmp_path / target)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_failing_write_leaves_what_was_there(
    made: export.OnnxExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_text("before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write", full)
    with pytest.raises(UsageError, match="No space left"):
        made.save(tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "before"


# ---------------------------------------------------------------------------------------------------------- determinism
SCRIPT = """
from tests.convert.test_onnx_out_files import digests
print(*digests())
"""


def masked() -> Any:
    """A loop in the graph, and images, whose equal pieces are merged."""
    x, image = keras.Input((5, 2), name="x"), keras.Input((9, 9, 1), name="image")
    resized = [layers.Resizing(n, n)(image) for n in (6, 7, 6)]
    return keras.Model([x, image], [layers.LSTM(3)(layers.Masking()(x)), *resized], name="net")


def digests() -> list[str]:
    """In a fresh session, as the numbers in automatic names count on; layers without a seed draw one."""
    found = []
    for build in (convolutional, masked):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        data = to_onnx(build()).proto.SerializeToString(deterministic=True)
        found.append(hashlib.sha256(data).hexdigest())
    return found


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes() -> None:
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(p for p in [*sys.path, "."] if p)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    first, second = digests(), digests()
    assert first == second == done.stdout.split()[-2:]


# --------------------------------------------------------------------------------------------------------------- opsets
def test_the_newest_opset_that_runs() -> None:
    newest = opset.newest()
    assert 26 <= newest <= onnx.defs.onnx_opset_version()
    assert to_onnx(small()).proto.opset_import[0].version == newest


@pytest.mark.parametrize("wanted", [16, 18, 21])
def test_an_opset_of_choice(wanted: int) -> None:
    model = functional((6, 3), layers.BatchNormalization(), layers.LSTM(3), layers.GaussianNoise(0.1), layers.Dense(2))
    found = to_onnx(model, opset=wanted)
    assert {o.domain: o.version for o in found.proto.opset_import} == {"": wanted, "isomorph": 1}
    assert {o.version for f in found.proto.functions for o in f.opset_import} == {wanted}
    x = np.ones((2, 6, 3), "float32")
    assert np.allclose(run(found.proto, x)[0], model(x), atol=1e-6)


def test_an_opset_out_of_reach_gives_way_to_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx.version_converter

    own = onnx.version_converter.convert_version

    def convert(proto: Any, version: int) -> Any:
        if version > 21:
            raise RuntimeError("no adapter")
        return own(proto, version)

    monkeypatch.setattr(onnx.version_converter, "convert_version", convert)
    found = to_onnx(small())
    assert (found.report["opset"], found.proto.opset_import[0].version) == (21, 21)
    assert len(found.report["tried"]) == 1
    newer = keras.Sequential([keras.Input((3, 4)), keras.layers.RMSNormalization()])  # an op since 23
    found = to_onnx(newer)
    assert (found.report["opset"], found.report["markers"]) == (21, {})
    with pytest.raises(IsomorphError, match="onnx cannot bring the model to opset 24: RuntimeError: no adapter"):
        to_onnx(small(), opset=24)


@pytest.mark.parametrize("wanted", [3, 99, "18", True])
def test_impossible_opsets(wanted: Any) -> None:
    with pytest.raises(UsageError, match=r"opset=.*(choose 15 to \d+|whole number)"):
        to_onnx(small(), opset=wanted)


# --------------------------------------------------------------------------------------------------------------- errors
def test_what_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"a Dense, not a keras\.Model"):
        to_onnx(layers.Dense(3))
    with pytest.raises(UsageError, match="does not say what it is called with"):
        to_onnx(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(UsageError, match="no such file"):
        to_onnx("nowhere.keras")


def test_missing_inputs_are_asked_for() -> None:
    model = Subclassed()
    model(np.ones((2, 4), "float32"), np.ones((3, 4), "float32"))
    with pytest.raises(UnsupportedError, match=r"missing a required argument: 'b' \(inputs= says"):
        to_onnx(model)
    large = functional((None, None, 1), layers.Conv2D(1, 300))
    with pytest.raises(UsageError, match=r"net cannot be run on an example of its own inputs .*; give example="):
        to_onnx(large)
    x = np.ones((1, 301, 302, 1), "float32")
    assert run(to_onnx(large, example=x).proto, x)[0].shape == (1, 2, 3, 1)


class Foreign(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        y = tf.raw_ops.Betainc(a=x, b=x, x=x) + tf.raw_ops.Igamma(a=x, x=x)
        return y + tf.raw_ops.Igamma(a=x, x=x + 1)


def test_ops_without_a_translation_are_told_all_at_once() -> None:
    with pytest.raises(UnsupportedError, match=r"Betainc \(1, at .*Igamma \(2, at ") as caught:
        to_onnx(functional((4,), Foreign(name="foreign")))
    assert caught.value.exit_code == 3
    assert len(caught.value.ops) == 2


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(UsageError, match=f"Keras runs on {backend}.*KERAS_BACKEND=tensorflow"):
        to_onnx(small())


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else own(name))
    with pytest.raises(UsageError, match="to_onnx needs tf2onnx, which is not installed"):
        to_onnx(small())


def spoiled(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    own = finish.finish

    def finished(*args: Any) -> Any:
        proto = own(*args)
        change(proto)
        return proto

    monkeypatch.setattr(finish, "finish", finished)


def test_a_graph_that_computes_something_else_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(proto: Any) -> None:
        for node in proto.graph.node:
            node.op_type = "Sub" if node.op_type == "Add" else node.op_type

    spoiled(monkeypatch, other)
    with pytest.raises(IsomorphError, match=r"output out differs from Keras' by .* nothing is written") as caught:
        to_onnx(small())
    assert caught.value.exit_code == 4


def test_an_invalid_graph_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, lambda proto: proto.graph.node[0].input.append("nobody"))
    with pytest.raises(IsomorphError, match="is not valid, nothing is written") as caught:
        to_onnx(small())
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_where_optimisation_breaks_the_graph_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx import optimizer

    def broken(graph: Any, **_: Any) -> Any:
        graph.get_nodes()[0].type = "Neg"
        graph.remove_node(next(n for n in graph.get_nodes() if n.type == "MatMul").name)
        return graph

    monkeypatch.setattr(optimizer, "optimize_graph", broken)
    found = to_onnx(small())
    assert not found.report["optimised"]
    assert len(found.report["tried"]) == 1
    assert np.allclose(run(found.proto, X)[0], small()(X), atol=1e-6)


def test_nothing_is_said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    loggers = {name: logging.getLogger(name).handlers[:] for name in ("tf2onnx", "tensorflow")}
    stages: list[str] = []
    to_onnx(functional((8, 8, 4), layers.Conv2D(4, 3, groups=2), layers.RandomFlip()), progress=stages.append)
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])
    assert stages == ["load", "trace", "keras", "lower", "finish", "verify"]
    assert loggers == {name: logging.getLogger(name).handlers for name in loggers}


def test_nothing_is_changed_in_the_model() -> None:
    model = functional((8, 8, 4), layers.GaussianNoise(0.5), layers.BatchNormalization(), layers.Dropout(0.5))
    calls, values = [layer.call for layer in model.layers], [np.asarray(v) for v in model.variables]
    to_onnx(model)
    assert [layer.call for layer in model.layers] == calls
    assert all("call" not in vars(layer) for layer in model.layers)
    assert all(np.array_equal(a, v) for a, v in zip(values, model.variables, strict=True))

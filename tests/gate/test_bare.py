"""What is measured is the model: each format loaded and run by its own framework gives the outputs that it ought to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isomorph.parity.gate.bare import Load, Peak, loader

X = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv1d(4, 5, 1)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return torch.tanh(self.drop(self.first(x)))

def paired():
    return Net(), (torch.zeros(2, 4, 3),)

def keras():
    from isomorph.convert.api import to_keras
    return to_keras(*paired()).model
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One net in every format, with the same weights."""
    import keras
    import tensorflow as tf
    import torch

    import isomorph

    folder = tmp_path_factory.mktemp("formats")
    (folder / "bare_net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    net = scope["Net"]().eval()
    np.save(folder / "expected.npy", net(torch.from_numpy(X)).detach().numpy())
    torch.save(net.state_dict(), folder / "net.pt")
    torch.export.save(torch.export.export(net, (torch.from_numpy(X),)), folder / "net.pt2")
    conversion = isomorph.to_keras(net, (torch.from_numpy(X),), layout="keras")
    conversion.save(folder / "ours.keras")
    inputs = keras.Input((3, 4))
    plain = keras.Model(inputs, keras.ops.tanh(keras.layers.Dense(5)(inputs)))
    plain.set_weights([net.first.weight.detach().numpy()[:, :, 0].T, net.first.bias.detach().numpy()])
    plain.save(folder / "plain.keras")
    plain.export(folder / "saved", format="tf_saved_model", verbose=False)
    lite = tf.lite.TFLiteConverter.from_keras_model(plain).convert()
    (folder / "net.tflite").write_bytes(lite)
    isomorph.to_onnx(plain).save(folder / "net.onnx")
    return folder


def names_of(file: Path) -> tuple[str, ...]:
    from isomorph.parity.runners.open import open_here
    from isomorph.parity.runners.spec import ModelSpec

    return tuple(port.name for port in open_here(ModelSpec(str(file))).runner.about().inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "last", "more"),
    [
        ("bare_net:Net", False, {"weights": "net.pt", "inputs": ("x=float32[2,4,3]",)}),
        ("bare_net.py:Net", False, {"weights": "net.pt", "inputs": ("y=float32[2,4,3]",)}),
        ("bare_net:paired", False, {"weights": "net.pt"}),
        ("net.pt2", False, {}),
        ("ours.keras", False, {}),
        ("plain.keras", True, {}),
        ("net.onnx", True, {}),
        ("net.tflite", True, {}),
        ("saved", True, {}),
    ],
)
def test_each_format(
    files: Path, monkeypatch: pytest.MonkeyPatch, text: str, last: bool, more: Mapping[str, Any]
) -> None:
    """last: whether it takes and gives channels last."""
    monkeypatch.chdir(files)
    given = np.ascontiguousarray(X.transpose(0, 2, 1)) if last else X
    names = names_of(files / text) if text in ("net.onnx", "net.tflite", "saved") else ()
    run = loader(Load(text, "", names, **more), [given])()
    got = run()
    for _ in range(2):
        got = run()
    got = next(iter(got.values())) if isinstance(got, Mapping) else got[0] if isinstance(got, list | tuple) else got
    expected = np.load(files / "expected.npy")
    if text == "ours.keras" or last:
        got = np.asarray(got).transpose(0, 2, 1)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-5)


def test_the_peak_is_that_of_the_time_between() -> None:
    """Whether the system counts it or it is looked at; what was held before and given back does not count."""
    earlier = np.ones(30_000_000)
    del earlier
    for counts in (True, False):
        peak = Peak()
        if not counts and peak._counts:
            peak._counts = False
            peak._thread.start()
        held = np.ones(10_000_000)
        held.sum()
        del held
        assert 70e6 < peak.stop() - peak.before < 120e6


def test_a_constant_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isomorph.convert.errors import UsageError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare_other.py").write_text("three = 3\n")
    with pytest.raises(UsageError, match="neither a model nor a function"):
        loader(Load("bare_other:three", ""), [X])()

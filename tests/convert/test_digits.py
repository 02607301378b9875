"""The embedded default: a net really trained on handwritten digits, through the whole converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isomorph
from fixtures.digits.data import Digits, load_digits
from fixtures.digits.net import WEIGHTS, build, example_inputs, trained

ACCURACY = 443 / 450  # what fixtures/digits/train.py reported for the weights in the repository
MAX_WEIGHT_BYTES = 300_000


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture
def net() -> torch.nn.Module:
    return trained()


def torch_scores(net: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return net(torch.from_numpy(images)).numpy()


def keras_scores(conversion: Any, images: np.ndarray, model: Any = None) -> np.ndarray:
    port_in, port_out = conversion.inputs[0], conversion.outputs[0]
    model = conversion.model if model is None else model
    return port_out.to_torch(np.asarray(model(port_in.to_keras(images), training=False)))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(1) == labels).mean())


def test_the_weights_are_trained(net: torch.nn.Module, digits: Digits) -> None:
    assert WEIGHTS.stat().st_size < MAX_WEIGHT_BYTES
    assert accuracy(torch_scores(net, digits.test_x), digits.test_y) == pytest.approx(ACCURACY, abs=1e-9)
    assert accuracy(torch_scores(build(), digits.test_x), digits.test_y) < 0.5


@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_keras_gives_the_same_labels(net: torch.nn.Module, digits: Digits, layout: str) -> None:
    conversion = isomorph.to_keras(net, example_inputs(), layout=layout)
    expected = torch_scores(net, digits.test_x)
    got = keras_scores(conversion, digits.test_x)
    assert (got.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert conversion.model.inputs[0].shape[1:] == ((8, 8, 1) if layout == "keras" else (1, 8, 8))


def test_the_verdict_is_pass(net: torch.nn.Module) -> None:
    verdict = isomorph.check(net, isomorph.to_keras(net, example_inputs()))
    assert verdict.status == "PASS", verdict.summary()


def test_push_then_pull_is_bit_identical(net: torch.nn.Module) -> None:
    conversion = isomorph.to_keras(net, example_inputs())
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator).abs() if value.is_floating_point() else value + 3
        for name, value in net.state_dict().items()
    }
    conversion.push(state)
    pulled = conversion.pull()
    assert set(pulled) == set(state)
    for name, value in state.items():
        got = np.asarray(pulled[name])
        assert got.dtype == value.numpy().dtype, name
        assert got.tobytes() == value.numpy().tobytes(), name


def test_fine_tuned_weights_come_back(net: torch.nn.Module, digits: Digits, tmp_path: Path) -> None:
    """What scripts/demo shows: fit in Keras, pull into torch, save and load; the labels agree at every stop."""
    import keras

    import isomorph.convert.layers

    keras.utils.set_random_seed(0)
    conversion = isomorph.to_keras(net, example_inputs())
    before = keras_scores(conversion, digits.test_x)
    conversion.model.compile(keras.optimizers.Adam(3e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    conversion.model.fit(conversion.inputs[0].to_keras(digits.train_x), digits.train_y, batch_size=64, verbose=0)
    tuned = keras_scores(conversion, digits.test_x)
    assert np.abs(tuned - before).max() > 1e-3
    assert accuracy(tuned, digits.test_y) > 0.97

    net.load_state_dict({name: torch.as_tensor(value) for name, value in conversion.pull().items()})
    pulled = torch_scores(net.eval(), digits.test_x)
    assert (pulled.argmax(1) == tuned.argmax(1)).all()
    np.testing.assert_allclose(pulled, tuned, rtol=1e-4, atol=1e-4)

    path = tmp_path / "digits.keras"
    conversion.save(path)
    plain = keras_scores(conversion, digits.test_x, keras.models.load_model(path))
    assert np.array_equal(plain, tuned)
    ours = isomorph.load(path)
    assert np.array_equal(keras_scores(ours, digits.test_x), tuned)
    for name, value in ours.pull().items():
        assert np.asarray(value).tobytes() == np.asarray(conversion.pull()[name]).tobytes(), name

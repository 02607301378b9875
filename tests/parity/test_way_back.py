"""The check of the way back: a Keras model against the module that it becomes, by the recorded map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import isomorph
from isomorph.convert.weights import Transform
from tests.parity.way_back import Net, keras_net, torch_conversion

KINDS = {"missing", "value", "frozen", "structure", "random", "tied"}


def check(model: Any, conversion: Any, **more: Any) -> dict[str, Any]:
    more.setdefault("level", "quick")
    more.setdefault("explain", False)
    return isomorph.check(model, conversion, **more).to_dict()


def failing(verdict: dict[str, Any]) -> set[tuple[str, str]]:
    return {(m["quantity"], m["name"]) for m in verdict["mismatches"]}


def test_the_right_module_passes_with_every_gradient_by_name() -> None:
    model = keras_net()
    verdict = check(model, torch_conversion(model), level="full", examples=6)
    assert verdict["status"] == "PASS", verdict["mismatches"]
    coverage = verdict["coverage"]
    names = [v.path for v in model.trainable_variables]
    assert sorted(coverage["parameters"]["compared"]) == sorted(names)
    assert coverage["inputs"] == ["image"]
    assert coverage["modes"] == ["eval", "train"]
    assert coverage["buffers"]["compared"] == ["norm/moving_mean", "norm/moving_variance"]
    assert coverage["correspondence"]["weights"]["conv/kernel"]["by"] == "record"
    assert coverage["random"]["train"]["elements"] > 0, "dropout was judged by its law"
    assert any(check["stage"] == "steps" and check["quantity"] == "parameter" for check in verdict["checks"])


def test_the_models_stay_as_they_are() -> None:
    model = keras_net()
    conversion = torch_conversion(model)
    before = [np.array(v) for v in model.variables], {n: t.clone() for n, t in conversion.module.state_dict().items()}
    check(model, conversion)
    assert all(np.array_equal(old, v) for old, v in zip(before[0], model.variables, strict=True))
    assert all(torch.equal(old, conversion.module.state_dict()[n]) for n, old in before[1].items())


def test_a_module_as_the_original_against_the_keras_model() -> None:
    """The record serves in both directions."""
    model = keras_net()
    verdict = check(torch_conversion(model), model)
    assert verdict["status"] == "PASS", verdict["mismatches"]
    assert verdict["coverage"]["correspondence"]["weights"]["conv.weight"]["by"] == "record"


def test_a_frozen_layer_stays_frozen() -> None:
    model = keras_net(frozen=True)
    conversion = torch_conversion(model)
    assert check(model, conversion)["status"] == "PASS"
    conversion.module.conv.weight.requires_grad_(True)
    assert ("signature", "conv/kernel") in failing(check(model, conversion))


def _transposed_kernel(conversion: Any) -> None:
    with torch.no_grad():
        kernel = conversion.module.conv.weight
        kernel.copy_(kernel.transpose(2, 3).clone())


def _momentum(conversion: Any) -> None:
    conversion.module.norm.momentum = 0.9


def _unbiased(conversion: Any) -> None:
    conversion.module.norm.population = False


def _epsilon(conversion: Any) -> None:
    conversion.module.norm.eps = 1e-5


def _no_transpose(conversion: Any) -> None:
    class Flat(Net):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(self.dropout(torch.tanh(self.norm(self.conv(image))).flatten(1)))

    conversion.module.__class__ = Flat


def _one_batch(conversion: Any) -> None:
    class Fixed(Net):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image.reshape(2, 2, 6, 6))

    conversion.module.__class__ = Fixed


def _rate(conversion: Any) -> None:
    conversion.module.dropout.p = 0.45


def _renamed_rate(conversion: Any) -> None:
    """What no name gives away the law of the draws does."""

    class Renamed(Net):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.norm(self.conv(image)))
            return self.head(self.random(h.permute(0, 2, 3, 1).flatten(1)))

    conversion.module.random = nn.Dropout(0.1)
    del conversion.module.dropout
    conversion.module.__class__ = Renamed


def _no_dropout(conversion: Any) -> None:
    conversion.module.dropout.p = 0.0


def _detached(conversion: Any) -> None:
    conversion.module.conv.register_forward_hook(lambda module, args, result: result.detach())


def _wrong_record(conversion: Any) -> None:
    entries = {e.torch_name: e for e in conversion.weights}
    wrong = Transform((("transpose", (3, 2, 1, 0), ()),))  # height and width exchanged
    entries["conv.weight"] = replace(entries["conv.weight"], transform=wrong)
    conversion.weights = tuple(entries.values())


def _forgotten(conversion: Any) -> None:
    conversion.weights = tuple(e for e in conversion.weights if e.torch_name != "head.bias")


def _wrong_port(conversion: Any) -> None:
    conversion.inputs = (replace(conversion.inputs[0], permutation=(0, 3, 2, 1)),)  # height and width exchanged


def _more(conversion: Any) -> None:
    conversion.module.extra = nn.Parameter(torch.ones(3))


BUGS: dict[str, tuple[Callable[[Any], None], tuple[str, str], str]] = {
    "kernel transposed": (_transposed_kernel, ("signature", "conv/kernel"), "quick"),
    "wrong momentum": (_momentum, ("buffer", "norm/moving_mean"), "quick"),
    "unbiased variance": (_unbiased, ("buffer", "norm/moving_variance"), "quick"),
    "wrong epsilon": (_epsilon, ("output", "0"), "quick"),
    "missing transpose": (_no_transpose, ("output", "0"), "quick"),
    "one batch size": (_one_batch, ("signature", "call"), "quick"),
    "wrong rate": (_rate, ("signature", "dropout"), "quick"),
    "wrong rate under another name": (_renamed_rate, ("output", "all"), "full"),
    "no dropout": (_no_dropout, ("output", "0"), "quick"),
    "no gradient": (_detached, ("parameter gradient", "conv/kernel"), "quick"),
    "wrong record": (_wrong_record, ("signature", "conv/kernel"), "quick"),
    "a weight without a record": (_forgotten, ("signature", "head/bias"), "quick"),
    "another input order": (_wrong_port, ("output", "0"), "quick"),
    "a parameter more": (_more, ("signature", "extra"), "quick"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_wrong_modules_are_caught(bug: str) -> None:
    plant, where, level = BUGS[bug]
    model = keras_net()
    conversion = torch_conversion(model)
    plant(conversion)
    verdict = check(model, conversion, level=level, examples=3)
    assert verdict["status"] == "FAIL", verdict["coverage"]["reason"]
    assert where in failing(verdict)


def test_an_onnx_file_whose_epsilon_and_slope_are_float32_is_the_same_model() -> None:
    """0.001 and 0.3 are attributes there, of float32, and what that rounds the layers behind amplify. Inputs that are
    equal cancel, and their scale is normalised away: an error planted by those would not be seen."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([
        keras.layers.Conv2D(4, 3), keras.layers.GroupNormalization(2), keras.layers.LeakyReLU(0.3),
        keras.layers.Flatten(), keras.layers.Dense(6),
    ])  # fmt: skip
    left, right = keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    apart = keras.ops.abs(encoder(left) - encoder(right))
    model = keras.Model([left, right], keras.layers.Dense(1, activation="sigmoid")(apart * 20.0))
    verdict = check(model, isomorph.to_onnx(model), level="full", examples=8)
    assert verdict["status"] == "PASS", (verdict["coverage"].get("reason"), verdict["mismatches"])
    assert all(tooth["caught"] for tooth in verdict["coverage"]["teeth"])

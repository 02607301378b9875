"""The correspondence of hand-ported models is found, and the adapted port answers as the original does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.correspond import find
from isomorph.parity.matching.correspondence import Correspondence
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.runners.keras_model import open_keras
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.runners.torch_runner import Call, TorchRunner
from tests.parity.hand_ports import KERAS, TORCH, Made, seeded


def torch_runner(module: nn.Module, example: tuple[torch.Tensor, ...]) -> TorchRunner:
    call = Call(example)
    return TorchRunner(module, call, call.names(module))


def turned(example: tuple[torch.Tensor, ...], name: str) -> tuple[torch.Tensor, ...]:
    """The example as the port within torch takes it."""
    if name == "cnn":
        return tuple(tensor.permute(0, 2, 3, 1) for tensor in example)
    return example[::-1] if name == "two inputs" else example


def runners(made: Made, name: str = "") -> tuple[Runner, Runner, tuple[Any, ...]]:
    original, example, port = made
    arrays = tuple(tensor.numpy() for tensor in example)
    if isinstance(port, nn.Module):
        return torch_runner(original, example), torch_runner(port, turned(example, name)), arrays
    return torch_runner(original, example), open_keras(ModelSpec(port)).runner, arrays


def assert_same(expected: Response, got: Response, rtol: float, but: tuple[str, ...] = ()) -> int:
    """Every array of the original's response is in the other's, but for buffers that end so; returns how many."""
    assert got.structure == expected.structure
    count = 0
    there = got.groups()
    for quantity, arrays in expected.groups().items():
        for name, array in arrays.items():
            if name.endswith(("num_batches_tracked", *but)):
                continue
            assert name in there[quantity], f"{quantity} {name} is missing"
            other = there[quantity][name]
            assert other.shape == array.shape, f"{quantity} {name}"
            scale = float(np.max(np.abs(array), initial=0.0)) + 1e-3
            np.testing.assert_allclose(other, array, rtol=0, atol=rtol * scale, err_msg=f"{quantity} {name}")
            count += 1
    return count


def assert_corresponds(
    original: Runner, converted: Runner, example: tuple[Any, ...], but: tuple[str, ...] = ()
) -> Correspondence:
    """Both modes, forward and backward, in float64; parameters, buffers and state."""
    found = find(original, converted, example)
    assert not found.contradictions
    adapted = Adapted(converted, found)
    left, right = original.to_float64(), adapted.to_float64()
    for mode in ("eval", "train"):
        expected = left.respond(Request(example, mode, seed=3))
        request = Request(example, mode, cotangents=expected.cotangents, structure=expected.structure)
        assert assert_same(expected, right.respond(request), 1e-9, but) > 2
    state = original.state()
    held = adapted.state()
    for name in original.parameters():
        assert np.array_equal(held[name], state[name]), name
    infos = adapted.parameters()
    for name, info in original.parameters().items():
        assert infos[name] == info
    assert infos.keys() == original.parameters().keys()
    return found


class Anonymous:
    """A runner whose variables have other names, and another order: nothing but their values and effects is left."""

    def __init__(self, inner: Any, names: dict[str, str] | None = None) -> None:
        self.inner, self.dtype = inner, inner.dtype
        own = [*inner.parameters(), *inner.buffers()]
        order = np.random.default_rng(0).permutation(len(own))
        self.names = names or {own[at]: f"variable_{place}" for place, at in enumerate(order)}
        self.own = {name: own for own, name in self.names.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _renamed(self, items: Any) -> dict[str, Any]:
        return {name: items[own] for own, name in self.names.items() if own in items}

    def parameters(self) -> dict[str, Any]:
        return {name: replace(info, name=name) for name, info in self._renamed(self.inner.parameters()).items()}

    def buffers(self) -> dict[str, Any]:
        return {name: replace(info, name=name) for name, info in self._renamed(self.inner.buffers()).items()}

    def state(self) -> dict[str, Any]:
        return self._renamed(self.inner.state())

    def load(self, state: Any) -> None:
        self.inner.load({self.own[name]: array for name, array in state.items()})

    def to_float64(self) -> Anonymous:
        return Anonymous(self.inner.to_float64(), self.names)

    def respond(self, request: Request) -> Response:
        got = self.inner.respond(request)
        gradients, buffers = self._renamed(got.parameter_gradients), self._renamed(got.buffers)
        return replace(got, parameter_gradients=gradients, buffers=buffers)


@pytest.mark.parametrize(
    ("made", "name"),
    [(KERAS["cnn as initialised"], ""), (TORCH["squares"], ""), (TORCH["attention"], ""), (KERAS["lstm"], "")],
)
def test_without_names_or_order_the_effects_decide(made: Callable[[], Made], name: str) -> None:
    seeded()
    original, converted, example = runners(made(), name)
    found = assert_corresponds(original, Anonymous(converted), example, ("running_var",))
    assert not found.ambiguous


def test_what_has_no_effect_stays_ambiguous() -> None:
    """Two biases that are added: either could be either."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 + 0 * (self.a * self.b)

    original, converted, example = runners((Twice(), (torch.randn(2, 4),), Twice()))
    found = find(original, Anonymous(converted), example)
    assert [found.weights[name].how for name in ("a", "b")] == ["order", "order"]
    assert len(found.ambiguous) == 2


@pytest.mark.parametrize("name", TORCH)
def test_ports_within_torch(name: str) -> None:
    seeded()
    found = assert_corresponds(*runners(TORCH[name](), name))
    assert not found.ambiguous
    assert not found.unmatched_original
    assert not found.unmatched_converted


@pytest.mark.parametrize("name", KERAS)
def test_ports_to_keras(name: str) -> None:
    seeded()
    but = ("running_var",)  # Keras updates it with the biased variance: a real difference, found and not repaired
    found = assert_corresponds(*runners(KERAS[name](), name), but)
    assert not found.ambiguous
    assert not found.unmatched_original
    assert not found.unmatched_converted


class Folded(nn.Module):
    """A batch norm folded into its convolution, as formats for inference have it."""

    def __init__(self, one: Any) -> None:
        super().__init__()
        factor = one.norm.weight / torch.sqrt(one.norm.running_var + one.norm.eps)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.conv.weight = nn.Parameter((one.conv.weight * factor[:, None, None, None]).detach())
        self.conv.bias = nn.Parameter(((one.conv.bias - one.norm.running_mean) * factor + one.norm.bias).detach())
        self.head = nn.Linear(120, 7)
        self.head.load_state_dict(one.head.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


class ForInference(Anonymous):
    def __init__(self, inner: Any, names: Any = None) -> None:
        super().__init__(inner, names or {name: name for name in (*inner.parameters(), *inner.buffers())})

    def about(self) -> Any:
        return replace(self.inner.about(), gradients=False)


def test_weights_that_a_format_folded_are_not_taken_for_others() -> None:
    seeded()
    one, example, _ = TORCH["cnn"]()
    original, converted, arrays = runners((one, example, Folded(one)))
    trainable = find(original, converted, arrays)
    assert trainable.weights["conv.weight"].how == "shape"
    found = find(original, ForInference(converted), arrays)
    assert found.weights.keys() == {"head.weight", "head.bias"}
    assert set(found.unmatched_converted) == {"conv.weight", "conv.bias"}
    assert not found.ambiguous
    assert not found.complete
    state = original.state()
    Adapted(converted, found).load({name: 2 * array for name, array in state.items() if array.dtype.kind == "f"})
    assert np.array_equal(converted.state()["head.weight"], 2 * state["head.weight"])
    assert not np.array_equal(converted.state()["conv.weight"], 2 * state["conv.weight"])

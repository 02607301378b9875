"""An adapted model is a runner like any other: what is loaded is held, what is asked is answered, bugs stay bugs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.ledger import Ledger
from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.correspond import find
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.signature import check_signature
from isomorph.parity.stages import Example, compare_in_float64
from isomorph.parity.verdict import Case
from tests.parity import hand_ports
from tests.parity.hand_ports import KERAS, TORCH, Made, array, seeded
from tests.parity.test_correspond import assert_same, runners


def adapted(made: Made, name: str = "") -> tuple[Runner, Adapted, tuple[Any, ...]]:
    original, converted, example = runners(made, name)
    return original, Adapted(converted, find(original, converted, example)), example


def random_state(runner: Runner) -> dict[str, Any]:
    """Other values for all parameters and buffers, tied names alike."""
    rng = np.random.default_rng(5)
    state = {}
    for name, value in runner.state().items():
        if value.dtype.kind == "f":
            info = {**runner.parameters(), **runner.buffers()}[name]
            moved = np.asarray(value * rng.uniform(0.7, 1.3, value.shape) + 0.1 * rng.random(value.shape))
            state[name] = state[info.tied_to] if info.tied_to else moved
    return state


@pytest.mark.parametrize("name", ["lstm", "gru", "attention", "tied", "cnn"])
def test_what_is_loaded_is_held_and_computed_with(name: str) -> None:
    seeded()
    original, converted, example = adapted(KERAS[name]())
    left, right = original.to_float64(), converted.to_float64()
    state = random_state(left)
    left.load(state)
    right.load(state)
    held = right.state()
    for parameter, value in state.items():
        np.testing.assert_allclose(held[parameter], value, rtol=1e-12, err_msg=parameter)
    expected = left.respond(Request(example, "eval"))
    request = Request(example, "eval", cotangents=expected.cotangents, structure=expected.structure)
    assert_same(expected, right.respond(request), 1e-9)


def test_one_summand_can_be_loaded_by_itself() -> None:
    seeded()
    original, converted, example = adapted(KERAS["lstm"]())
    left, right = original.to_float64(), converted.to_float64()
    for name in ("rnn.bias_ih_l0", "rnn.bias_hh_l0", "rnn.bias_hh_l1"):
        value = np.random.default_rng(len(name)).standard_normal(16)
        left.load({name: value})
        right.load({name: value})
        assert np.array_equal(right.state()[name], value)
        expected = left.respond(Request(example, "eval"))
        request = Request(example, "eval", cotangents=expected.cotangents)
        assert_same(expected, right.respond(request), 1e-9)


def test_both_models_are_left_as_they_were() -> None:
    seeded()
    for name in ("squares", "cnn"):
        original, converted, example = runners(TORCH[name](), name)
        before = original.state(), converted.state()
        find(original, converted, example)
        for old, new in zip(before, (original.state(), converted.state()), strict=True):
            assert all(np.array_equal(old[key], new[key]) for key in old)


class Untied(nn.Module):
    """The head has a copy of the table."""

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        table = one.embed.weight.detach()
        self.table, self.head = nn.Parameter(table.clone()), nn.Parameter(table.T.clone())
        self.w, self.b = nn.Parameter(one.mix.weight.detach().clone()), nn.Parameter(one.mix.bias.detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        return torch.relu(F.linear(self.table[ids], self.w, self.b)) @ self.head


def test_a_tied_weight_that_the_port_holds_twice_is_a_mismatch() -> None:
    seeded()
    one, example, _ = hand_ports.tied()
    original, converted, arrays = adapted((one, example, Untied(one)))
    ledger = Ledger()
    check_signature(original, converted, ledger)
    assert [(m.kind, m.name) for m in ledger.mismatches] == [("tied", "head.weight")]
    expected = original.to_float64().respond(Request(arrays, "eval"))
    request = Request(arrays, "eval", cotangents=expected.cotangents)
    assert_same(expected, converted.to_float64().respond(request), 1e-9)  # the gradients of both, added


def test_frozen_and_additional_parameters_are_seen() -> None:
    seeded()
    one, example, port = hand_ports.mlp()
    port.w0.requires_grad_(False)
    port.more = nn.Parameter(torch.randn(2))
    original, converted, _ = adapted((one, example, port))
    ledger = Ledger()
    check_signature(original, converted, ledger)
    assert {(m.kind, m.name) for m in ledger.mismatches} == {("frozen", "second.weight"), ("missing", "more")}


def test_a_parameter_in_half_precision_keeps_the_originals_value() -> None:
    seeded()
    one, example, port = hand_ports.mlp()
    original, converted, _ = adapted((one, example, port.half()))
    state, held = original.state(), converted.state()
    assert all(np.array_equal(state[name], held[name]) for name in state)
    assert converted.parameters()["first.weight"].dtype == "float16"
    converted.load({"first.weight": state["first.weight"] * 2})
    assert np.array_equal(converted.state()["first.weight"], state["first.weight"] * 2)


class Auxiliary(nn.Module):
    """Another output in train mode only."""

    def __init__(self, one: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)
        if one is not None:
            self.load_state_dict(one.state_dict())
        self.first = one is not None

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return {"y": self.a(x)}
        both = {"y": self.a(x), "aux": self.b(x)}
        return {"aux": both["aux"], "y": both["y"]} if self.first else both


def test_a_mode_with_other_outputs_is_answered_in_the_originals_order() -> None:
    seeded()
    one = Auxiliary()
    original, converted, example = adapted((one, (torch.randn(2, 4),), Auxiliary(one)))
    left, right = original.to_float64(), converted.to_float64()
    for mode in ("eval", "train"):
        expected = left.respond(Request(example, mode))
        request = Request(example, mode, cotangents=expected.cotangents, structure=expected.structure)
        assert_same(expected, right.respond(request), 1e-12)


def test_about_speaks_the_originals_names_and_axes() -> None:
    seeded()
    _, converted, _ = adapted(KERAS["cnn"]())
    about = converted.about()
    assert about.mapped
    assert [(port.name, port.dims and port.dims[1:]) for port in about.inputs] == [("x", (4, 6, 7))]


@pytest.mark.parametrize("name", ["cnn", "two inputs"])
def test_it_may_take_the_originals_place(name: str) -> None:
    """It draws cotangents of its own, which are told in the original's order and axes."""
    seeded()
    original, converted, example = adapted(TORCH[name](), name)
    left, right = converted.to_float64(), original.to_float64()
    expected = left.respond(Request(example, "eval", seed=2))
    assert all(c is not None and c.shape == o.shape for c, o in zip(expected.cotangents, expected.outputs, strict=True))
    request = Request(example, "eval", cotangents=expected.cotangents, structure=expected.structure)
    assert_same(expected, right.respond(request), 1e-9)


# --- bugs are not repaired ----------------------------------------------------------------------------------------


def judged(original: Runner, converted: Runner, example: tuple[Any, ...], mode: str = "eval") -> set[tuple[str, str]]:
    """What differs: (quantity, name)."""
    wide, twin = original.to_float64(), converted.to_float64()
    case = Example(original, wide, Case("normal", 0), Request(example, mode), "float32")
    outcomes = compare_in_float64(case, twin, Ledger())
    return {key for key, outcome in outcomes.items() if outcome not in ("equal", "vacuous")}


class SquareByHand(nn.Module):
    def __init__(self, one: Any, transposed: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(one.weight.detach().T.clone() if transposed else one.weight.detach().clone())
        self.b = nn.Parameter(one.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


def test_a_square_weight_that_was_not_transposed() -> None:
    seeded()
    one, example = nn.Linear(6, 6), (torch.randn(3, 6),)
    for transposed in (True, False):
        parts = adapted((one, example, SquareByHand(one, transposed)))
        wrong = judged(*parts)
        assert ("output", "0") not in wrong if transposed else ("output", "0") in wrong
        assert bool(wrong) != transposed


def gru_in_torch_order() -> Made:
    one, example, port = KERAS["gru"]()
    for index, layer in enumerate(layer for layer in port.layers if "gru" in layer.name):
        w, u, b, c = (
            array(getattr(one.rnn, f"{n}_l{index}")) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        layer.set_weights([w.T, u.T, np.stack([b, c])])
    return one, example, port


def flattened_in_torch_order() -> Made:
    """The classic: the weights of a dense layer after NCHW flattening, used after NHWC flattening."""
    one, example, port = KERAS["cnn"]()
    head = port.layers[-1]
    head.set_weights([array(one.head.weight).T, array(one.head.bias)])
    return one, example, port


def queries_for_keys() -> Made:
    one, example, port = TORCH["attention"]()
    port.q, port.k = port.k, port.q
    port.q_bias, port.k_bias = port.k_bias, port.q_bias
    return one, example, port


def running_statistics_exchanged() -> Made:
    one, example, port = KERAS["cnn"]()
    norm = next(layer for layer in port.layers if "batch" in layer.name)
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta, variance, np.abs(mean)])
    return one, example, port


BUGS: dict[str, Callable[[], Made]] = {
    "gate order": gru_in_torch_order,
    "flatten order": flattened_in_torch_order,
    "queries for keys": queries_for_keys,
    "running statistics": running_statistics_exchanged,
}


@pytest.mark.parametrize("name", BUGS)
def test_a_correspondence_does_not_hide_a_bug(name: str) -> None:
    seeded()
    assert ("output", "0") in judged(*adapted(BUGS[name]()))


def test_one_changed_element_is_named() -> None:
    seeded()
    one, example, port = hand_ports.mlp()
    with torch.no_grad():
        port.w1[2, 3] += 0.5
    original, converted, _ = adapted((one, example, port))
    ledger = Ledger()
    check_signature(original, converted, ledger)
    assert [(m.kind, m.name) for m in ledger.mismatches] == [("value", "first.weight")]
    assert "1 of 36 elements" in ledger.mismatches[0].message
    assert any("differs in 1 of 36" in line for line in converted.correspondence.ambiguous)

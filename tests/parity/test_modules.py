"""The grammar of random modules: what it draws is PyTorch, well-typed, reproducible, and shrinks to little."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis.errors import NoSuchExample

from isomorph.parity.fuzzing.grammar import PRODUCTIONS, Growth, Value, grows, window
from isomorph.parity.fuzzing.modules import BATCH, CHOICES, INPUTS, Program, grow, modules

PROGRAMS = 150


def drawn(seed: int) -> Program:
    rng = random.Random(seed)
    genes = [(rng.choice(sorted(PRODUCTIONS)), rng.randrange(CHOICES)) for _ in range(rng.randint(1, 14))]
    return grow(genes, [rng.choice(list(INPUTS)) for _ in range(rng.choice((1, 2)))], seed)


def shapes_hold(program: Program, training: bool) -> bool:
    """Runs it forward and backward; whether the outputs have the shapes that the grammar says."""
    module, inputs = program.build()
    outputs = module.train(training)(*(x.requires_grad_(x.is_floating_point()) for x in inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum(y.sum() for y in outputs)
    if total.requires_grad:
        total.backward()
    made = {step.made.name: step.made.shape for step in program.steps}
    return [tuple(y.shape) for y in outputs] == [(BATCH, *made[name]) for name in program.outputs]


def test_torch_accepts_nearly_every_program() -> None:
    refused: list[str] = []
    for seed in range(PROGRAMS):
        program = drawn(seed)
        try:
            assert shapes_hold(program, training=bool(seed % 2)), f"other shapes than the grammar says:\n{program}"
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            refused.append(f"{error}\n{program}")
    assert len(refused) < 0.05 * PROGRAMS, refused[0]


@pytest.mark.parametrize("name", sorted(PRODUCTIONS))
def test_every_production_grows_and_runs(name: str) -> None:
    """With the simplest choices and with random ones."""
    rng = random.Random(name)
    grown = 0
    for attempt in range(12):
        number = rng.randrange(CHOICES) if attempt else 0
        for kind in INPUTS:
            program = grow([("linear", 0), (name, number)] if kind != "ids" else [(name, number)], [kind], attempt)
            if any(step.production == name for step in program.steps):
                grown += 1
                assert shapes_hold(program, training=attempt % 2 == 1)
    assert grown >= 6


def test_the_same_program_has_the_same_text_weights_and_example() -> None:
    for seed in range(5):
        first, second = drawn(seed), drawn(seed)
        assert first.source() == second.source()
        (left, x), (right, y) = first.build(), second.build()
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
        assert all(
            torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
        )


def test_building_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    drawn(3).build()
    assert torch.equal(before, torch.random.get_rng_state())


def test_no_step_is_dead_and_every_input_is_read() -> None:
    for seed in range(40):
        program = drawn(seed)
        needed = set(program.outputs)
        for step in reversed(program.steps):
            assert step.made.name in needed, f"{step.made.name} is read by nothing:\n{program}"
            needed.update(step.read)


def test_sizes_are_kept() -> None:
    genes = [("linear", 0)] * 30
    assert len(grow(genes, ["vector"], max_size=3).steps) == 3


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(modules(max_size=4))
def test_the_strategy_draws_programs(program: Program) -> None:
    module, inputs = program.build()
    assert isinstance(module, torch.nn.Module)
    assert program.outputs
    assert len(inputs) == len(program.inputs) in (1, 2)


@pytest.mark.parametrize(("wanted", "steps"), [("layer_norm", 1), ("recurrent", 2), ("conv2d", 1)])
def test_it_shrinks_to_few_steps(wanted: str, steps: int) -> None:
    """The smallest program with a production has that production and what leads to it, in its first form."""
    quiet = settings(max_examples=2000, derandomize=True, database=None, deadline=None)
    program = find(modules(), lambda p: any(step.production == wanted for step in p.steps), settings=quiet)
    assert len(program.steps) <= steps, str(program)


def test_what_cannot_be_is_not_found() -> None:
    quiet = settings(max_examples=50, derandomize=True, database=None, deadline=None)
    with pytest.raises(NoSuchExample):
        find(modules(max_size=2), lambda p: len(p.steps) > 20, settings=quiet)


def test_a_production_without_a_form_changes_nothing() -> None:
    growth = Growth([Value("x", (1,))])
    assert not growth.step("rms_norm", growth.values[0], 0)
    assert growth.steps == []
    assert growth.name("norm") == "norm1"


def test_two_productions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="linear already"):

        @grows("vector")
        def linear(g: Growth, x: Value) -> Value | None:
            return None


@pytest.mark.parametrize("ceil", [False, True])
def test_window_is_torchs(ceil: bool) -> None:
    for size in range(1, 9):
        for kernel, stride, padding in [(2, 2, 0), (2, 1, 1), (3, 2, 1), (3, 3, 0), (3, 1, 1), (2, 3, 1)]:
            expected = 0
            if size + 2 * padding >= kernel:
                pool = torch.nn.MaxPool1d(kernel, stride, padding, ceil_mode=ceil)
                expected = pool(torch.zeros(1, 1, size)).shape[-1]
            assert window(size, kernel, stride, padding, 1, ceil) == expected

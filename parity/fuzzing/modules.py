"""A hypothesis strategy of random well-typed torch modules, to test what takes modules: converters, exporters, checks.

    @given(modules())
    def test_it(program):
        module, inputs = program.build()

A program is data; `source()` is the module as a Python file that needs torch only. It is grown from a list of
(production, number): see `grammar`. hypothesis shrinks that list, so a failing program comes down to
few steps in their simplest forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

# the productions of these two modules are registered by importing them
from isomorph.parity.fuzzing import grammar_functions, grammar_layers  # noqa: F401
from isomorph.parity.fuzzing.grammar import PRODUCTIONS, Growth, Step, Value

__all__ = ["Gene", "Program", "grow", "modules"]

Gene = tuple[str, int]  # the name of a production, and its choices
CHOICES = 2**40  # numbers below it: enough digits for the choices of any production
INPUTS: dict[str, tuple[int, ...]] = {"image": (4, 6, 5), "sequence": (5, 6), "vector": (6,), "ids": (5,)}
BATCH = 3
OUTPUTS = 3
# How a value becomes one with an axis less, or more.
DOWN = {"image": "image_to_sequence", "sequence": "pick_one"}
UP = {"ids": "embedding", "vector": "unflatten", "sequence": "unflatten"}
RANKS = ("ids", "vector", "sequence", "image")


@dataclass(frozen=True)
class Program:
    """A module as data. inputs: the example's shapes follow from them, with a batch of `BATCH`. outputs: names, at
    least one. seed: of weights and example."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    seed: int

    def source(self) -> str:
        """A Python file: class `Net`, and `make()`, which gives the seeded module and its example inputs."""
        holds = [line for step in self.steps for line in step.holds]
        lines = [line for step in self.steps for line in step.lines]
        names = ", ".join(value.name for value in self.inputs)
        result = ", ".join(self.outputs)
        draws = [
            f"torch.randint(0, 10, ({BATCH}, {value.shape[0]}))"
            if value.integer
            else f"torch.randn({', '.join(map(str, (BATCH, *value.shape)))})"
            for value in self.inputs
        ]
        return "\n".join(
            [
                *("import torch", "import torch.nn.functional as F", "from torch import nn", "", ""),
                *("class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"),
                *(f"        {line}" for line in holds),
                *("", f"    def forward(self, {names}):"),
                *(f"        {line}" for line in lines),
                f"        return {result}",
                *("", "", "def make():", "    with torch.random.fork_rng(devices=[]):"),
                *(f"        torch.manual_seed({self.seed})", "        net = Net()", "        with torch.no_grad():"),
                "            for name, tensor in net.state_dict().items():",
                '                if name.endswith("running_var"):',
                "                    tensor.uniform_(0.3, 2.0)",
                '                elif tensor.is_floating_point() and ".buffer" not in "." + name:',
                "                    tensor.add_(0.1 * torch.randn_like(tensor))",
                f"        return net, ({', '.join(draws)},)",
                "",
            ]
        )

    def build(self) -> tuple[Any, tuple[Any, ...]]:
        """The module (in eval mode) and its example inputs: equal programs give equal weights and inputs."""
        namespace: dict[str, Any] = {"__name__": "isomorph_program"}
        exec(compile(self.source(), "<program>", "exec"), namespace)
        net, inputs = namespace["make"]()
        return net.eval(), inputs

    def __str__(self) -> str:
        return self.source()

    __repr__ = __str__  # what hypothesis prints of a failing example


def grow(genes: Sequence[Gene], kinds: Sequence[str] = ("image",), seed: int = 0, max_size: int = 8) -> Program:
    """The program that genes describe. Productions that have no form where they come are left out.

    kinds: of the inputs ("image", "sequence", "vector", "ids"). max_size: how many steps at most, without those that
    turn one kind into another. KeyError for an unknown production or kind.
    """
    inputs = tuple(Value(f"input{i + 1}", INPUTS[kind], kind == "ids") for i, kind in enumerate(kinds))
    growth = Growth(list(inputs))
    count = 0
    for name, number in genes:
        if count >= max_size:
            break
        choices, which = divmod(number, 8)
        value = _operand(growth, PRODUCTIONS[name].kinds, which)
        count += value is not None and growth.step(name, value, choices)
    for value in inputs:  # an input that nothing reads is read at the end
        if not any(value.name in step.read for step in growth.steps):
            growth.step("one_hot" if value.integer else "elementwise", value, 0)
    read = {name for step in growth.steps for name in step.read}
    leaves = [value.name for value in growth.values if value.name not in read and value not in inputs]
    return _without_dead_steps(Program(inputs, tuple(growth.steps), tuple(leaves[-OUTPUTS:]), seed))


def _operand(growth: Growth, kinds: Sequence[str], number: int) -> Value | None:
    """The latest value of those kinds, or an earlier one; or what the latest value is turned into."""
    fitting = [value for value in reversed(growth.values) if value.kind in kinds][:3]
    if fitting and (growth.values[-1].kind in kinds or number % 2):
        return fitting[(number // 2) % len(fitting)] if number % 2 else fitting[0]
    for _ in RANKS:
        latest = growth.values[-1]
        if latest.kind in kinds:
            return latest
        ways = UP if max(map(RANKS.index, kinds)) > RANKS.index(latest.kind) else DOWN
        if latest.kind not in ways or not growth.step(ways[latest.kind], latest, number // 2):
            break
    return fitting[0] if fitting else None


def _without_dead_steps(program: Program) -> Program:
    """Only the steps that an output depends on."""
    wanted = set(program.outputs)
    kept: list[Step] = []
    for step in reversed(program.steps):
        if step.made.name in wanted:
            kept.append(step)
            wanted.update(step.read)
    return Program(program.inputs, tuple(reversed(kept)), program.outputs, program.seed)


def modules(max_size: int = 8, inputs: Sequence[str] = tuple(INPUTS)) -> st.SearchStrategy[Program]:
    """Random programs of at most `max_size` steps, with one or two inputs of these kinds."""
    names = sorted(PRODUCTIONS)
    gene = st.tuples(st.sampled_from(names), st.integers(0, CHOICES - 1))
    genes = st.lists(gene, min_size=1, max_size=2 * max_size)
    kinds = st.lists(st.sampled_from(list(inputs)), min_size=1, max_size=2)
    return st.builds(grow, genes, kinds, st.integers(0, 1000), st.just(max_size))

"""Growing a program step by step: values with shapes, and the productions that turn one into another. Standard library
only: a program is text until it is built.

A value's kind is the rank that it has beside the batch axis: "image" (c, h, w), "sequence" (t, d), "vector" (d,); "ids"
is an integer sequence (t,). A production takes a `Growth` and a value, and writes one or more lines of `forward`; where
it has no well-typed form for the value it returns None and nothing is written. Every choice is made by
`Growth.pick` from the options that are well-typed there, the simplest first, with a number that was drawn before: the
same number gives the same program, and 0 the simplest one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["IMAGE", "PRODUCTIONS", "SEQUENCE", "VECTOR", "Growth", "Step", "Value", "divisors", "grows", "window"]

T = TypeVar("T")
KINDS = {1: "vector", 2: "sequence", 3: "image"}
IMAGE, SEQUENCE, VECTOR = ("image",), ("sequence",), ("vector",)
LARGEST = 1600  # elements of a value without its batch axis; what would be larger is not grown


@dataclass(frozen=True)
class Value:
    """A tensor of the program. shape: without the batch axis."""

    name: str
    shape: tuple[int, ...]
    integer: bool = False

    @property
    def kind(self) -> str:
        """ "image", "sequence", "vector" or "ids"."""
        return "ids" if self.integer else KINDS[len(self.shape)]

    @property
    def rank(self) -> int:
        """With the batch axis."""
        return len(self.shape) + 1


@dataclass(frozen=True)
class Step:
    """One production applied. holds: lines of `__init__`. lines: of `forward`. made: the value that they leave. read:
    names of the values that they look at."""

    production: str
    holds: tuple[str, ...]
    lines: tuple[str, ...]
    made: Value
    read: tuple[str, ...]


@dataclass
class Shared:
    """A layer that stands already, and the shape (in, out) that it was made for."""

    attribute: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass
class Growth:
    """What has grown so far. number: the digits of the choices of the step that is growing, in mixed radix."""

    values: list[Value]
    steps: list[Step] = field(default_factory=list)
    number: int = 0
    shared: list[Shared] = field(default_factory=list)
    _holds: list[str] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def pick(self, *options: T) -> T:
        """The next choice. The first option is the simplest; where the number is used up it is taken."""
        self.number, digit = divmod(self.number, len(options))
        return options[digit]

    def flag(self, text: str) -> str:
        """A keyword argument that is there or not: "" is the simpler."""
        return self.pick("", ", " + text)

    def name(self, stem: str) -> str:
        """A fresh name: stem1, stem2, ..."""
        self._counts[stem] = self._counts.get(stem, 0) + 1
        return f"{stem}{self._counts[stem]}"

    def layer(self, constructor: str, stem: str = "") -> str:
        """`self.` + the attribute that holds a module made so."""
        stem = stem or constructor.partition("(")[0].rpartition(".")[2].lower()
        attribute = self.name(stem)
        self._holds.append(f"self.{attribute} = {constructor}")
        return f"self.{attribute}"

    def parameter(self, *shape: int) -> str:
        """`self.` + the attribute that holds a parameter of normal values."""
        return self.layer(f"nn.Parameter(torch.randn({', '.join(map(str, shape))}))", "weight")

    def buffer(self, expression: str) -> str:
        """`self.` + a registered buffer."""
        attribute = self.name("buffer")
        self._holds.append(f'self.register_buffer("{attribute}", {expression})')
        return f"self.{attribute}"

    def line(self, text: str) -> None:
        """One more line of `forward`."""
        self._lines.append(text)

    def local(self, expression: str, stem: str = "y") -> str:
        """A line that gives an expression a name."""
        name = self.name(stem)
        self.line(f"{name} = {expression}")
        return name

    def others(self, wanted: Callable[[Value], bool]) -> list[Value]:
        """Earlier values of which that is true, the latest first."""
        return [value for value in reversed(self.values) if not value.integer and wanted(value)]

    def then(self, expression: str, shape: Sequence[int]) -> Value | None:
        """The last line of a production: the value that it makes. None if it would be too large or empty."""
        size = 1
        for length in shape:
            size *= length
        if not 1 <= len(shape) <= 3 or not 1 <= size <= LARGEST:
            return None
        made = Value(self.name("x"), tuple(shape))
        self.line(f"{made.name} = {expression}")
        return made

    def step(self, production: str, value: Value, number: int) -> bool:
        """Apply a production to a value; False if it has no form there, and nothing is changed then."""
        before = dict(self._counts)
        self.number = number
        self._holds, self._lines = [], []
        made = PRODUCTIONS[production].grow(self, value)
        if made is None:
            self._counts = before
            return False
        words = set(re.findall(r"\w+", " ".join(self._lines)))
        read = tuple(known.name for known in self.values if known.name in words)
        self.values.append(made)
        self.steps.append(Step(production, tuple(self._holds), tuple(self._lines), made, read))
        return True


@dataclass(frozen=True)
class Production:
    """kinds: of values that it takes. grow: writes it, see the head of this file."""

    kinds: tuple[str, ...]
    grow: Callable[[Growth, Value], Value | None]


PRODUCTIONS: dict[str, Production] = {}


def grows(*kinds: str) -> Callable[[Callable[[Growth, Value], Value | None]], Callable[[Growth, Value], Value | None]]:
    """Registers a production under its function's name. ValueError for a name that stands already."""

    def register(function: Callable[[Growth, Value], Value | None]) -> Callable[[Growth, Value], Value | None]:
        if function.__name__ in PRODUCTIONS:
            raise ValueError(f"there is a production {function.__name__} already")
        PRODUCTIONS[function.__name__] = Production(kinds, function)
        return function

    return register


def divisors(number: int) -> list[int]:
    """All of them, the smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]


def window(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False) -> int:
    """The length of a sliding window's result, as torch has it; 0 or less where nothing fits."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if span < 0:
        return 0
    result = span // stride + 1
    if ceil and span % stride and result * stride < size + padding:  # the last window starts inside
        result += 1
    return result

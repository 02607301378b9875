"""A contract with two free axes, and what a search draws from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from isomorph.parity.drawing.engine import Exploration, explore
from isomorph.parity.drawing.strategies import Contract, InputSpec, solve_sizes
from isomorph.parity.verdict import Case

SPEC = InputSpec("x", "float32", ("b", "s", 4), example=np.zeros((5, 7, 4), np.float32))
CONTRACT = Contract((SPEC,), solve_sizes([SPEC]), {"b": (1, None), "s": (2, 20)})
FIXED = Contract((InputSpec("x", "float32", (3, 4)),))
Judge = Callable[[Case], "Hashable | None"]


def drawn(contract: Contract = CONTRACT, **options: object) -> list[Case]:
    seen: list[Case] = []
    found = explore(contract, lambda case: seen.append(case), **options)  # type: ignore[arg-type, func-returns-value]
    assert found == Exploration(runs=len(seen))
    return seen

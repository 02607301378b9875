"""How a check is done: one frozen record, made from the arguments of `check` and of the command line. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from isomorph.convert.errors import UsageError

__all__ = ["LEVELS", "PROFILES", "QUANTISED", "Level", "Settings", "settings_of_profile"]


@dataclass(frozen=True)
class Level:
    """How much is compared. examples: in eval mode; a third of it in train mode. steps: of each optimizer. draws: with
    which dropout is judged by its law. rest: special values, determinism, metamorphic relations, randomised weights.
    shrink: how many runs a counterexample may cost to shrink."""

    examples: int
    steps: int = 3
    draws: int = 64
    rest: bool = True
    shrink: int = 200


LEVELS: Mapping[str, Level] = {
    "quick": Level(3, steps=0, draws=0, rest=False, shrink=100),
    "full": Level(24),
    "thorough": Level(200, steps=6, draws=256, shrink=500),
}

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "dev": {"level": "quick"},
    "ci": {"level": "full", "seed": 0, "database": None},  # the same answer every time, whatever was found before
    "thorough": {"level": "thorough"},
}
"""Name -> arguments of `Settings`."""

# The stated budget of artifacts that are quantised: root mean square of the error over that of the reference's
# deviation from its mean, for each output. 0.1 is a signal-to-quantisation-noise ratio of 20 dB.
QUANTISED: Mapping[str, float] = {"int8": 0.1, "int16": 0.01, "float16-weights": 0.005, "int8-weights": 0.05}


@dataclass(frozen=True)
class Settings:
    """The arguments of a check.

    modes, examples, backward, seed, dtype, level, strict: see `check`. budget: seconds after which no further example
    is drawn. tolerances: another budget for a kind of artifact, in place of `QUANTISED`. database: the folder of
    hypothesis' example database, or such a database, None for none. explain: whether a failure is shrunk, located and
    given its likely causes. steps: of each optimizer, 0 for none, None for the level's. profile: whether the error of
    each module is measured (`Verdict.modules`).
    """

    modes: tuple[str, ...] = ("eval", "train")
    level: str = "full"
    examples: int | None = None
    backward: bool = True
    seed: int = 0
    dtype: str = "both"
    strict: bool | None = None
    budget: float | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    database: Any = None
    explain: bool = True
    steps: int | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        """UsageError: an argument that is none of the above."""
        modes: Any = self.modes
        if isinstance(modes, str) or not isinstance(modes, Sequence) or not modes or set(modes) - {"eval", "train"}:
            raise UsageError(f"modes must be some of 'eval' and 'train', not {self.modes!r}")
        if self.dtype not in ("both", "float64", "own"):
            raise UsageError(f"dtype must be 'both', 'float64' or 'own', not {self.dtype!r}")
        if self.level not in LEVELS:
            raise UsageError(f"level must be {', '.join(map(repr, LEVELS))}, not {self.level!r}")
        if self.examples is not None and self.examples < 1:
            raise UsageError(f"examples must be at least 1, not {self.examples}")
        if self.steps is not None and (isinstance(self.steps, bool) or self.steps < 0):
            raise UsageError(f"steps must be 0 or more, not {self.steps}")
        if self.budget is not None and not self.budget > 0:
            raise UsageError(f"budget must be a number of seconds above 0, not {self.budget}")
        for name, value in self.tolerances.items():
            if name not in QUANTISED:
                raise UsageError(f"tolerances: unknown kind {name!r}; known are {', '.join(QUANTISED)}")
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"tolerances: {name} must be a finite number of 0 or more, not {value}")

    @property
    def how(self) -> Level:
        """The level's numbers, with the optimizer steps that were asked for."""
        level = LEVELS[self.level]
        return level if self.steps is None else replace(level, steps=self.steps)

    def count(self, mode: str) -> int:
        """How many examples a mode gets."""
        examples = self.examples or self.how.examples
        return examples if mode == "eval" else max(2, examples // 3) if examples > 1 else 1

    def quantised_budget(self, kind: str) -> float:
        """The relative root mean square error that a quantised artifact of this kind may have."""
        return self.tolerances.get(kind, QUANTISED[kind])


def settings_of_profile(name: str, **overrides: Any) -> Settings:
    """The settings of a profile of `PROFILES`, or of one that was registered with `hypothesis.settings`: its
    `max_examples`, `database` and, with `derandomize`, seed 0. overrides: arguments of `Settings` that come first.

    UsageError: there is no such profile, or an argument is wrong.
    """
    if name in PROFILES:
        return Settings(**{**PROFILES[name], **overrides})
    from isomorph.parity.drawing.engine import profile_settings

    try:
        said = profile_settings(name)
    except KeyError as error:
        known = ", ".join(map(repr, PROFILES))
        raise UsageError(
            f"profile {name!r} is none of {known}, and no hypothesis profile of that name is registered"
        ) from error
    found: dict[str, Any] = {"examples": said.examples, "database": said.database}
    if said.derandomize:
        found["seed"] = 0
    return Settings(**{**found, **overrides})

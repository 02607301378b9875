"""What the verdict asks of a model, whatever framework it lives in: one request, one response. numpy at the border.

All arrays are in torch axis order and keyed by torch names. Floats narrower than float32 travel as float32 arrays that
hold exactly representable values; `dtypes` says what they really are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from isomorph.parity.tolerance import Array

__all__ = [
    "About",
    "ModuleTrace",
    "ParameterInfo",
    "Perturbation",
    "PortInfo",
    "Recorded",
    "Request",
    "Responder",
    "Response",
    "Runner",
    "align",
]


@dataclass(frozen=True)
class PortInfo:
    """An input or output of a model in its own words. dims: a size, the name of (or an expression over) free sizes, or
    None for an unnamed free size; None altogether where not even the rank is known. low, high: inclusive bounds of the
    values, where they are known."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class About:
    """What a runner can do, before it is asked to.

    format: "torch", "exported", "keras", "saved_model", "litert", "onnx" or "function". inputs, outputs: in flat order;
    outputs may be empty where they are known only after a run. modes: those it has. gradients, float64: whether it has
    them; `missing` says why not. replays: whether recorded random draws can be put in the place of its own. mapped:
    whether it answers in the original's names and axis order by a map that was recorded at conversion; otherwise
    `matching.correspond` finds one. precision: the dtype whose rounding it may show ("float32", "float16", "bfloat16",
    "float64", or "int8" for a quantised artifact). sizes: bounds (low, high or None) of named free sizes.
    environment: versions and settings. notes: what the user should be told.
    """

    format: str
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...] = ()
    modes: tuple[str, ...] = ("eval", "train")
    gradients: bool = True
    float64: bool = True
    replays: bool = False
    mapped: bool = False
    precision: str = "float32"
    device: str = "cpu"
    sizes: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModuleTrace:
    """One call of one module inside a run. path: dotted, "" for the model itself. kind: its class. call: 0 for its
    first call in the run. Gradients are those of the run's vector-Jacobian product, None where there is none."""

    path: str
    kind: str
    call: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    input_gradients: tuple[Array | None, ...] = ()
    output_gradients: tuple[Array | None, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """One random draw of the original: the ATen overload, and its values in torch axis order."""

    op: str
    values: Array


@dataclass(frozen=True)
class Perturbation:
    """Multiply floating inputs and parameters by 1 +- delta, with signs drawn from seed. inside: also every operand
    of arithmetic on the way, forward and backward, where the runner can (torch)."""

    delta: float
    seed: int
    inputs: bool = True
    parameters: bool = True
    inside: bool = False


@dataclass(frozen=True)
class Request:
    """Run the model once.

    inputs: flat, in the contract's order. mode: "eval" or "train". backward: also the vector-Jacobian product.
    cotangents: one per output, None for an output that has no gradient; None altogether lets the runner draw them from
    `seed`. draws: what each random site uses instead of drawing; None lets the runner draw from `seed` and record.
    structure: how the original's outputs nest in this mode (see `align`). perturbation, flush_denormals and contiguous
    (backward kernels get contiguous operands, equal elements keep their order) are asked of the original only. dropout:
    False makes layers that drop or add noise act as in eval mode, everything else as in `mode`: for models whose random
    draws do not correspond.
    """

    inputs: tuple[Array, ...]
    mode: str
    backward: bool = True
    seed: int = 0
    cotangents: tuple[Array | None, ...] | None = None
    draws: tuple[Recorded, ...] | None = None
    structure: Any = None
    perturbation: Perturbation | None = None
    flush_denormals: bool = False
    contiguous: bool = False
    dropout: bool = True


@dataclass(frozen=True)
class Response:
    """What one run gave.

    outputs, dtypes: flat. structure: how they nest: None, an index into outputs, a list, or a dict by name.
    input_gradients: by input name, None where the input is no float. parameter_gradients: by name, trainable ones only;
    zeros where the parameter was not used. buffers: by name, after the run. draws: what was drawn or replayed. extra:
    how many outputs were left out because the original returns None there in this mode.
    """

    outputs: tuple[Array, ...]
    dtypes: tuple[str, ...]
    structure: Any
    input_gradients: Mapping[str, Array] = field(default_factory=dict)
    parameter_gradients: Mapping[str, Array] = field(default_factory=dict)
    buffers: Mapping[str, Array] = field(default_factory=dict)
    cotangents: tuple[Array | None, ...] = ()
    draws: tuple[Recorded, ...] = ()
    extra: int = 0

    def groups(self) -> dict[str, Mapping[str, Array]]:
        """quantity -> name -> array."""
        return {
            "output": {str(index): array for index, array in enumerate(self.outputs)},
            "input gradient": self.input_gradients,
            "parameter gradient": self.parameter_gradients,
            "buffer": self.buffers,
        }


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter or buffer as the optimiser sees it. tied_to: the first name of a tensor that has several."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    tied_to: str | None = None


class Responder(Protocol):
    """What the comparison of one example needs of a runner."""

    def respond(self, request: Request) -> Response:
        """One forward, and one backward if asked. Exceptions of the model pass through."""


class Runner(Responder, Protocol):
    """One model, ready to be asked. A run leaves the model as it was: buffers and random state are restored."""

    dtype: str
    """The floating dtype it computes in: "float64", or "own" for the model's own."""

    def about(self) -> About:
        """What it is and can do. Cheap: nothing is run."""

    def index_bounds(self) -> Mapping[str, int]:
        """Input name -> rows of the smallest table it indexes; empty where that is not known."""

    def parameters(self) -> dict[str, ParameterInfo]:
        """By name, tied names included."""

    def buffers(self) -> dict[str, ParameterInfo]:
        """By name."""

    def load(self, state: Mapping[str, Array]) -> None:
        """Set parameters and buffers by name; names not given stay."""

    def state(self) -> dict[str, Array]:
        """Parameters and buffers by name, in torch axis order."""

    def to_float64(self) -> Runner:
        """The same model and values in float64; an independent copy. UnsupportedError where the format has none."""

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """One run, seen from inside: every call of every module, in order of completion; empty where the format has no
        inside. Gradients if the request asks for a backward pass and the format has them."""

    def close(self) -> None:
        """Give back what it holds outside this object (a worker process). Idempotent."""


def align(expected: Any, got: Any) -> list[int] | None:
    """For each leaf of one nesting its leaf in the other, or None if they are not the same nesting.

    A leaf where `expected` has None is left out: a module may return an auxiliary output in train mode only, and a
    Keras model has the same outputs in every mode.
    """
    found: list[tuple[int, int]] = []

    def walk(left: Any, right: Any) -> bool:
        if isinstance(left, dict) and isinstance(right, dict):
            return list(left) == list(right) and all(walk(left[key], right[key]) for key in left)
        if isinstance(left, list) and isinstance(right, list):
            return len(left) == len(right) and all(map(walk, left, right))
        if isinstance(left, int) and isinstance(right, int):
            found.append((left, right))
            return True
        return left is None and (right is None or isinstance(right, int))

    return [index for _, index in sorted(found)] if walk(expected, got) else None

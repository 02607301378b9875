"""Honest pairs: two programs of the same mathematics, which the verdict must not reject.

`PAIRS` has them by name. `Twins.make(seed)` gives fresh weights and inputs: (original, twin, inputs), ready for
`isomorph.check(original, twin, inputs, seed=seed)`. Pairs of two torch programs cost milliseconds to a second;
conversions, with TensorFlow's kernels on the other side, some seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.quality.twins.forms import FORMS, ONE_D, TWO_D
from tests.quality.twins.nets import NETS, Form

__all__ = ["PAIRS", "Twins"]


@dataclass(frozen=True)
class Twins:
    """build: makes (original, twin, inputs) under torch's global seed. fast: whether a check at default settings takes
    less than a second. options: for `check`, where the pair needs others than the defaults."""

    name: str
    build: Callable[[], tuple[Any, Any, Any]]
    fast: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, seed: int) -> tuple[Any, Any, Any]:
        """Fresh weights and inputs; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()


def _form(left: Any, right: Any, body: Callable[[], Any], inputs: Callable[[], Tensor]) -> tuple[Any, Any, Any]:
    made = body()
    if isinstance(made, tuple):
        return *made, (inputs(),)
    return Form(made, left), Form(copy.deepcopy(made), right), (inputs(),)


def _narrow(dtype: torch.dtype, build: Callable[[], tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    left, right, inputs = build()
    return left.to(dtype), right.to(dtype), tuple(x.to(dtype) for x in inputs)


def _channels_last(build: Callable[[], tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    left, _, inputs = build()
    return left, copy.deepcopy(left).to(memory_format=torch.channels_last), inputs


def _forms() -> list[Twins]:
    kinds: list[tuple[dict[str, tuple[Any, Any]], Callable[[], Any], tuple[int, ...]]] = [
        (ONE_D, lambda: nn.Linear(8, 8), (3, 8)),
        (TWO_D, lambda: nn.Conv2d(4, 4, 3, padding=1), (2, 4, 6, 5)),
        (FORMS, lambda: nn.Linear(8, 8), (2, 5, 8)),
    ]
    return [
        Twins(name, partial(_form, left, right, body, partial(torch.randn, *shape)))
        for table, body, shape in kinds
        for name, (left, right) in table.items()
    ]


def _nets() -> list[Twins]:
    return [
        Twins(name, partial(_form, left, right, body, inputs), fast)
        for name, (body, left, right, inputs, fast) in NETS.items()
    ]


@cache
def _conversion(name: str) -> Any:
    import isomorph

    module, _, inputs = _BY_TORCH[name].make(0)
    return isomorph.to_keras(module, inputs)


def _to_keras(name: str) -> tuple[Any, Any, Any]:
    """A module and its conversion, which is made once; fresh weights are pushed into it."""
    module, _, inputs = _BY_TORCH[name].build()
    conversion = _conversion(name)
    conversion.push(module.state_dict())
    return module, conversion, inputs


CONVERTED = (
    "matmul by halves", "softmax", "layer norm", "gelu", "dropout", "relu", "clamp", "maximum", "amax", "deviation",
    "conv by unfold", "batch norm", "upsample", "causal attention", "resnet", "lstm of 200 steps", "gru of 200 steps",
    "rnn of 200 steps", "transformer block", "embedding with padding", "ill-conditioned layers", "80 residual layers",
    "batch norm of tiny variance", "softmax of 100,000",
)  # fmt: skip
HALF = ("matmul by halves", "softmax", "layer norm", "gelu", "attention in float32")
_BY_TORCH = {twins.name: twins for twins in (*_forms(), *_nets())}
PAIRS: dict[str, Twins] = {
    **_BY_TORCH,
    "resnet channels last": Twins("resnet channels last", partial(_channels_last, _BY_TORCH["resnet"].build), False),
    **{f"{name} to Keras": Twins(f"{name} to Keras", partial(_to_keras, name), False) for name in CONVERTED},
    **{
        f"{name} in {str(dtype)[6:]}": Twins(
            f"{name} in {str(dtype)[6:]}", partial(_narrow, dtype, _BY_TORCH[name].build)
        )
        for name in HALF
        for dtype in (torch.bfloat16, torch.float16)
    },
}

"""A dispatch mode that makes every operand of a program's arithmetic a little wrong, as another right program's may be.

Perturbing inputs and parameters alone does not show what a program loses inside: the gradient of a saturated tanh is
1 - y^2 with y rounded to within one ulp of 1, and any program that computes it so has that error, whatever the inputs;
the normalisation of three copies of one number divides by nearly nothing whatever their mean was rounded by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["RoundingMode"]

# What gives some of its operand's elements as they are: no rounding, in any program.
EXACT = frozenset({
    "_to_copy", "abs", "amax", "amin", "cat", "ceil", "clamp", "clamp_max", "clamp_min", "clone",
    "constant_pad_nd", "copy_", "detach", "embedding", "fill", "fill_", "flip", "floor", "gather", "hardtanh",
    "im2col", "index", "index_put", "index_put_", "index_select", "leaky_relu", "lift_fresh", "masked_fill",
    "masked_fill_", "max", "max_pool2d_with_indices", "maximum", "median", "min", "minimum", "neg", "new_zeros",
    "nonzero", "pad", "relu", "relu_", "repeat", "roll", "round", "scatter", "select_backward",
    "select_scatter", "sgn", "sign", "slice_backward", "slice_scatter", "sort", "split", "stack", "sub_mask",
    "take", "threshold", "threshold_backward", "topk", "tril", "triu", "trunc", "unbind", "unfold", "where",
    "zero_", "zeros_like",
})  # fmt: skip


# What updates its running statistics (arguments 3 and 4) in place, in training (argument 5), and does not say so in its
# schema: a perturbed copy would take the update, and the buffers would seem not to move at all.
UPDATES = frozenset({"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"})


class RoundingMode(TorchDispatchMode):
    """Multiplies the floating operands of arithmetic, forward and backward, by 1 +- delta with signs drawn from `seed`;
    the results, where it works in place.

    Views, copies, selections, factories and random draws stay exact.
    """

    supports_higher_order_operators = True

    def __init__(self, delta: float, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._delta = delta
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = seed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator) or not _rounds(func):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            result = func(*args, **kwargs)
            for tensor in pytree.tree_leaves(result):
                if _is_floating(tensor):
                    tensor.mul_(self._factor(tensor))
            return result
        moved, kwargs = pytree.tree_map(lambda x: x * self._factor(x) if _is_floating(x) else x, (args, kwargs))
        if str(func).split(".")[1] in UPDATES and args[5]:
            result = func(*moved[:3], *args[3:5], *moved[5:], **kwargs)
            for statistic in filter(_is_floating, args[3:5]):
                statistic.mul_(self._factor(statistic))
            return result
        return func(*moved, **kwargs)

    def _factor(self, tensor: torch.Tensor) -> torch.Tensor:
        generator = self._generators.get(tensor.device)
        if generator is None:
            generator = self._generators[tensor.device] = torch.Generator(tensor.device).manual_seed(self._seed)
        sign = torch.randint(0, 2, tensor.shape, generator=generator, device=tensor.device).to(tensor.dtype)
        return 1 + self._delta * (2 * sign - 1)


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided


def _rounds(func: Any) -> bool:
    if torch.Tag.nondeterministic_seeded in func.tags or str(func).split(".")[1] in EXACT:
        return False
    # a view: its result is another tensor's memory, and is not written to
    return not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)

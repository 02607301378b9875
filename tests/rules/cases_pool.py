"""Rows: pooling. `grid` inputs are full of ties and zeros: the gradient of a maximum goes to the first of equals."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .harness import Case, rand


def grid(*shape: int, seed: int = 0) -> torch.Tensor:
    """Multiples of 0.5 with many ties."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).double() / 2


def pool(name: str, op: str, function: Any, *shape: int, make: Any = rand, **options: Any) -> Case:
    return Case(name, (f"aten.{op}.default",), function, lambda: [make(*shape)], **options)


FREE = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)

CASES = [
    pool("max_pool1d", "max_pool1d", lambda x: F.max_pool1d(x, 3, 2, 1), 2, 3, 9),
    pool("max_pool1d_ties", "max_pool1d", lambda x: F.max_pool1d(x, 2), 2, 3, 9, make=grid, dynamic=True),
    pool("max_pool1d_unbatched", "max_pool1d", lambda x: F.max_pool1d(x, 2), 3, 9),
    pool("max_pool2d", "max_pool2d", lambda x: F.max_pool2d(x, 2), 2, 3, 8, 9, dynamic=True),
    pool("max_pool2d_resnet", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), 2, 3, 8, 10, make=grid, dynamic=True),
    pool("max_pool2d_odd", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), 2, 3, 9, 11, make=grid),
    pool("max_pool2d_same", "max_pool2d", lambda x: F.max_pool2d(x, 3, 1, 1), 2, 3, 8, 8, make=grid),
    pool("max_pool2d_negative", "max_pool2d", lambda x: F.max_pool2d(x - 9, 3, 2, 1), 2, 3, 8, 8),
    pool("max_pool2d_ceil", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), 2, 3, 8, 9, make=grid),
    pool("max_pool2d_ceil_padded", "max_pool2d", lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True), 2, 3, 8, 10),
    pool("max_pool2d_dilated", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2), 2, 3, 9, 10, make=grid, dynamic=True),
    pool("max_pool2d_uneven", "max_pool2d", lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0)), 2, 3, 9, 10),
    pool("max_pool2d_unbatched", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), 3, 9, 10),
    pool("max_pool2d_free_size", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("max_pool2d_free_ceil", "max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("max_pool3d", "max_pool3d", lambda x: F.max_pool3d(x, 3, 2, 1), 2, 2, 6, 7, 8, make=grid),
    pool("max_pool3d_plain", "max_pool3d", lambda x: F.max_pool3d(x, 2), 2, 2, 6, 7, 8, make=grid, dynamic=True),
    Case(
        "max_pool2d_nan",
        ("aten.max_pool2d.default",),
        lambda x: F.max_pool2d(torch.log(x), 2),
        lambda: [rand(1, 1, 4, 4)],
        grad=False,
        xfail="TensorFlow's MaxPool on the CPU swallows NaN (NaN windows give 0 or the largest of the rest); torch gives NaN",
    ),
    pool("max_pool1d_indices", "max_pool1d_with_indices", lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True), 2, 3, 9, make=grid),
    pool("max_pool2d_indices", "max_pool2d_with_indices", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), 2, 3, 8, 9, make=grid, dynamic=True),
    pool("max_pool2d_indices_dilated", "max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, 2, 0, 2, return_indices=True), 2, 3, 8, 9),
    pool("max_pool3d_indices", "max_pool3d_with_indices", lambda x: F.max_pool3d(x, 2, return_indices=True), 2, 3, 4, 5, 6),
    pool("max_pool2d_indices_free", "max_pool2d_with_indices", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("avg_pool1d", "avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2, 1), 2, 3, 9, dynamic=True),
    pool("avg_pool2d", "avg_pool2d", lambda x: F.avg_pool2d(x, 2), 2, 3, 8, 9, dynamic=True),
    pool("avg_pool2d_counted", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), 2, 3, 8, 9, dynamic=True),
    pool("avg_pool2d_uncounted", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), 2, 3, 8, 9, dynamic=True),
    pool("avg_pool2d_uncounted_same", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 2, 3, 8, 9),
    pool("avg_pool2d_uncounted_free", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("avg_pool2d_ceil", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), 2, 3, 8, 10),
    pool("avg_pool2d_ceil_counted", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), 2, 3, 8, 10),
    pool("avg_pool2d_ceil_uncounted", "avg_pool2d", lambda x: F.avg_pool2d(x, 2, 3, 1, ceil_mode=True, count_include_pad=False), 2, 3, 8, 10),
    pool("avg_pool2d_divisor", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5), 2, 3, 8, 9),
    pool("avg_pool2d_unbatched", "avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), 3, 8, 9),
    pool("avg_pool3d", "avg_pool3d", lambda x: F.avg_pool3d(x, 2, 2, 1, count_include_pad=False), 2, 3, 4, 5, 6),
    pool("adaptive_avg_pool1d_one", "adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 1), 2, 3, 8, dynamic=True),
    pool("adaptive_avg_pool2d_one", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("adaptive_avg_pool2d_even", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (4, 3)), 2, 3, 8, 9, dynamic=True),
    pool("adaptive_avg_pool2d_uneven", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (3, 7)), 2, 3, 8, 9, dynamic=True),
    pool("adaptive_avg_pool2d_larger", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (10, 9)), 2, 3, 8, 9),
    pool("adaptive_avg_pool2d_none", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (None, 2)), 2, 3, 8, 9),
    pool("adaptive_avg_pool2d_free", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), 2, 3, 8, 9, dynamic={"xs": FREE}),
    pool("adaptive_avg_pool2d_unbatched", "adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (3, 7)), 3, 8, 9),
    pool("adaptive_avg_pool3d", "adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, (2, 3, 4)), 2, 3, 4, 5, 6, dynamic=True),
    pool("adaptive_max_pool1d", "adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x, 4), 2, 3, 9, make=grid),
    pool("adaptive_max_pool2d", "adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True), 2, 3, 8, 9, make=grid, dynamic=True),
    pool("adaptive_max_pool2d_one", "adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 1), 2, 3, 8, 9, make=grid, dynamic={"xs": FREE}),
    pool("adaptive_max_pool3d", "adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, (2, 3, 4)), 2, 3, 4, 5, 6, make=grid),
    Case("lp_pool2d", (), lambda x: F.lp_pool2d(x.abs() + 1, 3.0, 2), lambda: [rand(2, 3, 8, 9)]),
]

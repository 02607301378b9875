"""Rows: order, top k, medians, distinct values."""

from __future__ import annotations

import torch

from .cases_shape import free
from .harness import Case, ints, rand


def _x(*shape: int):
    return lambda: [rand(*shape)]


def _grid(*shape: int, seed: int = 0):
    return lambda: [(ints(7, *shape, seed=seed) - 3).double() / 2]


NAN = torch.tensor([[1.0, float("nan"), 2.0, 0.5], [3.0, 1.0, 2.0, 0.0]], dtype=torch.float64)
INF = float("inf")
SPECIAL = torch.tensor([[1.0, INF, float("nan"), 0.5, -INF], [float("nan"), 2.0, INF, 0.0, 3.0]], dtype=torch.float64)

CASES = [
    Case("sort", ("aten.sort.default",), lambda x: torch.sort(x, 1), _x(2, 5, 3), dynamic=free((0, 1))),
    Case("sort_descending", ("aten.sort.default",), lambda x: torch.sort(x, descending=True), _x(2, 5), dynamic=True),
    Case("sort_stable_ties", ("aten.sort.stable",), lambda x: torch.sort(x, stable=True, dim=-1), _grid(3, 9)),
    Case(
        "sort_stable_ties_descending",
        ("aten.sort.stable",),
        lambda x: torch.sort(x, stable=True, dim=0, descending=True),
        _grid(9, 3),
    ),
    Case("sort_int", (), lambda x: torch.sort(x, stable=True, descending=True), lambda: [ints(5, 3, 6) - 2**63]),
    Case(
        "sort_uint8",
        (),
        lambda x: torch.sort(x, stable=True, descending=True),
        lambda: [ints(256, 3, 6).to(torch.uint8)],
    ),
    Case("sort_bool", (), lambda x: torch.sort(x > 0, stable=True), _x(3, 6)),
    Case(
        "sort_loss",
        (),
        lambda x: (torch.sort(x, 0).values * torch.arange(4.0, dtype=torch.float64)[:, None]).cumsum(0),
        _x(4, 3),
    ),
    Case("sort_nan", ("aten.sort.stable",), lambda x: torch.sort(x, stable=True, dim=-1), lambda: [SPECIAL]),
    Case(
        "sort_nan_descending",
        ("aten.sort.stable",),
        lambda x: torch.sort(x, stable=True, dim=-1, descending=True),
        lambda: [SPECIAL],
    ),
    Case("topk_nan", ("aten.topk.default",), lambda x: torch.topk(x, 3), lambda: [SPECIAL], dynamic=True),
    Case("topk_nan_smallest", ("aten.topk.default",), lambda x: torch.topk(x, 5, largest=False), lambda: [SPECIAL]),
    Case("kthvalue_nan", ("aten.kthvalue.default",), lambda x: torch.kthvalue(x, 3, -1), lambda: [NAN]),
    Case("argsort", ("aten.argsort.default",), lambda x: torch.argsort(x, 1), _x(2, 5, 3), dynamic=True),
    Case(
        "argsort_stable",
        ("aten.argsort.stable",),
        lambda x: torch.argsort(x, stable=True, dim=-1, descending=True),
        _grid(2, 9),
    ),
    Case("msort", ("aten.msort.default",), torch.msort, _x(5, 2)),
    Case("topk", ("aten.topk.default",), lambda x: torch.topk(x, 3), _x(2, 6), dynamic=free((0, 1))),
    Case(
        "topk_smallest", ("aten.topk.default",), lambda x: torch.topk(x, 2, 1, largest=False), _x(2, 5, 3), dynamic=True
    ),
    Case(
        "topk_int",
        ("aten.topk.default",),
        lambda x: torch.topk(x, 2, 1, largest=False).values,
        lambda: [ints(50, 2, 5)],
    ),
    Case("topk_sum", ("aten.topk.default",), lambda x: torch.topk(x, 4, sorted=False).values.sum(-1), _x(3, 9)),
    Case("topk_experts", ("aten.topk.default",), lambda x: _gates(x), _x(5, 4), dynamic=True),
    Case("kthvalue", ("aten.kthvalue.default",), lambda x: torch.kthvalue(x, 2, 1), _x(2, 5, 3), dynamic=True),
    Case("kthvalue_keepdim", ("aten.kthvalue.default",), lambda x: torch.kthvalue(x, 5, -1, True), _x(2, 5)),
    Case("median_odd", ("aten.median.dim",), lambda x: torch.median(x, 1), _x(2, 5, 4), dynamic=True),
    Case("median_even", ("aten.median.dim",), lambda x: torch.median(x, -1, True), _x(2, 5, 4)),
    Case("median_nan", ("aten.median.dim",), lambda x: torch.median(x, 1), lambda: [NAN.repeat(1, 2)]),
    Case("median_nan_column", ("aten.median.dim",), lambda x: torch.median(x, 0, True), lambda: [NAN]),
    Case("median_of_ints", ("aten.median.dim",), lambda x: torch.median(x, 1).values, lambda: [ints(50, 2, 5)]),
    Case("median_of_all", ("aten.median.default",), torch.median, _x(3, 4)),
    Case("median_ties", ("aten.median.default",), torch.median, _grid(5, 5)),
    Case("nanmedian", ("aten.nanmedian.default",), torch.nanmedian, lambda: [NAN]),
    Case("nanmedian_dim", ("aten.nanmedian.dim",), lambda x: torch.nanmedian(x, 1).values, lambda: [NAN]),
    Case("mode", ("aten.mode.default",), lambda x: torch.mode(x, 1), _grid(2, 9, 3), dynamic=free((0, 1))),
    Case("mode_keepdim", ("aten.mode.default",), lambda x: torch.mode(x, -1, True), _grid(3, 11)),
    Case("mode_distinct", ("aten.mode.default",), lambda x: torch.mode(x, 0), _x(5, 3), dynamic=True),
    Case("mode_of_ints", ("aten.mode.default",), lambda x: torch.mode(x, 1).values, lambda: [ints(4, 3, 9)]),
    Case(
        "unique",
        ("aten._unique2.default",),
        lambda x: torch.unique(x, return_inverse=True, return_counts=True),
        lambda: [ints(5, 3, 4)],
    ),
    Case("unique_float", ("aten._unique2.default",), lambda x: torch.unique(x.detach()), _grid(4, 5)),
    Case(
        "unique_consecutive",
        ("aten.unique_consecutive.default",),
        lambda x: torch.unique_consecutive(x, return_inverse=True, return_counts=True),
        lambda: [ints(2, 12)],
    ),
]


def _gates(x: torch.Tensor) -> torch.Tensor:
    """A mixture of experts: the two best, renormalised."""
    best, places = torch.softmax(x, -1).topk(2, -1)
    return torch.zeros_like(x).scatter(-1, places, best / best.sum(-1, keepdim=True))

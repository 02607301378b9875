"""Rows: padding, sliding windows, diagonals and the parts written back."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .cases_shape import free
from .harness import Case, rand


def _x(*shape: int):
    return lambda: [rand(*shape)]


HW = free((0, 2, 3))

CASES = [
    Case("pad", ("aten.pad.default",), lambda x: F.pad(x, (1, 2, 0, 3)), _x(2, 3, 4, 5), dynamic=HW),
    Case("pad_value", ("aten.pad.default",), lambda x: F.pad(x, (1, 2), value=-0.1), _x(2, 3, 4), dynamic=True),
    Case("pad_inf", ("aten.pad.default",), lambda x: F.pad(x, (1, 2), value=float("-inf")), _x(2, 3, 4)),
    Case("pad_crop", ("aten.pad.default",), lambda x: F.pad(x, (-1, 2, 1, -2)), _x(2, 3, 4, 5), dynamic=HW),
    Case("pad_none", ("aten.pad.default",), lambda x: F.pad(x, (0, 0)) * 2, _x(2, 3)),
    Case("pad_bool", ("aten.pad.default",), lambda x: F.pad(x > 0, (1, 1), value=True), _x(2, 3)),
    Case("pad_int", ("aten.pad.default",), lambda x: F.pad((x * 9).to(torch.int64), (1, 1), value=3), _x(2, 3)),
    Case(
        "pad_to_multiple",
        ("aten.pad.default",),
        lambda x: F.pad(x, (0, 0, 0, (8 - x.shape[1] % 8) % 8)),
        _x(2, 5, 3),
        dynamic=free((0, 1)),
    ),
    *(
        Case(
            f"pad_{m}_2d",
            ("aten.pad.default",),
            lambda x, m=m: F.pad(x, (1, 2, 3, 0), mode=m),
            _x(2, 3, 4, 5),
            dynamic=HW,
        )
        for m in ("reflect", "replicate", "circular")
    ),
    *(
        Case(f"pad_{m}_1d", ("aten.pad.default",), lambda x, m=m: F.pad(x, (2, 1), mode=m), _x(2, 3, 4), dynamic=True)
        for m in ("reflect", "replicate", "circular")
    ),
    *(
        Case(
            f"pad_{m}_3d", ("aten.pad.default",), lambda x, m=m: F.pad(x, (1, 1, 0, 2, 1, 0), mode=m), _x(2, 2, 3, 3, 3)
        )
        for m in ("reflect", "replicate", "circular")
    ),
    *(
        Case(f"pad_{m}_crop", ("aten.pad.default",), lambda x, m=m: F.pad(x, (-1, 2), mode=m), _x(2, 3, 5))
        for m in ("reflect", "replicate", "circular")
    ),
    Case(
        "pad_reflect_layer",
        (),
        lambda: torch.nn.Sequential(torch.nn.ReflectionPad2d(2), torch.nn.Conv2d(3, 2, 3)),
        _x(2, 3, 5, 5),
        module=True,
        dynamic=True,
    ),
    Case("pad_replicate_layer", (), lambda: torch.nn.ReplicationPad3d(1), _x(2, 2, 2, 3, 2), module=True),
    Case("unfold_blocks", ("aten.unfold.default",), lambda x: x.unfold(1, 4, 2), _x(2, 11), dynamic=True),
    Case("unfold_overlap", ("aten.unfold.default",), lambda x: x.unfold(1, 3, 2), _x(2, 8, 2), dynamic=free((0, 1))),
    Case("unfold_apart", ("aten.unfold.default",), lambda x: x.unfold(-1, 2, 3), _x(2, 3, 10), dynamic=True),
    Case("unfold_apart_short", ("aten.unfold.default",), lambda x: x.unfold(-1, 2, 3), _x(2, 3, 8)),
    Case("unfold_wide", ("aten.unfold.default",), lambda x: x.unfold(1, 20, 3), _x(2, 40), dynamic=True),
    Case(
        "unfold_patches",
        ("aten.unfold.default",),
        lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2),
        _x(2, 3, 4, 6),
        dynamic=HW,
    ),
    Case(
        "im2col",
        ("aten.im2col.default",),
        lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
        _x(2, 3, 6, 5),
        dynamic=True,
    ),
    Case("im2col_unbatched", ("aten.im2col.default",), lambda x: F.unfold(x, 2), _x(3, 4, 5)),
    Case(
        "col2im",
        ("aten.col2im.default",),
        lambda x: F.fold(x, (6, 5), (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
        _x(2, 18, 9),
        dynamic=True,
    ),
    Case("col2im_apart", ("aten.col2im.default",), lambda x: F.fold(x, (6, 9), 2, stride=3), _x(2, 8, 6)),
    Case("diagonal", ("aten.diagonal.default",), lambda x: torch.diagonal(x, 1, 1, 2), _x(2, 3, 4), dynamic=True),
    Case("diagonal_below", ("aten.diagonal.default",), lambda x: torch.diagonal(x, -1, 0, 2), _x(3, 2, 4)),
    Case("diagonal_swapped", ("aten.diagonal.default",), lambda x: torch.diagonal(x, 1, 2, 0), _x(3, 2, 4)),
    Case("diag_of_vector", ("aten.diag.default",), lambda x: torch.diag(x, -1), _x(3)),
    Case("diag_of_matrix", ("aten.diag.default",), lambda x: torch.diag(x, 1), _x(3, 4)),
    *(
        Case(
            f"diag_embed_{o}",
            ("aten.diag_embed.default",),
            lambda x, o=o: torch.diag_embed(x, o),
            _x(2, 3),
            dynamic=True,
        )
        for o in (-1, 0, 2)
    ),
    Case("diag_embed_dims", ("aten.diag_embed.default",), lambda x: torch.diag_embed(x, 1, 2, 0), _x(2, 3)),
    Case("diagflat", ("aten.diagflat.default",), lambda x: torch.diagflat(x, 1), _x(2, 2)),
    Case(
        "diagonal_scatter",
        ("aten.diagonal_scatter.default",),
        lambda x, s: torch.diagonal_scatter(x, s, 1),
        lambda: [rand(3, 5), rand(3, seed=1)],
    ),
    Case(
        "diagonal_scatter_below",
        ("aten.diagonal_scatter.default",),
        lambda x, s: torch.diagonal_scatter(x, s, -1, 0, 2),
        lambda: [rand(4, 2, 3), rand(2, 3, seed=1)],
    ),
    Case(
        "select_scatter",
        ("aten.select_scatter.default",),
        lambda x, s: torch.select_scatter(x, s, 1, -2),
        lambda: [rand(2, 3, 4), rand(2, 4, seed=1)],
        dynamic=True,
    ),
    Case(
        "slice_scatter",
        ("aten.slice_scatter.default",),
        lambda x, s: torch.slice_scatter(x, s, 1, 1, 3),
        lambda: [rand(2, 5, 4), rand(2, 2, 4, seed=1)],
        dynamic=True,
    ),
    Case(
        "slice_scatter_step",
        ("aten.slice_scatter.default",),
        lambda x, s: torch.slice_scatter(x, s, 1, -4, 2**63 - 1, 2),
        lambda: [rand(2, 5, 4), rand(2, 2, 4, seed=1)],
        dynamic=True,
    ),
    Case(
        "slice_assigned", (), lambda x, y: _assign(x, y), lambda: [rand(2, 5, 4), rand(2, 2, 4, seed=1)], dynamic=True
    ),
]


def _assign(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z[:, 1:3] = y * 2
    z[:, -1, 0] = 0.5
    return z * x

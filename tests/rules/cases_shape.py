"""Rows: parts of tensors, joins, repeats and axis order."""

from __future__ import annotations

from typing import Any

import torch

from .harness import Case, ints, rand


def _x(*shape: int):
    return lambda: [rand(*shape)]


def free(*axes: tuple[int, ...]) -> dict[str, tuple[dict[int, Any], ...]]:
    """The dynamic dims of each tensor, by axis number."""
    return {"xs": tuple(dict.fromkeys(a, torch.export.Dim.AUTO) for a in axes)}


CASES = [
    Case("expand", ("aten.expand.default",), lambda x: x.expand(2, 5, -1) * 1, _x(5, 1), dynamic=free(())),
    Case(
        "expand_grow",
        ("aten.expand.default",),
        lambda x: x[:, None].expand(-1, 3, 4, -1) * 1,
        _x(2, 4, 5),
        dynamic=True,
    ),
    Case(
        "expand_batch",
        ("aten.expand.default",),
        lambda x, y: x.expand(y.shape[0], -1, -1) + y,
        lambda: [rand(1, 3, 4), rand(2, 3, 4)],
        dynamic=free((), (0,)),
    ),
    Case(
        "expand_gqa",
        ("aten.expand.default",),
        lambda x: x[:, :, None].expand(-1, -1, 3, -1, -1).reshape(x.shape[0], 6, x.shape[2], 4),
        _x(2, 2, 5, 4),
        dynamic=free((0, 2)),
    ),
    Case(
        "expand_as", ("aten.expand_as.default",), lambda x, y: x.expand_as(y) * y, lambda: [rand(3, 1), rand(2, 3, 4)]
    ),
    Case("broadcast_to", ("aten.broadcast_to.default",), lambda x: torch.broadcast_to(x, (2, 3, 4)) * 1, _x(3, 1)),
    Case(
        "broadcast_tensors",
        ("aten.broadcast_tensors.default",),
        lambda x, y: torch.broadcast_tensors(x, y),
        lambda: [rand(3, 1), rand(2, 1, 4)],
    ),
    Case(
        "meshgrid_ij",
        ("aten.meshgrid.indexing",),
        lambda x, y: torch.meshgrid(x, y, indexing="ij"),
        lambda: [rand(3), rand(4)],
    ),
    Case(
        "meshgrid_xy",
        ("aten.meshgrid.indexing",),
        lambda x, y, z: torch.meshgrid(x, y, z, indexing="xy"),
        lambda: [rand(3), rand(4), rand(2)],
    ),
    Case(
        "cat",
        ("aten.cat.default",),
        lambda x, y: torch.cat([x, y, x], 1),
        lambda: [rand(2, 3, 4), rand(2, 2, 4)],
        dynamic=True,
    ),
    Case(
        "cat_last",
        ("aten.cat.default",),
        lambda x, y: torch.cat([x, y], -1),
        lambda: [rand(2, 3, 4), rand(2, 3, 1)],
        dynamic=free(
            (
                0,
                1,
            ),
            (0, 1),
        ),
    ),
    Case(
        "cat_batch",
        ("aten.cat.default",),
        lambda x, y: torch.cat([x, y]),
        lambda: [rand(2, 3), rand(4, 3)],
        dynamic=True,
    ),
    Case("cat_promotes", ("aten.cat.default",), lambda x, y: torch.cat([x, y]), lambda: [rand(2, 3), ints(5, 4, 3)]),
    Case(
        "cat_empty",
        ("aten.cat.default",),
        lambda x, y: torch.cat([y, x], 1),
        lambda: [rand(2, 3), torch.zeros(0, dtype=torch.float64)],
    ),
    Case("cat_after_conv", ("aten.cat.default",), lambda: ConvCat(), _x(2, 3, 6, 6), module=True, dynamic=True),
    Case(
        "stack",
        ("aten.stack.default",),
        lambda x, y: torch.stack([x, y], 1),
        lambda: [rand(2, 3), rand(2, 3, seed=1)],
        dynamic=True,
    ),
    Case(
        "stack_last",
        ("aten.stack.default",),
        lambda x, y: torch.stack([x, y], -1),
        lambda: [rand(2, 3), rand(2, 3, seed=1)],
        dynamic=True,
    ),
    Case(
        "block_diag",
        ("aten.block_diag.default",),
        lambda x, y, z: torch.block_diag(x, y, z),
        lambda: [rand(2, 3), rand(3), rand(1, 2)],
    ),
    Case("slice", ("aten.slice.Tensor",), lambda x: x[:, 1:3], _x(2, 5, 3), dynamic=True),
    Case("slice_negative", ("aten.slice.Tensor",), lambda x: x[:, -3:-1], _x(2, 5, 3), dynamic=free((0, 1))),
    Case("slice_beyond", ("aten.slice.Tensor",), lambda x: x[:, -9:99], _x(2, 5, 3), dynamic=True),
    Case("slice_empty", ("aten.slice.Tensor",), lambda x: x[:, 3:2], _x(2, 5, 3)),
    Case("slice_step", ("aten.slice.Tensor",), lambda x: x[:, 1::2, ..., -4::3], _x(2, 5, 7), dynamic=free((0, 1))),
    Case(
        "slice_to_length",
        ("aten.slice.Tensor",),
        lambda x, y: x[:, : y.shape[1]] + y,
        lambda: [rand(1, 9, 3), rand(2, 5, 3)],
        dynamic=free((), (0, 1)),
    ),
    Case(
        "slice_but_last",
        ("aten.slice.Tensor",),
        lambda x: x[:, : x.shape[1] - 1] - x[:, 1:],
        _x(2, 5, 3),
        dynamic=free((0, 1)),
    ),
    Case(
        "slice_half",
        ("aten.slice.Tensor",),
        lambda x: torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1),
        _x(2, 5, 6),
        dynamic=True,
    ),
    Case("select", ("aten.select.int",), lambda x: x[:, 1] * x[:, -1], _x(2, 5, 3), dynamic=free((0, 1))),
    Case("select_first", ("aten.select.int",), lambda x: x[0, ..., 2], _x(2, 5, 3), dynamic=free((0, 1))),
    Case("select_size", ("aten.select.int",), lambda x: x[:, x.shape[1] - 2], _x(2, 5, 3), dynamic=free((0, 1))),
    Case("narrow", ("aten.narrow.default",), lambda x: x.narrow(1, 1, 3), _x(2, 5, 3), dynamic=True),
    Case("narrow_negative", ("aten.narrow.default",), lambda x: x.narrow(1, -3, 3), _x(2, 5, 3), dynamic=free((0, 1))),
    Case("split", ("aten.split.Tensor",), lambda x: x.split(2, 1), _x(2, 5, 3), dynamic=True),
    Case("split_even", ("aten.split.Tensor",), lambda x: x.split(3, -1), _x(2, 5, 9), dynamic=free((0, 1))),
    Case(
        "split_with_sizes",
        ("aten.split_with_sizes.default",),
        lambda x: x.split([1, 3, 1], 1),
        _x(2, 5, 3),
        dynamic=True,
    ),
    Case("chunk", ("aten.chunk.default",), lambda x: x.chunk(2, -1), _x(2, 5, 7), dynamic=free((0, 1))),
    Case("unsafe_chunk", ("aten.unsafe_chunk.default",), lambda x: torch.unsafe_chunk(x, 4, 1), _x(2, 4, 3)),
    Case("tensor_split", ("aten.tensor_split.sections",), lambda x: torch.tensor_split(x, 3, 1), _x(2, 7, 3)),
    Case(
        "tensor_split_indices",
        ("aten.tensor_split.indices",),
        lambda x: torch.tensor_split(x, (1, 4, 4), 1),
        _x(2, 7, 3),
    ),
    Case("hsplit", ("aten.hsplit.int",), lambda x: torch.hsplit(x, 2), _x(3, 4)),
    Case("vsplit", ("aten.vsplit.array",), lambda x: torch.vsplit(x, (1, 2)), _x(4, 3)),
    Case("dsplit", ("aten.dsplit.int",), lambda x: torch.dsplit(x, 3), _x(2, 2, 6)),
    Case("unbind", ("aten.unbind.int",), lambda x: x.unbind(1), _x(2, 3, 4), dynamic=free((0, 2))),
    Case(
        "unbind_qkv",
        ("aten.unbind.int",),
        lambda x: x.reshape(x.shape[0], 5, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0),
        _x(2, 5, 12),
        dynamic=True,
    ),
    Case("repeat", ("aten.repeat.default",), lambda x: x.repeat(2, 1, 3), _x(2, 5, 3), dynamic=True),
    Case("repeat_lead", ("aten.repeat.default",), lambda x: x.repeat(3, 1, 2), _x(5, 3)),
    Case(
        "repeat_batch",
        ("aten.repeat.default",),
        lambda x, y: x.repeat(y.shape[0], 1) + y,
        lambda: [rand(1, 3), rand(2, 3)],
        dynamic=free((), (0,)),
    ),
    Case("tile", ("aten.tile.default",), lambda x: torch.tile(x, (2,)), _x(5, 3)),
    Case(
        "repeat_interleave",
        ("aten.repeat_interleave.self_int",),
        lambda x: x.repeat_interleave(3, 1),
        _x(2, 4, 5),
        dynamic=free((0, 2)),
    ),
    Case("repeat_interleave_flat", ("aten.repeat_interleave.self_int",), lambda x: x.repeat_interleave(2), _x(3, 2)),
    Case(
        "repeat_interleave_tensor",
        ("aten.repeat_interleave.self_Tensor",),
        lambda x: torch.repeat_interleave(x, torch.tensor([2, 0, 3]), 1, output_size=5),
        _x(2, 3, 2),
    ),
    Case("flip", ("aten.flip.default",), lambda x: x.flip(-1, 1), _x(2, 5, 3), dynamic=free((0, 1))),
    Case("flip_bool", ("aten.flip.default",), lambda x: (x > 0).flip(0), _x(2, 5)),
    Case("roll", ("aten.roll.default",), lambda x: x.roll((1, -2), (1, 2)), _x(2, 5, 4), dynamic=free((0, 1))),
    Case("roll_same_axis", ("aten.roll.default",), lambda x: x.roll((1, 3), (1, 1)), _x(2, 5, 4)),
    Case("roll_flat", ("aten.roll.default",), lambda x: x.roll(3), _x(2, 5)),
    *(
        Case(f"rot90_{n}", ("aten.rot90.default",), lambda x, n=n: x.rot90(n, (1, 2)), _x(2, 3, 4))
        for n in (-1, 0, 1, 2, 3)
    ),
    Case(
        "pixel_shuffle",
        ("aten.pixel_shuffle.default",),
        lambda x: torch.pixel_shuffle(x, 2),
        _x(2, 12, 3, 4),
        dynamic=free((0, 2, 3)),
    ),
    Case("pixel_shuffle_3d", ("aten.pixel_shuffle.default",), lambda x: torch.pixel_shuffle(x, 2), _x(8, 3, 4)),
    Case("pixel_shuffle_5d", ("aten.pixel_shuffle.default",), lambda x: torch.pixel_shuffle(x, 2), _x(2, 2, 8, 3, 4)),
    Case(
        "pixel_unshuffle",
        ("aten.pixel_unshuffle.default",),
        lambda x: torch.pixel_unshuffle(x, 2),
        _x(2, 3, 4, 6),
        dynamic=free((0,)),
    ),
    Case(
        "channel_shuffle",
        ("aten.channel_shuffle.default",),
        lambda x: torch.channel_shuffle(x, 3),
        _x(2, 6, 2, 3),
        dynamic=True,
    ),
    Case("view_dtype", ("aten.view.dtype",), lambda x: x.view(torch.int64), _x(3, 2)),
    Case("as_strided", ("aten.as_strided.default",), lambda x: torch.as_strided(x, (2, 3, 2), (2, 1, 4), 1), _x(3, 4)),
    Case("as_strided_cube", (), lambda x: torch.as_strided(x, (2, 2, 2, 2), (0, 0, 1, 1)), _x(3, 3)),
    Case("plus_column_row", ("aten.add.Tensor",), lambda x, y: x + y, lambda: [rand(3, 1), rand(1, 3)]),
    Case("plus_column", ("aten.add.Tensor",), lambda x, y: x + y, lambda: [rand(3, 3), rand(3, 1)], dynamic=True),
    Case(
        "plus_inner",
        ("aten.add.Tensor",),
        lambda x, y: x + y,
        lambda: [rand(2, 3, 3, 3), rand(3, 1)],
        dynamic=free((0,), ()),
    ),
    Case(
        "plus_vector",
        ("aten.add.Tensor",),
        lambda x, y: x + y,
        lambda: [rand(2, 3, 1), rand(3)],
        dynamic=free((0,), ()),
    ),
    Case(
        "repeat_interleave_by_data",
        ("aten.repeat_interleave.self_Tensor",),
        lambda x, n: x.repeat_interleave(n, 0).cumsum(0),
        lambda: [rand(4, 2), torch.tensor([2, 0, 1, 3])],
    ),
    Case("as_strided_windows", (), lambda x: torch.as_strided((x * 2), (2, 4, 3), (6, 1, 1)), _x(2, 6)),
    Case("atleast_3d", ("aten.atleast_3d.default",), torch.atleast_3d, _x(3)),
    Case("hstack", (), lambda x, y: torch.hstack([x, y]), lambda: [rand(2, 3), rand(2, 1)]),
]


class ConvCat(torch.nn.Module):
    """Joins, cuts and rolls between convolutions: the axis order travels through."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        a, b = y.chunk(2, 1)
        z = torch.cat([a.roll(1, 2), x[:, :1], y[:, 3:], b.flip(3)], 1)
        z = torch.nn.functional.pad(z, (1, -1, 0, 2))[:, :, 1:-1, ::2]
        return self.second(z).select(1, -1)

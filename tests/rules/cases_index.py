"""Rows: reading and writing by index, masks, searches. Duplicate and negative indices wherever torch allows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .cases_shape import free
from .harness import Case, ints, rand


def _i(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def _x(*shape: int):
    return lambda: [rand(*shape)]


M = torch.tensor([[True, False, True], [False, False, True]])


class Embed(torch.nn.Module):
    """An embedding with a padding row, read twice."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(7, 4, **options)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.table(a)) + self.table(b)[:, :1]


class Buffered(torch.nn.Module):
    """Swin's relative position bias: a parameter read by a buffer of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(9, 2))
        self.register_buffer("places", ints(9, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[self.places.view(-1)].view(4, 4, 2).permute(2, 0, 1)


def _assign(x: torch.Tensor, i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    z = x * 1
    z[:, i] = v
    z[torch.arange(2), -1] += 1
    return z * x


CASES = [
    # embeddings
    Case(
        "embedding",
        ("aten.embedding.default",),
        lambda: Embed(),
        lambda: [ints(7, 2, 5), ints(7, 2, 5, seed=1)],
        module=True,
        dynamic={"a": {0: "b", 1: "s"}, "b": {0: "b", 1: "t"}},
    ),
    Case(
        "embedding_padding",
        ("aten.embedding.default",),
        lambda: Embed(padding_idx=0),
        lambda: [ints(3, 2, 5), ints(7, 2, 5)],
        module=True,
        dynamic=True,
    ),
    Case(
        "embedding_padding_last",
        ("aten.embedding.default",),
        lambda: Embed(padding_idx=-1),
        lambda: [ints(7, 2, 9), ints(7, 2, 9)],
        module=True,
    ),
    Case(
        "embedding_by_frequency",
        ("aten.embedding.default",),
        lambda: Embed(scale_grad_by_freq=True, padding_idx=1),
        lambda: [ints(7, 2, 9), ints(7, 2, 9)],
        module=True,
    ),
    Case(
        "embedding_tensor",
        ("aten.embedding.default",),
        lambda i, w: F.embedding(i, w, padding_idx=2),
        lambda: [ints(4, 6), rand(4, 3)],
    ),
    Case(
        "embedding_int32",
        ("aten.embedding.default",),
        lambda i, w: F.embedding(i, w),
        lambda: [ints(4, 2, 3).int(), rand(4, 3)],
    ),
    *(
        Case(
            f"embedding_bag_{m}",
            (),
            lambda i, o, w, m=m: F.embedding_bag(i, w, o, mode=m),
            lambda: [ints(5, 8), _i(0, 3, 3, 6), rand(5, 3)],
        )
        for m in ("sum", "mean", "max")
    ),
    Case(
        "embedding_bag_weighted",
        ("aten.embedding_bag.padding_idx",),
        lambda i, w, p: F.embedding_bag(i, w, per_sample_weights=p, mode="sum"),
        lambda: [ints(5, 3, 4), rand(5, 3), rand(3, 4)],
    ),
    Case(
        "embedding_bag_padding",
        ("aten.embedding_bag.padding_idx",),
        lambda i, w: F.embedding_bag(i, w, mode="mean", padding_idx=1),
        lambda: [ints(3, 3, 4), rand(3, 3)],
    ),
    # index.Tensor
    Case("index", ("aten.index.Tensor",), lambda x: x[:, _i(2, 0, 2, -1)], _x(2, 3, 4), dynamic=True),
    Case(
        "index_matrix",
        ("aten.index.Tensor",),
        lambda x, i: x[i],
        lambda: [rand(5, 3), ints(5, 2, 4)],
        dynamic=free((), (0, 1)),
    ),
    Case("index_buffer", ("aten.index.Tensor",), lambda: Buffered(), _x(3, 2, 4, 4), module=True, dynamic=True),
    Case("index_two", ("aten.index.Tensor",), lambda x: x[_i(0, 1, -1), _i(2, 0, 2)], _x(2, 3, 4)),
    Case(
        "index_two_broadcast",
        ("aten.index.Tensor",),
        lambda x: x[:, _i(0, 2)[:, None], _i(1, -1, 0)],
        _x(2, 3, 4),
        dynamic=True,
    ),
    Case("index_two_apart", ("aten.index.Tensor",), lambda x: x[_i(0, 1, -1), :, _i(2, 0, 2)], _x(2, 3, 4)),
    Case(
        "index_lead_none", ("aten.index.Tensor",), lambda x: x[:, :, _i(1, 1), _i(0, 2)], _x(2, 2, 3, 4), dynamic=True
    ),
    Case(
        "index_three",
        ("aten.index.Tensor",),
        lambda x, i, j: x[i, j, i],
        lambda: [rand(3, 3, 3), ints(3, 5), ints(3, 5, seed=2)],
        dynamic=free((), (0,), (0,)),
    ),
    Case(
        "index_last_token",
        ("aten.index.Tensor",),
        lambda x, n: x[torch.arange(x.shape[0]), n],
        lambda: [rand(3, 5, 2), _i(1, 4, 0)],
        dynamic=free((0, 1), (0,)),
    ),
    Case("index_mask", ("aten.index.Tensor",), lambda x: x[M], _x(2, 3, 4)),
    Case("index_mask_of_input", ("aten.index.Tensor",), lambda x: x[x > 0].sum(), _x(2, 3, 4)),
    # gather and friends
    Case(
        "gather",
        ("aten.gather.default",),
        lambda x, i: x.gather(1, i),
        lambda: [rand(2, 3, 4), ints(3, 2, 5, 4)],
        dynamic=True,
    ),
    Case(
        "gather_smaller",
        ("aten.gather.default",),
        lambda x, i: x.gather(-1, i),
        lambda: [rand(3, 4, 5), ints(5, 2, 3, 6)],
    ),
    Case(
        "gather_sequence",
        ("aten.gather.default",),
        lambda x, i: x.gather(1, i),
        lambda: [rand(2, 6, 4), ints(5, 2, 3, 4)],
        dynamic=free((0, 1), (0, 1)),
    ),
    Case(
        "take_along_dim",
        ("aten.take_along_dim.default",),
        lambda x, i: torch.take_along_dim(x, i, 1),
        lambda: [rand(2, 3, 4), ints(3, 1, 5, 4)],
    ),
    Case(
        "take_along_flat",
        ("aten.take_along_dim.default",),
        lambda x, i: torch.take_along_dim(x, i),
        lambda: [rand(2, 3), ints(6, 5)],
    ),
    Case(
        "take",
        ("aten.take.default",),
        lambda x, i: torch.take(x, i),
        lambda: [rand(2, 3), torch.tensor([[0, -1, 5], [5, 2, 0]])],
    ),
    Case(
        "index_select",
        ("aten.index_select.default",),
        lambda x, i: x.index_select(1, i),
        lambda: [rand(2, 3, 4), _i(2, 2, 0)],
        dynamic=free((0,), (0,)),
    ),
    # writes
    Case(
        "index_put",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((_i(0, -1),), v),
        lambda: [rand(3, 4), rand(2, 4)],
    ),
    Case(
        "index_put_adds",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((_i(0, -1, 0), _i(1, 1, 1)), v, accumulate=True),
        lambda: [rand(3, 4), rand(3)],
    ),
    Case(
        "index_put_apart",
        ("aten.index_put.default",),
        lambda x, v: torch.ops.aten.index_put(x, [_i(0, 1), None, _i(2, 0)], v),
        lambda: [rand(2, 3, 4), rand(2, 3)],
    ),
    Case(
        "index_put_inner",
        ("aten.index_put.default",),
        lambda x, v: torch.ops.aten.index_put(x, [None, _i(0, 1)[:, None], _i(2, 0, 1)], v, True),
        lambda: [rand(2, 3, 4, 2), rand(2, 1, 3, 1)],
        dynamic=free((0,), (0,)),
    ),
    Case(
        "index_put_broadcast",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((_i(0, 2),), v, accumulate=True),
        lambda: [rand(3, 4), rand(1)],
    ),
    Case(
        "index_put_mask",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((M,), v),
        lambda: [rand(2, 3, 4), rand(1)],
    ),
    Case(
        "index_put_mask_inner",
        ("aten.index_put.default",),
        lambda x: torch.ops.aten.index_put(x, [None, x[0, :, 0] > 0], torch.tensor(2.0, dtype=torch.float64)),
        _x(2, 3, 4),
        dynamic=True,
    ),
    Case(
        "index_put_mask_values",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((M,), v),
        lambda: [rand(2, 3), rand(3)],
    ),
    Case("index_assigned", (), _assign, lambda: [rand(2, 5, 3), _i(3, 0), rand(2, 2, 3)]),
    Case("mask_assigned", (), lambda x: _masked(x), _x(2, 5), dynamic=True),
    Case(
        "index_add",
        ("aten.index_add.default",),
        lambda x, i, s: x.index_add(1, i, s, alpha=2),
        lambda: [rand(2, 3, 4), _i(2, 0, 2, 2), rand(2, 4, 4)],
    ),
    Case(
        "index_copy",
        ("aten.index_copy.default",),
        lambda x, i, s: x.index_copy(0, i, s),
        lambda: [rand(3, 4), _i(2, 0), rand(2, 4)],
    ),
    Case(
        "index_fill",
        ("aten.index_fill.int_Scalar",),
        lambda x: x.index_fill(1, _i(0, -1), 1.5),
        _x(2, 3, 4),
        dynamic=True,
    ),
    Case(
        "index_fill_tensor",
        ("aten.index_fill.int_Tensor",),
        lambda x, v: x.index_fill(1, _i(0, 0), v),
        lambda: [rand(2, 3, 4), rand(1)[0]],
    ),
    *(
        Case(
            f"index_reduce_{r}_{s}",
            ("aten.index_reduce.default",),
            lambda x, y, r=r, s=s: x.index_reduce(0, _i(0, 2, 0, 0), y, r, include_self=s),
            lambda: [rand(4, 3), rand(4, 3, seed=1)],
        )
        for r in ("prod", "mean", "amax", "amin")
        for s in (True, False)
    ),
    Case(
        "scatter",
        ("aten.scatter.src",),
        lambda x, i, s: x.scatter(1, i, s),
        lambda: [rand(3, 5), torch.tensor([[4, 0], [1, 2], [3, 1]]), rand(3, 2)],
    ),
    Case(
        "scatter_square",
        ("aten.scatter_add.default",),
        lambda x, i, s: x.scatter_add(0, i, s),
        lambda: [rand(3, 3, 3), ints(3, 3, 3, 3), rand(3, 3, 3, seed=1)],
        dynamic=True,
    ),
    Case(
        "index_put_square",
        ("aten.index_put.default",),
        lambda x, v: x.index_put((_i(0, 1, 2)[:, None], _i(2, 0, 1)), v),
        lambda: [rand(3, 3, 3), rand(3, 3, 3, seed=1)],
    ),
    Case(
        "scatter_value",
        ("aten.scatter.value",),
        lambda x, i: x.scatter(-1, i, 0.1),
        lambda: [rand(2, 3, 5), ints(5, 2, 3, 2)],
        dynamic=True,
    ),
    Case(
        "scatter_topk_mask",
        (),
        lambda x: x * torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, 1.0),
        _x(4, 6),
        dynamic=True,
    ),
    Case(
        "scatter_reduce_add",
        ("aten.scatter.reduce",),
        lambda x, i, s: torch.scatter(x, 0, i, s, reduce="add"),
        lambda: [ints(9, 4, 3), ints(4, 5, 3), ints(9, 5, 3, seed=1)],
    ),
    Case(
        "scatter_multiply",
        ("aten.scatter.value_reduce",),
        lambda x, i: torch.scatter(x, 0, i, 2, reduce="multiply"),
        lambda: [ints(9, 4, 3), ints(4, 5, 3)],
    ),
    Case(
        "scatter_add",
        ("aten.scatter_add.default",),
        lambda x, i, s: x.scatter_add(1, i, s),
        lambda: [rand(3, 4, 2), ints(4, 3, 6, 2), rand(3, 6, 2)],
        dynamic=True,
    ),
    *(
        Case(
            f"scatter_reduce_{r}_{s}",
            ("aten.scatter_reduce.two",),
            lambda x, i, y, r=r, s=s: x.scatter_reduce(0, i, y, r, include_self=s),
            lambda: [rand(4, 3), ints(4, 6, 3), rand(6, 3, seed=1)],
        )
        for r in ("sum", "prod", "mean", "amax", "amin")
        for s in (True, False)
    ),
    Case(
        "scatter_amax_ties",
        ("aten.scatter_reduce.two",),
        lambda x, i, y: x.scatter_reduce(0, i, y, "amax"),
        lambda: [ints(3, 4, 3).double() / 2, ints(4, 6, 3), ints(3, 6, 3, seed=1).double() / 2],
    ),
    Case(
        "scatter_prod_zeros",
        ("aten.scatter_reduce.two",),
        lambda x, i, y: x.scatter_reduce(0, i, y, "prod"),
        lambda: [rand(4, 3), ints(4, 6, 3), ints(2, 6, 3, seed=1).double() * rand(6, 3)],
    ),
    Case(
        "scatter_mean_int",
        ("aten.scatter_reduce.two",),
        lambda x, i, y: x.scatter_reduce(0, i, y, "mean"),
        lambda: [ints(9, 4), ints(4, 6), ints(99, 6, seed=1) - 50],
    ),
    Case(
        "put",
        ("aten.put.default",),
        lambda x, v: torch.put(x, torch.tensor([[1, -1], [1, 4]]), v, accumulate=True),
        lambda: [rand(2, 3), rand(2, 2)],
    ),
    Case(
        "masked_scatter",
        ("aten.masked_scatter.default",),
        lambda x, s: x.masked_scatter(M, s),
        lambda: [rand(2, 3), rand(5)],
    ),
    Case(
        "masked_scatter_embeds",
        ("aten.masked_scatter.default",),
        lambda x, m, s: x.masked_scatter((m > 1)[..., None].expand_as(x), s),
        lambda: [rand(2, 5, 3), ints(4, 2, 5), rand(9, 3)],
        dynamic=free((0, 1), (0, 1), ()),
    ),
    # masks and searches
    Case(
        "masked_select",
        ("aten.masked_select.default",),
        lambda x: torch.masked_select(x, x > 0).square().sum(),
        _x(3, 4),
    ),
    Case("nonzero", ("aten.nonzero.default",), lambda x: torch.nonzero(x > 0), _x(3, 4)),
    Case("nonzero_tuple", ("aten.nonzero_numpy.default",), lambda x: torch.nonzero(x > 0, as_tuple=True), _x(3, 4)),
    Case("nonzero_static", ("aten.nonzero_static.default",), lambda x: torch.nonzero_static(x > 0, size=9), _x(3, 4)),
    Case(
        "item_as_size",
        ("aten.item.default",),
        lambda x, i: x[:, i.max().item() :] * 2,
        lambda: [rand(3, 9), ints(4, 3)],
        dynamic=True,
    ),
    Case(
        "item_as_number",
        ("aten.item.default",),
        lambda x, i: x * (i.sum().item() - 30),
        lambda: [rand(3, 9), ints(4, 3)],
        dynamic=True,
    ),
    Case("histc", ("aten.histc.default",), lambda x: torch.histc(x, 5, -1, 1.5), _x(4, 6), dynamic=True),
    Case("histc_own_range", ("aten.histc.default",), lambda x: torch.histc(x, 4), _x(4, 6)),
    Case(
        "histc_counts",
        ("aten.histc.default",),
        lambda i: torch.histc(i.float(), bins=5, min=0, max=4),
        lambda: [ints(7, 20)],
    ),
    Case("one_hot", ("aten.one_hot.default",), lambda i: F.one_hot(i, 5), lambda: [ints(5, 2, 3)], dynamic=True),
    Case(
        "one_hot_product",
        ("aten.one_hot.default",),
        lambda x, i: (F.one_hot(i, 5).to(x.dtype) * x).sum(-1),
        lambda: [rand(2, 3, 5), ints(5, 2, 3)],
        dynamic=True,
    ),
    *(
        Case(
            f"bucketize_{r}",
            ("aten.bucketize.Tensor",),
            lambda x, r=r: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5, 0.5, 1.0], dtype=torch.float64), right=r),
            lambda: [torch.tensor([[-2.0, -1.0, 0.5], [0.7, 1.0, float("nan")]], dtype=torch.float64)],
            dynamic=True,
        )
        for r in (False, True)
    ),
    Case(
        "searchsorted_rows",
        ("aten.searchsorted.Tensor",),
        lambda s, x: torch.searchsorted(s.sort(-1).values, x),
        lambda: [rand(2, 5), rand(2, 3, seed=1)],
    ),
    Case(
        "searchsorted_int32",
        ("aten.searchsorted.Tensor",),
        lambda x: torch.searchsorted(_i(1, 3, 5, 5, 7), x, out_int32=True, side="right"),
        lambda: [ints(9, 2, 4)],
    ),
    Case(
        "isin", ("aten.isin.Tensor_Tensor",), lambda i: torch.isin(i, _i(1, 3)), lambda: [ints(5, 2, 4)], dynamic=True
    ),
    Case(
        "isin_not",
        ("aten.isin.Tensor_Tensor",),
        lambda i: torch.isin(i, _i(1, 3), invert=True),
        lambda: [ints(5, 2, 4)],
    ),
]


def _masked(x: torch.Tensor) -> torch.Tensor:
    z = x * 2
    z[x > 0] = -0.5
    return z * x

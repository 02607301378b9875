"""Rows: overloads that torch's Python functions write in other ops, or reach under another name: each is called itself.

They come from torch's decompositions, from scripted programs, and from `torch.ops` in users' code.
"""

from __future__ import annotations

from typing import Any

import torch

from .cases_shape import free
from .harness import Case, ints, rand
from .values import call, each, op, undifferentiated

X, CUBE, IMAGE, VOLUME = rand(3, 4), rand(2, 3, 4), rand(2, 3, 5, 6), rand(2, 2, 3, 4, 5)
ONES = rand(2, 1, 3, 1)
COLUMN, ROW = torch.tensor([2, 0, 1]), torch.tensor([1, 3, 1])
SQUARE = rand(2, 3, 3) + 4 * torch.eye(3, dtype=torch.float64)
PLACES = torch.tensor([4, 0, 1, 1, 4, 3])
AUTO = torch.export.Dim.AUTO
HW = free((0, 2, 3))


def positive(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


def of(key: str, function: Any, *inputs: torch.Tensor, tag: str = "", **options: Any) -> Case:
    """A row whose function uses the overload (its first argument) among other ops."""
    name = "overload_" + key.replace(".default", "").replace(".", "_") + (f"_{tag}" if tag else "")
    return Case(name, (f"aten.{key}",), lambda *xs: function(op(key), *xs), lambda: list(inputs), **options)


AXES = [
    call("permute.default", IMAGE, [0, -2, 3, 1], dynamic=HW),
    call("permute_copy.default", CUBE, [2, 0, -2]),
    call("transpose_copy.int", CUBE, 0, -1),
    *each("t t_copy", X, dynamic=True),
    call("t.default", rand(4), tag="vector"),
    call("numpy_T.default", CUBE, dynamic=True),
    *each("mT adjoint", CUBE, dynamic=True),
    *each("swapaxes swapdims", CUBE, 0, -1, dynamic=True),
    *each("movedim.int moveaxis.int", IMAGE, 1, -1, dynamic=HW),
    *each("movedim.intlist moveaxis.intlist", IMAGE, [0, -1], [1, 0], dynamic=HW),
    *each("fliplr flipud", CUBE, dynamic=True),
]

SHAPES = [
    *each("view reshape", IMAGE, [2, -1, 6], dynamic=free(())),
    call("_unsafe_view.default", IMAGE, [6, 5, 6]),
    call("_reshape_alias.default", CUBE, [6, 4], [4, 1]),
    call("view_copy.default", CUBE, [4, 6]),
    call("view_copy.dtype", CUBE, torch.int64),
    call("flatten.using_ints", IMAGE, 1, 2, dynamic=HW),
    call("unflatten.int", CUBE, 2, [2, -1], dynamic=free((0, 1))),
    *each("unsqueeze unsqueeze_copy", CUBE, -2, dynamic=free((0, 1))),
    *each("squeeze squeeze_copy", ONES),
    *each("squeeze.dim squeeze_copy.dim", ONES, -1, dynamic=True),
    call("squeeze.dim", CUBE, 1, tag="of_no_effect"),
    *each("squeeze.dims squeeze_copy.dims", ONES, [1, 2, -1], dynamic=True),
    *each("view_as reshape_as", CUBE, rand(4, 6)),
    call("ravel.default", CUBE, dynamic=True),
    *each("atleast_1d atleast_2d", rand(1)[0]),
    call("atleast_2d.default", rand(3), tag="vector"),
]

PARTS = [
    call("expand_copy.default", rand(3, 1), [2, 3, 4]),
    undifferentiated("copy.default", X, rand(4, seed=1)),
    call("meshgrid.default", [rand(3), rand(4)]),
    *each("concat concatenate", [CUBE, rand(2, 2, 4)], 1, dynamic=True),
    call("slice_copy.Tensor", CUBE, 2, 1, -1, 2, dynamic=free((0, 1))),
    call("select_copy.int", CUBE, 1, -1, dynamic=True),
    call("narrow_copy.default", CUBE, 1, 1, 2, dynamic=True),
    call("diagonal_copy.default", CUBE, 1, 1, 2, dynamic=True),
    call("linalg_diagonal.default", CUBE, offset=-1, dynamic=True),
    call("as_strided_copy.default", X, [2, 3], [3, 1], 2),
    *each("split_copy.Tensor unsafe_split.Tensor", IMAGE, 2, 2, dynamic=HW),
    *each("split.sizes split_with_sizes_copy unsafe_split_with_sizes", IMAGE, [1, 3, 1], 2, dynamic=True),
    call("hsplit.array", rand(4, 5), [1, 3]),
    call("vsplit.int", rand(4, 3), 2),
    call("dsplit.array", rand(2, 2, 5), [1, 4]),
    call("unbind_copy.int", CUBE, 1, dynamic=True),
    call("native_channel_shuffle.default", rand(2, 6, 3, 4), 3, wrt=0, dynamic=True),
    call("repeat_interleave.Tensor", torch.tensor([2, 0, 3]), output_size=5),
    of(
        "repeat_interleave.Tensor",
        lambda f, x, n: x.index_select(0, f(n)).cumsum(0),
        rand(3, 2),
        torch.tensor([2, 0, 3]),
        tag="by_data",
    ),
]

PADDING = [
    call("constant_pad_nd.default", IMAGE, [1, 2, -1, 3], 0.1, dynamic=HW),
    call("constant_pad_nd.default", ints(5, 2, 3), [1, 0], tag="int"),
    *[call(f"{n}_pad1d.default", CUBE, [2, 1], dynamic=True) for n in ("reflection", "replication")],
    *[call(f"{n}_pad2d.default", IMAGE, [1, 2, 3, 0], dynamic=HW) for n in ("reflection", "replication")],
    *[call(f"{n}_pad3d.default", VOLUME, [1, 1, 0, 2, 1, 0]) for n in ("reflection", "replication")],
    call("reflection_pad2d.default", rand(3, 5, 6), [1, 1, 1, 1], tag="unbatched"),
    call("_pad_circular.default", IMAGE, [1, 2, 3, 0], dynamic=HW),
    call("unfold_copy.default", rand(2, 8, 2), 1, 3, 2),
]

INDEX = [
    of("_unsafe_index.Tensor", lambda f, x, i, j: f(x, [None, i, j]), CUBE, COLUMN, ROW, dynamic=free((0,), (), ())),
    of("_unsafe_index_put.default", lambda f, x, i, v: f(x, [None, i], v, True), X, ROW, rand(3, 3, seed=1)),
    call("argwhere.default", X > 0),
    *[
        of(
            "embedding_bag.default",
            lambda f, w, i, o, m=m: f(w, i, o, False, m)[0],
            rand(5, 3),
            PLACES,
            ROW.sort().values - 1,
            tag=str(m),
        )
        for m in (0, 1, 2)
    ],
    of(
        "embedding_bag.default",
        lambda f, w, i, o, p: f(w, i, o, False, 0, False, p, True)[0],
        rand(5, 3),
        PLACES,
        torch.tensor([0, 2, 2, 6]),
        rand(6),
        tag="weighted",
    ),
    *[
        call("bucketize.Scalar", v, torch.tensor([-1.0, 0.5, 0.5]), right=r, tag=f"{v}_{r}")
        for v in (0.5, 3)
        for r in (False, True)
    ],
    *[
        call("searchsorted.Scalar", torch.tensor([1, 3, 3, 7]), v, right=r, tag=f"{v}_{r}")
        for v in (3, 9)
        for r in (False, True)
    ],
    call("isin.Tensor_Scalar", ints(5, 2, 4), 3, dynamic=True),
    call("isin.Tensor_Scalar", ints(5, 2, 4), 3, invert=True, tag="not"),
    *[call("isin.Scalar_Tensor", v, ints(5, 2, 4), tag=str(v)) for v in (3, 9)],
    call("bincount.default", PLACES),
    call("bincount.default", PLACES, None, 9, tag="wider"),
    undifferentiated("bincount.default", PLACES, rand(6), tag="weighted"),
]

RESIZE = [
    *[
        call(f"upsample_{n}.default", x, size, corners, tag=str(corners))
        for n, x, size in (
            ("linear1d", CUBE, [7]),
            ("bilinear2d", IMAGE, [9, 4]),
            ("bicubic2d", IMAGE, [9, 4]),
            ("trilinear3d", VOLUME, [5, 4, 8]),
        )
        for corners in (False, True)
    ],
    call("upsample_bilinear2d.default", IMAGE, [8, 3], False, 1.7, 0.6, tag="scales", dynamic=True),
    *[call(f"_upsample_{n}2d_aa.default", rand(2, 3, 9, 8), [4, 11], False) for n in ("bilinear", "bicubic")],
    *[
        call(f"{n}{d}d.default", x, size, dynamic=True)
        for n in ("upsample_nearest", "_upsample_nearest_exact")
        for d, x, size in ((1, CUBE, [7]), (2, IMAGE, [7, 3]), (3, VOLUME, [6, 4, 7]))
    ],
    call("upsample_nearest2d.default", IMAGE, [6, 10], 1.3, 1.7, tag="scales"),
    *[call("grid_sampler_2d.default", IMAGE, rand(2, 4, 7, 2, seed=1), m, 0, True, tag=str(m)) for m in (0, 1, 2)],
    *[call("grid_sampler_3d.default", VOLUME, rand(2, 2, 3, 4, 3, seed=1), 0, p, False, tag=str(p)) for p in (0, 1)],
    call("_adaptive_avg_pool2d.default", IMAGE, [3, 4], dynamic=True),
    call("_adaptive_avg_pool2d.default", IMAGE, [1, 1], tag="one", dynamic=True),
    call("_adaptive_avg_pool3d.default", VOLUME, [2, 4, 3]),
]

NORMS = [
    *[
        Case(
            f"native_batch_norm_legit_{t}",
            (),
            lambda x, w, b, m, v, t=t: op("_native_batch_norm_legit.default")(
                x, w, b, m.detach() * 1, v.detach().abs() + 0.1, t, 0.1, 0.1
            ),
            lambda: [IMAGE, *(rand(3, seed=i) for i in range(4))],
            grad=False,
        )
        for t in (False, True)
    ],
    of(
        "native_batch_norm.default",
        lambda f, x, w, b, m, v: f(x, w, b, m.detach(), v.detach().abs() + 0.1, False, 0.1, 0.1)[0],
        IMAGE,
        *(rand(3, seed=i) for i in range(4)),
    ),
    of(
        "native_batch_norm.default",
        lambda f, x, w, b: f(x, w, b, None, None, True, 0.1, 0.1)[0],
        IMAGE,
        rand(3),
        rand(3),
        tag="no_stats",
    ),
    of("_fused_rms_norm.default", lambda f, x, w: f(x, [4], w, 0.1)[0], CUBE, rand(4), dynamic=True),
    *[
        of("_weight_norm_interface.default", lambda f, v, g, d=d: f(v, g, d)[0], CUBE, g, tag=str(d))
        for d, g in ((0, rand(2, 1, 1)), (2, rand(1, 1, 4)))
    ],
    *[call("norm_except_dim.default", CUBE, p, d, tag=f"{p}_{d}") for p in (2, 3) for d in (0, 2)],
]

LINEAR = [
    call("ger.default", rand(3), rand(4)),
    call("vdot.default", rand(3), rand(3, seed=1)),
    call("inverse.default", SQUARE),
    call("det.default", SQUARE, tag="overload"),
    call("slogdet.default", SQUARE, tag="overload"),
    *[of("cholesky.default", lambda f, x, u=u: f(positive(x), u), CUBE[:, :, :3], tag=str(u)) for u in (False, True)],
    *[
        of("linalg_cholesky_ex.default", lambda f, x, u=u: f(positive(x), upper=u), CUBE[:, :, :3], tag=str(u))
        for u in (False, True)
    ],
    call("linalg_inv_ex.default", SQUARE),
    *[call("linalg_solve_ex.default", SQUARE, rand(2, 3, 3), left=left, tag=str(left)) for left in (False, True)],
    of("_linalg_eigh.default", lambda f, x: (lambda w, v: (v * w.log()[..., None, :]) @ v.mT)(*f(positive(x))), SQUARE),
    of("_linalg_eigh.default", lambda f, x: f(positive(x), "U")[0], SQUARE, tag="upper"),
    of("_linalg_svd.default", lambda f, x: (lambda u, s, v: (u * s.tanh()[..., None, :]) @ v)(*f(x)), CUBE),
    *[
        of("_cdist_forward.default", lambda f, x, y, p=p: f(x, y, p, None), CUBE, rand(2, 5, 4, seed=1), tag=str(p))
        for p in (1.0, 2.0, 3.0)
    ],
    *[of("_pdist_forward.default", lambda f, x, p=p: f(x, p), rand(4, 3), tag=str(p)) for p in (1.0, 2.0)],
]

CASES = [*AXES, *SHAPES, *PARTS, *PADDING, *INDEX, *RESIZE, *NORMS, *LINEAR]

"""Rows: matrix products."""

from __future__ import annotations

import torch

from .cases_shape import free
from .harness import Case, ints, rand


def _x(*shapes: tuple[int, ...]):
    return lambda: [rand(*s, seed=i) for i, s in enumerate(shapes)]


class Conv1D(torch.nn.Module):
    """GPT-2's projection: addmm of a flattened input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 6))
        self.bias = torch.nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], 6)


def einsum(name: str, equation: str, *shapes: tuple[int, ...], **options) -> Case:
    return Case(
        f"einsum_{name}", ("aten.einsum.default",), lambda *xs: torch.einsum(equation, *xs), _x(*shapes), **options
    )


CASES = [
    Case(
        "linear",
        ("aten.linear.default",),
        lambda: torch.nn.Linear(4, 3),
        lambda: [rand(2, 5, 4)],
        module=True,
        dynamic=True,
    ),
    Case(
        "linear_no_bias",
        ("aten.linear.default",),
        lambda: torch.nn.Linear(4, 3, bias=False),
        lambda: [rand(2, 4)],
        module=True,
        dynamic=True,
    ),
    Case("linear_vector", ("aten.linear.default",), lambda: torch.nn.Linear(4, 3), lambda: [rand(4)], module=True),
    Case(
        "linear_tensors",
        ("aten.linear.default",),
        torch.nn.functional.linear,
        _x((2, 5, 4), (3, 4), (3,)),
        dynamic=free((0, 1), (), ()),
    ),
    Case("linear_weight_vector", ("aten.linear.default",), torch.nn.functional.linear, _x((2, 5, 4), (4,))),
    Case("relu", ("aten.relu.default",), torch.relu, lambda: [rand(2, 5, 4)]),
    Case(
        "permute_view",
        ("aten.transpose.int",),
        lambda x: torch.relu(x.transpose(1, 2).flatten(1)),
        lambda: [rand(2, 5, 4)],
        dynamic=True,
    ),
    Case(
        "conv1d_gpt2",
        ("aten.addmm.default",),
        Conv1D,
        lambda: [rand(2, 5, 4)],
        module=True,
        dynamic={"x": {0: "b", 1: "s"}},
    ),
    Case(
        "addmm",
        ("aten.addmm.default",),
        lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2),
        _x((2, 1), (2, 3), (3, 4)),
    ),
    Case(
        "addmm_beta_zero",
        ("aten.addmm.default",),
        lambda c, a, b: torch.addmm(c * float("nan"), a, b, beta=0),
        _x((4,), (2, 3), (3, 4)),
        grad=False,
    ),
    Case("addmv", ("aten.addmv.default",), lambda c, a, b: torch.addmv(c, a, b, alpha=-1), _x((2,), (2, 3), (3,))),
    Case(
        "baddbmm",
        ("aten.baddbmm.default",),
        lambda c, a, b: torch.baddbmm(c, a, b, beta=2),
        _x((3, 1, 5), (3, 2, 4), (3, 4, 5)),
        dynamic=True,
    ),
    Case(
        "addbmm",
        ("aten.addbmm.default",),
        lambda c, a, b: torch.addbmm(c, a, b, beta=2, alpha=3),
        _x((2, 5), (3, 2, 4), (3, 4, 5)),
    ),
    Case("addr", ("aten.addr.default",), lambda c, a, b: torch.addr(c, a, b, beta=2), _x((2, 3), (2,), (3,))),
    Case(
        "addmm_column", ("aten.addmm.default",), torch.addmm, _x((3, 1), (3, 4), (4, 3)), dynamic=free((0,), (0,), ())
    ),
    Case("mm", ("aten.mm.default",), torch.mm, _x((2, 3), (3, 4)), dynamic=free((0,), ())),
    Case("bmm", ("aten.bmm.default",), torch.bmm, _x((2, 3, 4), (2, 4, 5)), dynamic=free((0, 1), (0,))),
    Case("mv", ("aten.mv.default",), torch.mv, _x((2, 3), (3,))),
    Case("dot", ("aten.dot.default",), torch.dot, _x((3,), (3,))),
    Case("matmul_11", ("aten.matmul.default",), torch.matmul, _x((3,), (3,))),
    Case("matmul_12", ("aten.matmul.default",), torch.matmul, _x((3,), (3, 4))),
    Case("matmul_13", ("aten.matmul.default",), torch.matmul, _x((3,), (2, 3, 4))),
    Case("matmul_31", ("aten.matmul.default",), torch.matmul, _x((2, 3, 4), (4,)), dynamic=free((0, 1), ())),
    Case("matmul_32", ("aten.matmul.default",), torch.matmul, _x((2, 3, 4), (4, 5)), dynamic=free((0, 1), ())),
    Case(
        "matmul_44",
        ("aten.matmul.default",),
        torch.matmul,
        _x((2, 3, 4, 5), (2, 3, 5, 4)),
        dynamic=free((0, 2), (0, 3)),
    ),
    Case(
        "matmul_broadcast", ("aten.matmul.default",), torch.matmul, _x((2, 1, 4, 5), (3, 5, 2)), dynamic=free((0,), ())
    ),
    Case("matmul_int", ("aten.matmul.default",), torch.matmul, lambda: [ints(2**40, 2, 3), ints(9, 3, 4)]),
    Case("inner", ("aten.inner.default",), torch.inner, _x((2, 3, 4), (5, 4))),
    Case("outer", ("aten.outer.default",), torch.outer, _x((3,), (4,))),
    Case(
        "tensordot",
        ("aten.tensordot.default",),
        lambda a, b: torch.tensordot(a, b, dims=([1, 0], [0, 2])),
        _x((2, 3, 4), (3, 5, 2)),
    ),
    Case("kron", ("aten.kron.default",), torch.kron, _x((2, 3), (4,))),
    Case(
        "bilinear",
        ("aten.bilinear.default",),
        torch.nn.functional.bilinear,
        _x((2, 6, 3), (2, 6, 4), (5, 3, 4), (5,)),
        dynamic=free((0, 1), (0, 1), (), ()),
    ),
    Case(
        "bilinear_layer",
        ("aten.bilinear.default",),
        lambda: torch.nn.Bilinear(3, 4, 5),
        _x((2, 3), (2, 4)),
        module=True,
        dynamic=True,
    ),
    einsum("mm", "ij,jk->ik", (2, 3), (3, 4)),
    einsum("attention", "bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4), dynamic=free((0, 2), (0, 2))),
    einsum("attention_values", "bhij,bjhd->bihd", (2, 2, 3, 5), (2, 5, 2, 4), dynamic=free((0, 2, 3), (0, 1))),
    einsum("heads", "bnd,dhk->bhnk", (2, 3, 4), (4, 2, 5), dynamic=free((0, 1), ())),
    einsum("implicit", "ba,bc", (2, 3), (2, 4)),
    einsum("implicit_capitals", "bA,aB", (2, 3), (4, 5)),
    einsum("ellipsis", "...ij,...jk->...ik", (2, 2, 3, 4), (4, 5)),
    einsum("ellipsis_implicit", "i...,i...", (2, 3, 4), (2, 4)),
    einsum("diagonal", "iij->ij", (3, 3, 4)),
    einsum("trace_product", "ii,i->i", (3, 3), (3,)),
    einsum("sum_out", "ijk,jl->il", (2, 3, 4), (3, 5)),
    einsum("sum_all", "ij->", (2, 3)),
    einsum("transposed", "ijk->kij", (2, 3, 4), dynamic=True),
    einsum("outer", "i,j->ij", (3,), (4,)),
    einsum("three", "bi,oij,bj->bo", (2, 3), (5, 3, 4), (2, 4)),
    einsum("size_one", "bij,bjk->bik", (1, 2, 3), (4, 3, 2)),
    einsum("sizes_one", "bij,jk,b->ik", (4, 2, 1), (3, 5), (1,)),
    *(
        Case(
            f"grouped_mm_{name}",
            ("aten._grouped_mm.default",),
            lambda x, w, ends: torch._grouped_mm(x.bfloat16(), w.bfloat16(), offs=ends.int()).double(),
            lambda shapes=shapes, ends=ends: [*(rand(*s, seed=i) for i, s in enumerate(shapes)), torch.tensor(ends)],
            rtol=2e-2,  # torch exports it for bfloat16 alone
        )
        for name, shapes, ends in (
            ("rows", ((7, 8), (3, 8, 16)), [2, 2, 7]),
            ("columns", ((2, 8, 8), (8, 24)), [8, 24]),
            ("summed", ((8, 24), (24, 8)), [8, 8, 24]),
        )
    ),
    Case(
        "grouped_mm_stacks",
        ("aten._grouped_mm.default",),
        lambda x, w: torch._grouped_mm(x.bfloat16(), w.bfloat16()).double(),
        _x((2, 3, 8), (2, 8, 8)),
        rtol=2e-2,
    ),
]

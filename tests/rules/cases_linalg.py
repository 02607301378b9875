"""Rows: solvers, factorisations, distances, Fourier transforms, control flow."""

from __future__ import annotations

from typing import Any

import torch

from .cases_shape import free
from .harness import Case, ints, rand


def _square(*lead: int) -> Any:
    """Well-conditioned matrices."""
    return lambda: [rand(*lead, 3, 3) + 4 * torch.eye(3, dtype=torch.float64)]


def _positive(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


def _x(*shapes: tuple[int, ...]) -> Any:
    return lambda: [rand(*s, seed=i) for i, s in enumerate(shapes)]


PINV = "aten.linalg_pinv.atol_rtol_tensor"


class Branch(torch.nn.Module):
    """torch.cond on data, with parameters in one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: torch.tanh(self.fc(x)), lambda x: x * 2, (x,))


def _nested(x: torch.Tensor, y: torch.Tensor) -> Any:
    def inner(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cond(y.max() > 0.5, lambda x, y: x - y[:1], lambda x, y: x.flip(0) * y[1:], (x, y))

    return torch.cond((x > 0).any(), lambda x, y: inner(x, y) * 1, lambda x, y: x * x.shape[0], (x, y))


def spectrum(name: str, keys: str, function: Any, *shapes: tuple[int, ...], **options: Any) -> Case:
    """`keys`: overloads by name, ".default" left out."""
    return Case(
        f"fft_{name}",
        tuple(f"aten.{key}.default" for key in keys.split()),
        lambda *xs: function(*xs),
        _x(*shapes),
        **options,
    )


CASES = [
    Case("inv", ("aten.linalg_inv.default",), torch.linalg.inv, _square(2), dynamic=True),
    Case("det", ("aten.linalg_det.default",), torch.linalg.det, _square(2)),
    Case("slogdet", ("aten.linalg_slogdet.default",), torch.linalg.slogdet, _square(2)),
    Case("logdet", ("aten.logdet.default",), lambda x: torch.logdet(_positive(x)), _x((2, 3, 3))),
    *(
        Case(
            f"cholesky_{u}",
            ("aten.linalg_cholesky.default",),
            lambda x, u=u: torch.linalg.cholesky(_positive(x), upper=u),
            _x((2, 3, 3)),
        )
        for u in (False, True)
    ),
    Case("solve", ("aten.linalg_solve.default",), torch.linalg.solve, lambda: [*_square(2)(), rand(2, 3, 4)]),
    Case("solve_vector", ("aten.linalg_solve.default",), torch.linalg.solve, lambda: [*_square()(), rand(3)]),
    Case("solve_vectors", ("aten.linalg_solve.default",), torch.linalg.solve, lambda: [*_square(2)(), rand(2, 3)]),
    Case(
        "solve_right",
        ("aten.linalg_solve.default",),
        lambda a, b: torch.linalg.solve(a, b, left=False),
        lambda: [*_square()(), rand(2, 4, 3)],
    ),
    *(
        Case(
            f"solve_triangular_{u}_{t}",
            ("aten.linalg_solve_triangular.default",),
            lambda a, b, u=u, t=t: torch.linalg.solve_triangular(a, b, upper=u, left=t),
            lambda: [*_square(2)(), rand(2, 3, 3)],
        )
        for u in (False, True)
        for t in (False, True)
    ),
    Case(
        "solve_unitriangular",
        ("aten.linalg_solve_triangular.default",),
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=True, unitriangular=True),
        lambda: [*_square(2)(), rand(2, 3, 1)],
    ),
    Case(
        "cholesky_solve",
        ("aten.cholesky_solve.default", "aten.linalg_cholesky.default"),
        lambda b, x: torch.cholesky_solve(b, torch.linalg.cholesky(_positive(x))),
        _x((3, 2), (3, 3)),
    ),
    Case("qr", ("aten.linalg_qr.default",), torch.linalg.qr, _x((2, 4, 3))),
    Case("eigvalsh", ("aten.linalg_eigvalsh.default",), lambda x: torch.linalg.eigvalsh(_positive(x)), _x((2, 3, 3))),
    Case(
        "svd_rebuilt",
        ("aten.linalg_svd.default",),
        lambda x: (lambda u, s, v: (u * s.tanh()[..., None, :]) @ v)(*torch.linalg.svd(x, full_matrices=False)),
        _x((2, 3, 4)),
    ),
    Case(
        "eigh_rebuilt",
        ("aten.linalg_eigh.default",),
        lambda x: (lambda w, v: (v * w.log()[..., None, :]) @ v.mT)(*torch.linalg.eigh(_positive(x))),
        _x((2, 3, 3)),
    ),
    Case(
        "cholesky_inverse",
        ("aten.cholesky_inverse.default",),
        lambda x: torch.cholesky_inverse(torch.linalg.cholesky(_positive(x))),
        _x((3, 3)),
    ),
    *(
        Case(
            f"eigvalsh_{u}",
            ("aten.linalg_eigvalsh.default",),
            lambda x, u=u: torch.linalg.eigvalsh(x, u),
            _x((2, 3, 3)),
        )
        for u in "LU"
    ),
    *(
        Case(
            f"eigh_{u}",
            ("aten.linalg_eigh.default",),
            lambda x, u=u: (lambda w, v: (v * w.tanh()[..., None, :]) @ v.mT)(*torch.linalg.eigh(x, u)),
            _x((2, 3, 3)),
        )
        for u in "LU"
    ),
    *(
        Case(f"pinv_{m}_{n}", (PINV,), torch.linalg.pinv, _x((2, m, n)), dynamic=True)
        for m, n in ((3, 3), (4, 3), (3, 4), (0, 2))
    ),
    Case("pinv_of_low_rank", (PINV,), lambda x: torch.linalg.pinv(x[:, :1] * x[:, 1:2].mT), _x((4, 3))),
    Case("pinv_cut", (PINV,), lambda x: torch.linalg.pinv(x, atol=0.8, rtol=0.1), _x((2, 4, 4))),
    Case("pinv_symmetric", (PINV,), lambda x: torch.linalg.pinv(x + x.mT, hermitian=True), _x((2, 3, 3))),
    Case("pinv_lower_triangle", (PINV,), lambda x: torch.linalg.pinv(x, hermitian=True), _x((2, 3, 3))),
    Case("pinverse", (PINV,), torch.pinverse, _x((4, 3))),
    *(
        Case(
            f"householder_product_{n}",
            ("aten.linalg_householder_product.default",),
            torch.linalg.householder_product,
            _x((2, 4, n), (2, 2)),
        )
        for n in (2, 3)
    ),
    *(
        Case(
            f"triangular_solve_{u}_{t}",
            ("aten.triangular_solve.default",),
            lambda b, a, u=u, t=t: torch.triangular_solve(b, a, upper=u, transpose=t).solution,
            lambda: [rand(2, 3, 2), *_square(2)()],
        )
        for u in (False, True)
        for t in (False, True)
    ),
    Case(
        "tensorinv", ("aten.linalg_inv_ex.default",), lambda x: torch.linalg.tensorinv(x.view(2, 2, 4), 2), _x((4, 4))
    ),
    Case("nuclear_norm", ("aten.linalg_svdvals.default",), lambda x: torch.linalg.matrix_norm(x, "nuc"), _x((2, 3, 4))),
    Case("svdvals", ("aten.linalg_svdvals.default",), torch.linalg.svdvals, _x((2, 3, 4))),
    *(
        Case(
            f"cdist_{p}",
            ("aten.cdist.default",),
            lambda x, y, p=p: torch.cdist(x, y, p),
            _x((2, 3, 4), (2, 5, 4)),
            dynamic=free((0, 1), (0, 1)),
        )
        for p in (0.0, 1.0, 1.5, 2.0, 3.0, float("inf"))
    ),
    *(
        Case(
            f"cdist_grid_{p}",
            ("aten.cdist.default",),
            lambda x, y, p=p: torch.cdist(x, y, p),
            lambda: [(ints(3, 4, 2) - 1).double() / 2, (ints(3, 5, 2, seed=1) - 1).double() / 2],
        )
        for p in (1.0, 1.5, 2.0, 3.0, float("inf"))
    ),
    Case("pdist", ("aten.pdist.default",), lambda x: torch.pdist(x), _x((4, 3))),
    Case("cosine_similarity", (), lambda x, y: torch.cosine_similarity(x, y, dim=1), _x((2, 4, 3), (2, 4, 3))),
    Case("pairwise_distance", (), lambda x, y: torch.pairwise_distance(x, y), _x((4, 3), (4, 3))),
    spectrum("fft", "fft_fft view_as_real", lambda x: torch.view_as_real(torch.fft.fft(x)), (2, 5)),
    spectrum(
        "fnet", "fft_fft real", lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, (2, 4, 6), dynamic=True
    ),
    spectrum("fftn", "fft_fftn", lambda x: torch.view_as_real(torch.fft.fftn(x, dim=(1, 2), norm="ortho")), (2, 3, 4)),
    spectrum("rfft", "fft_rfft", lambda x: torch.view_as_real(torch.fft.rfft(x, n=7, dim=1)), (2, 5, 3)),
    spectrum("irfft", "fft_irfft view_as_complex", lambda x: torch.fft.irfft(torch.view_as_complex(x), n=6), (3, 4, 2)),
    spectrum(
        "irfft_odd", "fft_irfft", lambda x: torch.fft.irfft(torch.view_as_complex(x), n=7, norm="ortho"), (3, 4, 2)
    ),
    spectrum(
        "ifft", "fft_ifft", lambda x: torch.view_as_real(torch.fft.ifft(torch.view_as_complex(x), dim=0)), (3, 4, 2)
    ),
    spectrum(
        "global_filter",
        "fft_irfft2 fft_rfft2",
        lambda x, w: torch.fft.irfft2(
            torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(w), s=(4, 6), dim=(1, 2), norm="ortho"
        ),
        (2, 4, 6, 3),
        (4, 4, 3, 2),
        dynamic=free((0,), ()),
    ),
    spectrum(
        "rotary",
        "polar view_as_complex",
        lambda x, a: torch.view_as_real(torch.view_as_complex(x) * torch.polar(torch.ones_like(a), a)).flatten(-2),
        (2, 5, 3, 2),
        (5, 3),
    ),
    spectrum("magnitude", "fft_rfft", lambda x: torch.fft.rfft(x).abs(), (2, 6)),
    Case("cond", ("higher_order.cond",), Branch, lambda: [rand(2, 3).abs()], module=True, dynamic=True),
    Case("cond_false", ("higher_order.cond",), Branch, lambda: [-rand(2, 3).abs()], module=True, dynamic=True),
    Case("cond_nested", ("higher_order.cond",), _nested, _x((4, 3), (2, 3)), dynamic=free((0,), ())),
    Case("matrix_exp", ("aten.linalg_matrix_exp.default",), torch.linalg.matrix_exp, _x((2, 3, 3))),
    Case(
        "matrix_exp_scales",
        ("aten.linalg_matrix_exp.default",),
        torch.linalg.matrix_exp,
        lambda: [torch.tensor([0.0, 1e-3, 9.0, -60.0], dtype=torch.float64)[:, None, None] * (rand(4, 3, 3) + 0.0)],
        dynamic=True,
        rtol=1e-9,
    ),
]

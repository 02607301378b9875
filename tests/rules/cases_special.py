"""Rows: gamma, zeta and Bessel functions."""

from __future__ import annotations

import torch

from .harness import Case, rand
from .values import call, each, signed

WIDE = torch.linspace(-7.3, 30.1, 60, dtype=torch.float64)
POSITIVE = torch.linspace(0.05, 40.0, 60, dtype=torch.float64)
EDGES = torch.tensor([3.7, 0.0, -1.0, -2.0, 1.0, 2.0, float("inf"), float("nan")], dtype=torch.float64)

CASES: list[Case] = [
    *each("lgamma digamma", WIDE, dynamic=True),
    *each("lgamma digamma", rand(1, 0, 3), tag="empty"),
    *each("lgamma digamma", EDGES, tag="edges", grad=False),
    call("lgamma.default", torch.tensor([1e5, 1e12, 300.5, 1.0 + 1e-9]).double(), tag="large"),
    *[call("polygamma.default", n, POSITIVE, tag=f"n{n}") for n in (1, 2, 4)],
    call(
        "polygamma.default", 0, POSITIVE, tag="n0", rtol=1e-8
    ),  # torch's backward of it, trigamma, stops after four terms
    call("polygamma.default", 1, torch.linspace(-7.3, -0.1, 20).double(), tag="left"),
    call("special_polygamma.default", 1, POSITIVE),
    call("special_zeta.default", POSITIVE + 1, POSITIVE.flip(0), wrt=0),
    call("special_zeta.default", POSITIVE[:3, None] + 1, POSITIVE[None, :24], wrt=0, tag="broadcast"),
    *each("i0 special_i0e special_i1 special_i1e", torch.linspace(-45.0, 45.0, 61).double()),
    *[call(f"special_modified_bessel_i{n}.default", torch.linspace(-45.0, 45.0, 61).double(), wrt=0) for n in (0, 1)],
    call("special_spherical_bessel_j0.default", WIDE, wrt=0),
    call("special_erfcx.default", torch.linspace(-5.0, 40.0, 50).double()),
    call("special_log_ndtr.default", torch.linspace(-30.0, 7.0, 40).double()),
    *each("gcd lcm", signed(4, 5), signed(4, 5, seed=1)),
    call("angle.default", torch.tensor([1.5, -2.0, 0.0, float("nan")]).double(), grad=False),
]

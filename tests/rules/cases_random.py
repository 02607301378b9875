"""Rows: random draws, brought to a fixed result: ranges, certain events, evaluation mode.

`test_random.py` looks at the draws themselves.
"""

from __future__ import annotations

import torch
from torch import nn

from .harness import Case, rand
from .values import call, op

R, IMAGE = rand(3, 4), rand(2, 3, 4, 4)


def fixed(
    key: str, function: object, tag: str = "", x: torch.Tensor = R, dynamic: bool = False, grad: bool = True
) -> Case:
    name = key.replace(".default", "").replace(".", "_") + (f"_{tag}" if tag else "_fixed")
    return Case(name, (f"aten.{key}",), function, lambda: [x], dynamic=dynamic, grad=grad)  # type: ignore[arg-type]


SMALL = 1e-300
CASES: list[Case] = [
    call("dropout.default", R, 0.5, False, tag="eval"),
    call("dropout.default", R, 0.0, True, tag="p0"),
    call("dropout.default", R, 1.0, True, tag="p1"),
    fixed("native_dropout.default", lambda x: torch.native_dropout(x, 1.0, True), "p1"),
    *[
        call(f"{n}.default", IMAGE, 0.5, False, tag="eval")
        for n in ("feature_dropout", "alpha_dropout", "feature_alpha_dropout")
    ],
    call("feature_dropout.default", IMAGE, 1.0, True, tag="p1"),
    *[call(f"{n}.default", IMAGE, 1.0, True, tag="p1") for n in ("alpha_dropout", "feature_alpha_dropout")],
    Case("dropout_layer", ("aten.dropout.default",), lambda: nn.Dropout(0.3), lambda: [R], module=True, dynamic=True),
    Case(
        "dropout2d_layer",
        ("aten.feature_dropout.default",),
        lambda: nn.Dropout2d(0.3),
        lambda: [IMAGE],
        module=True,
        dynamic=True,
    ),
    fixed("bernoulli.default", lambda x: torch.bernoulli((x > 0).double()) + x),
    fixed("bernoulli.p", lambda x: op("bernoulli.p")(x.detach(), 1.0) + x, dynamic=True),
    fixed("bernoulli.Tensor", lambda x: op("bernoulli.Tensor")(x.detach(), (x[0] > 0).double()) + x),
    fixed("rand_like.default", lambda x: torch.floor(torch.rand_like(x)) + x, dynamic=True),
    fixed("randn_like.default", lambda x: torch.randn_like(x) * SMALL + x, dynamic=True),
    fixed("uniform.default", lambda x: torch.floor(op("uniform.default")(x.detach(), 3.0, 4.0)) + x),
    fixed("normal_functional.default", lambda x: op("normal_functional.default")(x.detach(), 3.0, 0.0) + x),
    fixed("log_normal.default", lambda x: op("log_normal.default")(x.detach(), 0.5, 1e-300) + x),
    fixed("exponential.default", lambda x: (op("exponential.default")(x.detach(), 2.0) >= 0).double() + x),
    fixed("cauchy.default", lambda x: op("cauchy.default")(x.detach(), 0.5, SMALL) + x),
    fixed("geometric.default", lambda x: (op("geometric.default")(x.detach(), 0.5) >= 1).double() + x),
    fixed("randint_like.default", lambda x: torch.randint_like(x, 1) + x),
    fixed("randint_like.low_dtype", lambda x: torch.randint_like(x, 3, 4) + x),
    fixed("rand.default", lambda x: torch.floor(torch.rand(x.shape[0], 4, dtype=torch.float64)) + x, dynamic=True),
    fixed("randn.default", lambda x: torch.randn(3, 4, dtype=torch.float64) * SMALL + x),
    fixed("randint.default", lambda x: torch.randint(1, (3, 4)) + x),
    fixed("randint.low", lambda x: torch.randint(3, 4, (x.shape[0], 4)) + x, dynamic=True),
    fixed("randperm.default", lambda x: torch.sort(torch.randperm(7))[0].sum() + x),
    fixed("normal.float_float", lambda x: torch.normal(3.0, 0.0, (3, 4), dtype=torch.float64) + x),
    fixed("normal.Tensor_Tensor", lambda x: torch.normal(x.detach(), torch.zeros_like(x)) + x),
    fixed("normal.Tensor_float", lambda x: torch.normal(x.detach(), 0.0) + x),
    fixed("normal.float_Tensor", lambda x: torch.normal(3.0, torch.zeros_like(x)) + x),
    fixed("multinomial.default", lambda x: torch.multinomial((x == x.max(1, True)[0]).double(), 2, True) + x[:, :2]),
    fixed("multinomial.default", lambda x: torch.multinomial((x == x.max(1, True)[0]).double(), 1) + x, "without"),
]

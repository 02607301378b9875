"""Rows: loss functions, with every reduction."""

from __future__ import annotations

import torch

from .harness import Case, ints, rand
from .values import call, grid

X, Y = grid(3, 4), grid(3, 4, seed=1)
P, Q = torch.sigmoid(rand(3, 4)), torch.sigmoid(rand(3, 4, seed=1))
SIGNS = torch.sign(rand(3, 4, seed=2))
LOGITS, WEIGHT = rand(6, 5), rand(5, seed=3).abs() + 0.1
LOG_P = torch.log_softmax(LOGITS, 1)
TARGET = ints(5, 6)
SOME = torch.where(TARGET[0] == TARGET, -100, TARGET)
MAP, PIXELS = torch.log_softmax(rand(2, 5, 3, 4), 1), ints(5, 2, 3, 4)
SURE = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.25]).double()
LABEL = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.3]).double()
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

CASES: list[Case] = [
    *[
        call(f"{n}.default", X, Y, r, tag=t, dynamic=True)
        for n in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
        for t, r in REDUCTIONS.items()
    ],
    call("smooth_l1_loss.default", X, Y, 1, 0.5, tag="beta"),
    call("smooth_l1_loss.default", P, Q, 1, 0.0, tag="beta0"),
    call("huber_loss.default", X, Y, 1, 0.5, tag="delta"),
    *[call("soft_margin_loss.default", rand(3, 4), SIGNS, r, tag=t, wrt=1) for t, r in REDUCTIONS.items()],
    *[call("kl_div.default", torch.log(P), Q, r, tag=t) for t, r in REDUCTIONS.items()],
    call("kl_div.default", torch.log(P), torch.log(Q), 1, log_target=True, tag="log"),
    *[call("binary_cross_entropy.default", P, Q, None, r, tag=t) for t, r in REDUCTIONS.items()],
    call("binary_cross_entropy.default", P, Q, WEIGHT[:4], 1, tag="weight", wrt=2),
    Case(
        "binary_cross_entropy_sure",
        ("aten.binary_cross_entropy.default",),
        lambda p: torch.nn.functional.binary_cross_entropy(p, LABEL),
        lambda: [SURE],
    ),
    *[
        call("binary_cross_entropy_with_logits.default", rand(3, 4), Q, None, None, r, tag=t)
        for t, r in REDUCTIONS.items()
    ],
    call(
        "binary_cross_entropy_with_logits.default", rand(3, 4) * 30, Q, WEIGHT[:4], WEIGHT[1:], 1, tag="weights", wrt=2
    ),
    *[call("margin_ranking_loss.default", X, Y, SIGNS, 0.5, r, tag=t, wrt=2) for t, r in REDUCTIONS.items()],
    *[call("hinge_embedding_loss.default", X, SIGNS, 0.5, r, tag=t, wrt=1) for t, r in REDUCTIONS.items()],
    call("hinge_embedding_loss.default", X, Y, tag="neither", wrt=1),
    *[
        call("poisson_nll_loss.default", rand(3, 4), Q * 4, a, b, 1e-8, 1, tag=f"{a}_{b}")
        for a in (True,)
        for b in (True, False)
    ],
    call("poisson_nll_loss.default", P, Q * 4, False, False, 1e-8, 2, tag="plain"),
    *[call("nll_loss_nd.default", LOG_P, SOME, None, r, tag=t, dynamic=True) for t, r in REDUCTIONS.items()],
    call("nll_loss_nd.default", LOG_P, SOME, WEIGHT, 1, -100, tag="weight", wrt=1),
    call("nll_loss_nd.default", MAP, PIXELS, None, 1, 2, tag="map"),
    call("nll_loss.default", LOG_P, SOME),
    call("nll_loss2d.default", MAP, PIXELS),
    *[call("nll_loss_forward.default", LOG_P, SOME, None, r, -100, tag=t) for t, r in REDUCTIONS.items()],
    call("nll_loss2d_forward.default", MAP, PIXELS, None, 1, 2),
    *[
        call("cross_entropy_loss.default", LOGITS, SOME, None, r, -100, 0.0, tag=t, dynamic=True)
        for t, r in REDUCTIONS.items()
    ],
    *[
        call("cross_entropy_loss.default", LOGITS, SOME, None, r, -100, 0.1, tag=f"smooth_{t}")
        for t, r in REDUCTIONS.items()
    ],
    Case(
        "cross_entropy_weight",
        ("aten.cross_entropy_loss.default",),
        lambda x: torch.nn.functional.cross_entropy(x, SOME, WEIGHT, label_smoothing=0.2),
        lambda: [LOGITS],
    ),
    call(
        "cross_entropy_loss.default",
        LOGITS,
        torch.softmax(rand(6, 5, seed=9), 1),
        None,
        1,
        -100,
        0.1,
        tag="probabilities",
        dynamic=True,
    ),
    call("cross_entropy_loss.default", LOGITS[0], TARGET[0], tag="vector"),
    call("cross_entropy_loss.default", rand(2, 5, 3, 4), PIXELS, tag="map"),
]

"""Rows: normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .harness import Case, rand


def shaken(module: nn.Module) -> nn.Module:
    """The module with parameters and statistics that hide nothing."""
    g = torch.Generator().manual_seed(3)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    for name, b in module.named_buffers():
        if b.is_floating_point():
            b.data = torch.rand(b.shape, generator=g, dtype=torch.float64) * 3 + (0.1 if name.endswith("var") else -1.0)
    return module


def norm(name: str, op: str, make: Any, *shape: int, **options: Any) -> Case:
    return Case(name, (op,), lambda: shaken(make()), lambda: [rand(*shape) * 2 + 1], module=True, **options)


BN, LN, GN, IN = (f"aten.{n}_norm.default" for n in ("batch", "layer", "group", "instance"))

CASES = [
    norm("batch_norm_1d_flat", BN, lambda: nn.BatchNorm1d(4), 5, 4, dynamic=True),
    norm("batch_norm_1d", BN, lambda: nn.BatchNorm1d(4), 5, 4, 6),
    norm("batch_norm_2d", BN, lambda: nn.BatchNorm2d(4), 3, 4, 5, 6, dynamic=True),
    norm("batch_norm_2d_train", BN, lambda: nn.BatchNorm2d(4), 3, 4, 5, 6, training=True, dynamic=True),
    norm("batch_norm_3d_train", BN, lambda: nn.BatchNorm3d(2), 3, 2, 4, 5, 3, training=True),
    norm("batch_norm_no_affine", BN, lambda: nn.BatchNorm2d(4, affine=False), 3, 4, 5, 6, training=True),
    norm("batch_norm_no_running", BN, lambda: nn.BatchNorm2d(4, track_running_stats=False), 3, 4, 5, 6),
    norm("batch_norm_cumulative", BN, lambda: nn.BatchNorm2d(4, momentum=None), 3, 4, 5, 6, training=True),
    norm("batch_norm_eps", BN, lambda: nn.BatchNorm2d(4, eps=0.3, momentum=0.4), 3, 4, 5, 6),
    norm("layer_norm", LN, lambda: nn.LayerNorm(6), 3, 5, 6, dynamic=True),
    norm("layer_norm_two_axes", LN, lambda: nn.LayerNorm((5, 6), eps=0.1), 3, 5, 6, dynamic=True),
    norm("layer_norm_all_axes", LN, lambda: nn.LayerNorm((3, 5, 6)), 3, 5, 6),
    norm("layer_norm_no_bias", LN, lambda: nn.LayerNorm(6, bias=False), 3, 5, 6),
    norm("layer_norm_plain", LN, lambda: nn.LayerNorm(6, elementwise_affine=False), 3, 5, 6),
    norm("layer_norm_after_conv", LN, lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 5, 6))), 2, 3, 5, 6),
    norm(
        "layer_norm_width_after_conv",
        LN,
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.LayerNorm((5, 6))),
        2,
        3,
        5,
        6,
    ),
    norm("rms_norm", "aten.rms_norm.default", lambda: nn.RMSNorm(6), 3, 5, 6, dynamic=True),
    norm("rms_norm_eps", "aten.rms_norm.default", lambda: nn.RMSNorm((5, 6), eps=0.1), 3, 5, 6),
    norm("group_norm", GN, lambda: nn.GroupNorm(2, 6), 3, 6, 4, 5, dynamic=True),
    norm("group_norm_1d", GN, lambda: nn.GroupNorm(3, 6), 3, 6, 4),
    norm("group_norm_flat", GN, lambda: nn.GroupNorm(3, 6), 3, 6),
    norm("group_norm_one", GN, lambda: nn.GroupNorm(1, 6, affine=False), 3, 6, 4, 5),
    norm("instance_norm", IN, lambda: nn.InstanceNorm2d(4, affine=True), 3, 4, 5, 6, dynamic=True),
    norm("instance_norm_1d", IN, lambda: nn.InstanceNorm1d(4), 3, 4, 5),
    norm("instance_norm_3d", IN, lambda: nn.InstanceNorm3d(2), 3, 2, 4, 5, 3),
    norm("instance_norm_running", IN, lambda: nn.InstanceNorm2d(4, track_running_stats=True), 3, 4, 5, 6),
    Case(
        "native_layer_norm",
        ("aten.native_layer_norm.default",),
        lambda x, w, b: torch.native_layer_norm(x, (5, 6), w, b, 0.1),
        lambda: [rand(3, 5, 6), rand(5, 6), rand(5, 6)],
    ),
    Case(
        "native_group_norm",
        ("aten.native_group_norm.default",),
        lambda x, w, b: torch.native_group_norm(x, w, b, 2, 6, 20, 3, 0.1),
        lambda: [rand(2, 6, 4, 5), rand(6), rand(6)],
    ),
    *(
        Case(
            f"native_batch_norm_{name}",
            (key,),
            lambda x, w, b, m, v, outputs=outputs: torch.ops.aten._native_batch_norm_legit_no_training(
                x, w, b, m.detach(), v.detach().abs(), 0.1, 0.1
            )[outputs],
            lambda: [rand(2, 6, 4, 5), rand(6), rand(6), rand(6), rand(6)],
            grad=key == BN,
        )
        for name, key, outputs in (
            ("eval", BN, 0),
            ("eval_saved", "aten._native_batch_norm_legit_no_training.default", slice(None)),
        )
    ),
    Case(
        "native_batch_norm_no_stats",
        ("aten._native_batch_norm_legit.no_stats",),
        lambda x, w, b: torch.ops.aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 0.1),
        lambda: [rand(2, 6, 4, 5), rand(6), rand(6)],
        grad=False,
    ),
    Case(
        "local_response_norm", (), lambda x: F.local_response_norm(x, 3, alpha=0.5, k=2.0), lambda: [rand(2, 6, 4, 5)]
    ),
    Case("normalize", (), lambda x: F.normalize(x, dim=1), lambda: [rand(2, 6, 4)]),
]

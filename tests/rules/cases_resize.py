"""Rows: resizing and sampling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .harness import Case, rand

AUTO = torch.export.Dim.AUTO
FREE = {"xs": ({0: AUTO, 2: AUTO, 3: AUTO},)}


def resize(name: str, op: str, shape: tuple[int, ...], dynamic: Any = False, **options: Any) -> Case:
    return Case(
        name, (f"aten.{op}.vec",), lambda x: F.interpolate(x, **options), lambda: [rand(*shape)], dynamic=dynamic
    )


def sample(name: str, dims: int, mode: str, padding: str, corners: bool, dynamic: Any = False) -> Case:
    """Positions from inside and outside of the image."""
    shape, grid = ((2, 3, 5, 6), (2, 4, 7, 2)) if dims == 2 else ((2, 2, 3, 4, 5), (2, 2, 3, 4, 3))

    def function(x: Any, g: Any) -> Any:
        return F.grid_sample(x, g * 1.5, mode, padding, corners)

    return Case(
        name, ("aten.grid_sampler.default",), function, lambda: [rand(*shape), rand(*grid, seed=1)], dynamic=dynamic
    )


def affine(name: str, size: tuple[int, ...], corners: bool, dynamic: Any = False) -> Case:
    def function(t: Any) -> Any:
        return F.affine_grid(t, (t.shape[0], *size), corners)

    n = len(size) - 1
    return Case(name, ("aten.affine_grid_generator.default",), function, lambda: [rand(2, n, n + 1)], dynamic=dynamic)


S2, S3 = (2, 3, 5, 6), (2, 2, 3, 4, 5)

CASES = [
    resize("nearest1d", "upsample_nearest1d", (2, 3, 5), size=8, dynamic=True),
    resize("nearest1d_double", "upsample_nearest1d", (2, 3, 5), scale_factor=2),
    resize("nearest_16_20", "upsample_nearest2d", (2, 3, 16, 16), size=20),
    resize("nearest2d_double", "upsample_nearest2d", S2, scale_factor=2, dynamic=True),
    resize("nearest2d_free", "upsample_nearest2d", S2, scale_factor=2, dynamic=FREE),
    resize("nearest2d_smaller", "upsample_nearest2d", S2, size=(3, 4)),
    resize("nearest2d_scale", "upsample_nearest2d", S2, scale_factor=1.3),
    resize("nearest2d_large", "upsample_nearest2d", (1, 2, 7, 9), size=(130, 140)),
    resize("nearest3d", "upsample_nearest3d", S3, size=(6, 4, 7)),
    resize("nearest_exact1d", "_upsample_nearest_exact1d", (2, 3, 5), size=8, mode="nearest-exact"),
    resize("nearest_exact2d", "_upsample_nearest_exact2d", S2, size=(7, 3), mode="nearest-exact", dynamic=True),
    resize("nearest_exact2d_double", "_upsample_nearest_exact2d", S2, scale_factor=2, mode="nearest-exact"),
    resize("nearest_exact3d", "_upsample_nearest_exact3d", S3, size=(6, 4, 7), mode="nearest-exact"),
    resize("linear1d", "upsample_linear1d", (2, 3, 5), size=8, mode="linear", dynamic=True),
    resize("linear1d_corners", "upsample_linear1d", (2, 3, 5), size=8, mode="linear", align_corners=True),
    resize("bilinear2d", "upsample_bilinear2d", S2, size=(9, 4), mode="bilinear", dynamic=True),
    resize("bilinear_double", "upsample_bilinear2d", S2, scale_factor=2, mode="bilinear"),
    resize("bilinear_corners", "upsample_bilinear2d", S2, size=(9, 4), mode="bilinear", align_corners=True),
    resize("bilinear_to_one", "upsample_bilinear2d", S2, size=(1, 4), mode="bilinear", align_corners=True),
    resize("bilinear_one_axis", "upsample_bilinear2d", S2, size=(5, 9), mode="bilinear"),
    resize("bilinear_scale", "upsample_bilinear2d", S2, scale_factor=(1.7, 0.6), mode="bilinear"),
    resize("bilinear_free", "upsample_bilinear2d", S2, scale_factor=2, mode="bilinear", dynamic=FREE),
    resize(
        "bilinear_free_size", "upsample_bilinear2d", S2, size=(9, 7), mode="bilinear", align_corners=True, dynamic=FREE
    ),
    resize("bicubic", "upsample_bicubic2d", S2, size=(9, 4), mode="bicubic", dynamic=True),
    resize("bicubic_corners", "upsample_bicubic2d", S2, size=(9, 4), mode="bicubic", align_corners=True),
    resize("bicubic_scale", "upsample_bicubic2d", S2, scale_factor=1.7, mode="bicubic"),
    resize("bicubic_free", "upsample_bicubic2d", S2, scale_factor=2, mode="bicubic", dynamic=FREE),
    resize("trilinear", "upsample_trilinear3d", S3, size=(5, 4, 8), mode="trilinear", dynamic=True),
    resize("trilinear_corners", "upsample_trilinear3d", S3, scale_factor=2, mode="trilinear", align_corners=True),
    resize(
        "bilinear_antialias",
        "_upsample_bilinear2d_aa",
        (2, 3, 9, 8),
        size=(4, 11),
        mode="bilinear",
        antialias=True,
        dynamic=True,
    ),
    resize(
        "bilinear_antialias_corners",
        "_upsample_bilinear2d_aa",
        (2, 3, 9, 8),
        size=(4, 11),
        mode="bilinear",
        antialias=True,
        align_corners=True,
    ),
    resize("bicubic_antialias", "_upsample_bicubic2d_aa", (2, 3, 9, 8), size=(4, 11), mode="bicubic", antialias=True),
    resize(
        "bicubic_antialias_free",
        "_upsample_bicubic2d_aa",
        (2, 3, 9, 8),
        size=(4, 11),
        mode="bicubic",
        antialias=True,
        dynamic=FREE,
    ),
    Case(
        "area",
        ("aten.adaptive_avg_pool2d.default",),
        lambda x: F.interpolate(x, size=(3, 4), mode="area"),
        lambda: [rand(*S2)],
    ),
    Case(
        "resize_after_conv",
        (),
        lambda x, w: F.interpolate(F.conv2d(x, w), scale_factor=2, mode="bilinear"),
        lambda: [rand(*S2), rand(4, 3, 2, 2)],
    ),
    *(
        sample(f"grid_{m}_{p}_{int(c)}", 2, m, p, c, c)
        for m in ("bilinear", "nearest", "bicubic")
        for p in ("zeros", "border", "reflection")
        for c in (False, True)
    ),
    *(
        sample(f"grid3d_{m}_{p}", 3, m, p, False)
        for m in ("bilinear", "nearest")
        for p in ("zeros", "border", "reflection")
    ),
    affine("affine_grid", (3, 4, 5), False, True),
    affine("affine_grid_corners", (3, 4, 5), True),
    affine("affine_grid_3d", (3, 1, 4, 5), False),
    Case(
        "spatial_transformer",
        (),
        lambda x, t: F.grid_sample(x, F.affine_grid(t, x.shape, False), align_corners=False),
        lambda: [rand(*S2), rand(2, 2, 3)],
        dynamic=True,
    ),
]

"""ONNX rules of resizing, sampling, regions and attention: what the ONNX project's own tests leave out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from isomorph.convert.onnx_in.registry import find
from isomorph.convert.onnx_in.rules.sampling import sample_grid

from .onnx_checks import Row, build, derive, export_freely, like_reference, like_runtime, row_id
from .onnx_node import agree, converted, run

F32 = np.float32
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(F32)


def scales(*numbers: float) -> Any:
    return np.array(numbers, F32)


def sizes(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


X = normal(2, 2, 5, 6)
WIDE = normal(2, 2, 10, 10)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
CROP = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}


def by(mode: str, coordinates: str = "half_pixel", **more: Any) -> dict[str, Any]:
    return {"mode": mode, "coordinate_transformation_mode": coordinates, **more}


# x, roi, scales, sizes
TARGETS = [
    (X, None, scales(1, 1, 2, 2)),
    (X, None, scales(1, 1, 0.6, 0.7)),
    (WIDE, None, scales(1, 1, 0.7, 1.3)),
    (X, None, None, sizes(2, 2, 10, 12)),
    (X, None, None, sizes(2, 2, 3, 8)),
    (X, None, None, sizes(2, 2, 1, 4)),
]
RESIZED: list[Row] = [
    *(("Resize", 19, t, by(mode, c)) for t in TARGETS for mode in ("linear", "cubic") for c in COORDINATES),
    *(
        ("Resize", 13, t, by("nearest", c, nearest_mode=n))
        for t in TARGETS[1:5:3]
        for c in COORDINATES
        for n in NEAREST
    ),
    *(
        ("Resize", 18, (X, None, None, sizes(2, 2, *s)), by(m, antialias=1))
        for m in ("linear", "cubic")
        for s in ((3, 3), (8, 4))
    ),
    *(
        ("Resize", 13, (X, None, scales(1, 1, 1.5, 0.8)), by("cubic", exclude_outside=e, cubic_coeff_a=-0.5))
        for e in (0, 1)
    ),
    ("Resize", 13, (X, scales(0, 0, 0.1, 0.2, 1, 1, 0.8, 1.1), None, sizes(2, 2, 4, 5)), {"mode": "linear", **CROP}),
    ("Resize", 19, (X[:, :, 0], None, scales(1, 1, 2.5)), by("linear")),
    ("Resize", 19, (X[..., None], None, scales(1, 1, 2, 2, 3)), by("linear")),
    ("Resize", 19, (X, None, scales(1, 1, 2, 2.5)), by("linear", "half_pixel_symmetric")),
    ("Resize", 18, (X, None, None, sizes(7, 4)), by("linear", axes=[3, 2], keep_aspect_ratio_policy="not_larger")),
    ("Resize", 11, (X, scales(), scales(1, 1, 1.5, 0.8)), by("linear", "asymmetric")),
    ("Resize", 10, (X, scales(1, 1, 2, 3)), {}),
    ("Resize", 10, (X, scales(1, 1, 0.5, 0.6)), {}),
    ("Resize", 10, (X, scales(1, 1, 0.5, 1.6)), {"mode": "linear"}),
    ("Upsample", 9, (X, scales(1, 1, 2, 2.5)), {"mode": "linear"}),
    ("Upsample", 9, (X, scales(1, 1, 2, 2.5)), {}),
    ("Upsample", 7, (X,), {"scales": [1.0, 1.0, 2.0, 3.0]}),
]


def fixed(row: Row) -> tuple[int, ...]:
    return tuple(i for i, a in enumerate(row[2]) if a is not None and i > 0 and row[0] in ("Resize", "Upsample"))


def resize_id(row: Row) -> str:
    found = next((a for a in row[2][:0:-1] if a is not None and row[0] in ("Resize", "Upsample")), None)
    return row_id(row) + ("" if found is None else "-" + ",".join(f"{n:g}" for n in found))


@pytest.mark.parametrize("row", RESIZED, ids=resize_id)
def test_resize_like_onnx_runtime(row: Row) -> None:
    """With the sizes known while lowering."""
    like_runtime(row, constants=fixed(row))


@pytest.mark.parametrize("row", [r for r in RESIZED if r[1] >= 11][::7], ids=resize_id)
def test_resize_to_sizes_of_run_time_like_onnx_runtime(row: Row) -> None:
    like_runtime(row)


@pytest.mark.parametrize("row", [r for r in RESIZED if r[3].get("mode", "nearest") != "nearest"][::3], ids=resize_id)
def test_resize_has_right_derivatives_in_float64(row: Row) -> None:
    derive(row, constants=fixed(row))


def test_the_first_upsample() -> None:
    (found,) = run(build(("Upsample", 1, (X,), {"height_scale": 2.0, "width_scale": 3.0})), X)
    agree(found, X.repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (("Resize", 19, (X, None, scales(1, 1, 2, 2)), by("linear")), "interpolate("),
        (
            ("Resize", 19, (X, None, scales(1, 1, 2, 2)), by("nearest", "asymmetric", nearest_mode="floor")),
            "interpolate(",
        ),
        (("Resize", 19, (X, None, None, sizes(2, 2, 9, 9)), by("linear", "align_corners")), "interpolate("),
        (("Resize", 19, (X, None, None, sizes(2, 2, 9, 9)), by("cubic")), "interpolate("),
        (("Resize", 19, (X, None, None, sizes(2, 3, 9, 9)), by("linear")), "resize_at_run("),
        (("Upsample", 9, (X, scales(1, 1, 2, 2)), {}), "interpolate("),
    ],
    ids=lambda v: resize_id(v) if isinstance(v, tuple) else None,
)
def test_what_torch_has_is_torch_s(row: Row, name: str) -> None:
    assert name in converted(build(row, constants=fixed(row))).code


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32", "float16", "bfloat16"])
def test_resize_of_other_types(kind: str) -> None:
    dtype = {"float16": helper.tensor_dtype_to_np_dtype(10), "bfloat16": helper.tensor_dtype_to_np_dtype(16)}.get(
        kind, kind
    )
    x = RNG.integers(0, 100, X.shape).astype(dtype)
    for attributes in (by("nearest"), by("linear", "asymmetric")):
        (found,) = run(
            build(("Resize", 19, (x, None, scales(1, 1, 1.5, 2)), attributes)), x, None, scales(1, 1, 1.5, 2)
        )
        (wanted,) = run(
            build(("Resize", 19, (x.astype(F32), None, scales(1, 1, 1.5, 2)), attributes)),
            x.astype(F32),
            None,
            scales(1, 1, 1.5, 2),
        )
        assert found.dtype == x.dtype
        np.testing.assert_allclose(found.astype(F32), np.trunc(wanted) if "int" in kind else wanted, rtol=2e-2)


# ----------------------------------------------------------------------------------------------------------- sampling
GRID = (RNG.uniform(-1.3, 1.3, (2, 3, 4, 2))).astype(F32)
VOLUME, POINTS = normal(2, 2, 3, 4, 5), RNG.uniform(-1.3, 1.3, (2, 2, 3, 2, 3)).astype(F32)
PADDINGS = ("zeros", "border", "reflection")
GRIDS: list[Row] = [
    *(
        ("GridSample", 16, (X, GRID), {"mode": m, "padding_mode": p, "align_corners": a})
        for m in ("bilinear", "bicubic", "nearest")
        for p in PADDINGS
        for a in (0, 1)
    ),
    *(("GridSample", 20, (VOLUME, POINTS), {"mode": "linear", "padding_mode": p}) for p in PADDINGS),
]
# ONNX Runtime has no cubic volumes and no lines
OTHER_GRIDS: list[Row] = [
    *(("GridSample", 22, (VOLUME, POINTS), {"mode": "cubic", "padding_mode": p}) for p in ("zeros", "reflection")),
    *(
        ("GridSample", 22, (X[:, :, 0], GRID[:, :, 0, :1]), {"mode": m, "align_corners": 1})
        for m in ("linear", "cubic")
    ),
]


@pytest.mark.parametrize("row", GRIDS, ids=row_id)
def test_grids_like_onnx_runtime(row: Row) -> None:
    like_runtime(row)


@pytest.mark.parametrize("row", OTHER_GRIDS, ids=row_id)
def test_grids_like_the_reference(row: Row) -> None:
    like_reference(row)


@pytest.mark.parametrize("row", [*OTHER_GRIDS, GRIDS[0]], ids=row_id)
def test_grids_have_right_derivatives_in_float64(row: Row) -> None:
    derive(row)


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("corners", [False, True])
def test_sampling_over_any_axes_is_torch_s_over_two(mode: str, padding: str, corners: bool) -> None:
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    x, grid = torch.tensor(X), torch.tensor(GRID) * 3
    wanted = torch.nn.functional.grid_sample(x, grid, name, padding, corners)
    torch.testing.assert_close(sample_grid(x, grid, mode, padding, corners), wanted)


DEFORMED: list[Row] = [
    ("DeformConv", 19, (X, normal(4, 2, 2, 3), normal(2, 12, 4, 4)), {}),
    (
        "DeformConv",
        22,
        (X, normal(4, 1, 2, 2), normal(2, 16, 4, 6), normal(4), normal(2, 8, 4, 6)),
        {"group": 2, "offset_group": 2, "pads": [0, 0, 1, 1], "dilations": [2, 1]},
    ),
]


@pytest.mark.parametrize("row", DEFORMED, ids=row_id)
def test_deformed_convolutions(row: Row) -> None:
    if row[1] == 19:
        like_runtime(row)
    like_reference(row)
    derive(row)


def test_a_deformed_convolution_without_offsets_is_a_convolution() -> None:
    """Over three axes, which neither ONNX Runtime nor the reference has."""
    w = normal(4, 2, 2, 1, 3)
    offset = np.zeros((2, 2 * 1 * 3 * 3, 2, 2, 3), F32)
    attributes = {"strides": [1, 2, 1]}
    (found,) = run(build(("DeformConv", 22, (VOLUME, w, offset), attributes)), VOLUME, w, offset)
    (wanted,) = run(build(("Conv", 22, (VOLUME, w), attributes)), VOLUME, w)
    agree(found, wanted, 1e-4, 1e-5)


# ------------------------------------------------------------------------------------------------------------ regions
ROIS = np.array([[0, 0, 3, 3], [1, 1, 4.5, 4], [-1, 2, 6.5, 3]], F32)
WHICH = np.array([0, 1, 0])
IMAGES = normal(2, 2, 5, 6)
ALIGNED: list[Row] = [
    *(
        (
            "RoiAlign",
            v,
            (IMAGES, ROIS, WHICH),
            {"output_height": 2, "output_width": 3, "sampling_ratio": r, "spatial_scale": 0.9},
        )
        for v in (10, 16)
        for r in (0, 2)
    ),
    (
        "RoiAlign",
        16,
        (IMAGES, ROIS, WHICH),
        {"output_height": 2, "mode": "max", "coordinate_transformation_mode": "output_half_pixel"},
    ),
]
MAX_ROIS = np.array([[0, 0, 0, 3, 3], [1, 1, 1, 5, 4], [0, 2, 2, 2, 2]], F32)


@pytest.mark.parametrize("row", ALIGNED, ids=row_id)
def test_aligned_regions(row: Row) -> None:
    like_runtime(row)
    if row[3].get("mode") != "max":
        derive(row)


def test_pooled_regions() -> None:
    row: Row = ("MaxRoiPool", 1, (IMAGES, MAX_ROIS), {"pooled_shape": [2, 3], "spatial_scale": 0.8})
    like_runtime(row)
    derive(row, wanted=(0,))


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("version", [10, 11])
def test_the_greatest_boxes(version: int, centred: int) -> None:
    """More than are compared at once, and many of equal score."""
    boxes, scores = RNG.uniform(0, 1, (2, 600, 4)).astype(F32), RNG.uniform(0, 1, (2, 3, 600)).astype(F32).round(2)
    limits = (np.array([90]), np.array([0.3], F32), np.array([0.4], F32))
    row: Row = ("NonMaxSuppression", version, (boxes, scores, *limits), {"center_point_box": centred})
    like_runtime(row)
    (none,) = run(build(("NonMaxSuppression", version, (boxes, scores), {})), boxes, scores)
    assert none.shape == (0, 3)


# ---------------------------------------------------------------------------------------------------------- attention
Q, K, V = normal(2, 4, 3, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 6)
MASK = np.tril(np.ones((3, 5), bool), 1)
MASK[1] = False
ATTENTIVE: list[Row] = [
    ("Attention", 23, (Q, K, V), {}),
    ("Attention", 23, (Q, K, V), {"is_causal": 1, "softcap": 2.0}),
    ("Attention", 24, (Q, K, V, MASK), {"scale": 0.3}),
    ("Attention", 24, (Q, K, V, MASK[:, :4]), {"is_causal": 1}),
    ("Attention", 24, (Q, K, V, normal(4, 3, 5), normal(2, 2, 4, 8), normal(2, 2, 4, 6)), {}),
    ("Attention", 24, (Q, K, V, None, None, None, sizes(4, 2)), {"is_causal": 1}),
    ("Attention", 25, (Q, K, V), {"left_window_size": 1, "right_window_size": 0}),
    ("Attention", 23, (normal(2, 3, 32), normal(2, 5, 16), normal(2, 5, 12)), {"q_num_heads": 4, "kv_num_heads": 2}),
    (
        "RotaryEmbedding",
        23,
        (Q, normal(9, 3), normal(9, 3), RNG.integers(0, 9, (2, 3))),
        {"interleaved": 1, "rotary_embedding_dim": 6},
    ),
    (
        "LinearAttention",
        27,
        (normal(2, 3, 16), normal(2, 3, 8), normal(2, 3, 6), None, normal(2, 3, 2), normal(2, 3, 1)),
        {"q_num_heads": 4, "kv_num_heads": 2},
    ),
    ("CausalConvWithState", 27, (normal(2, 4, 7), normal(4, 1, 3), normal(4), normal(2, 4, 2)), {"activation": "silu"}),
]
TWO = {"LinearAttention": 2, "CausalConvWithState": 2}


@pytest.mark.parametrize("row", ATTENTIVE, ids=row_id)
def test_attention_has_right_derivatives_in_float64(row: Row) -> None:
    """Where a query sees nothing, too."""
    if row[3].get("rotary_embedding_dim") is None:
        derive(row, outputs=TWO.get(row[0], 1))


@pytest.mark.parametrize("row", ATTENTIVE, ids=row_id)
def test_attention_like_the_reference(row: Row) -> None:
    like_reference(row) if row[0] not in TWO else None


def test_attention_is_torch_s_where_it_can_be() -> None:
    assert "scaled_dot_product_attention(x0, x1, x2" in converted(build(ATTENTIVE[0])).code
    assert "scaled_dot_product_attention(x0, x1, x2, x3" in converted(build(ATTENTIVE[2])).code
    assert "attention_with_cache(" in converted(build(ATTENTIVE[1])).code


EXPORTED: list[tuple[Row, dict[int, tuple[int, ...]], tuple[Any, ...]]] = [
    (RESIZED[0], {0: (0, 2, 3)}, (normal(3, 2, 7, 9),)),
    (("Resize", 19, (X, None, scales(1, 1, 0.6, 1.7)), by("cubic", "asymmetric")), {0: (0,)}, (normal(3, 2, 5, 6),)),
    (("Resize", 19, (X, None, scales(1, 1, 1.5, 2)), by("nearest")), {0: (0, 2, 3)}, (normal(3, 2, 8, 4),)),
    (("Resize", 19, (X, None, None, sizes(7, 9)), by("linear", axes=[2, 3])), {0: (0, 2, 3)}, (normal(3, 2, 8, 4),)),
    (("Upsample", 9, (X, scales(1, 1, 2, 2)), {}), {0: (0, 2, 3)}, (normal(3, 2, 8, 4),)),
    (GRIDS[0], {0: (0,), 1: (0, 1)}, (normal(3, 2, 5, 6), RNG.uniform(-1, 1, (3, 7, 4, 2)).astype(F32))),
    (OTHER_GRIDS[0], {0: (0,), 1: (0, 1)}, (normal(3, 2, 3, 4, 5), RNG.uniform(-1, 1, (3, 4, 3, 2, 3)).astype(F32))),
    (DEFORMED[0], {0: (0,), 2: (0,)}, (normal(3, 2, 5, 6), DEFORMED[0][2][1], normal(3, 12, 4, 4))),
    (ALIGNED[1], {1: (0,), 2: (0,)}, (IMAGES, np.repeat(ROIS, 2, 0), np.repeat(WHICH, 2))),
    (ATTENTIVE[0], {0: (0, 2), 1: (0, 2), 2: (0, 2)}, (normal(3, 4, 7, 8), normal(3, 2, 6, 8), normal(3, 2, 6, 6))),
    (ATTENTIVE[1], {0: (0, 2), 1: (0, 2), 2: (0, 2)}, (normal(3, 4, 7, 8), normal(3, 2, 6, 8), normal(3, 2, 6, 6))),
]


@pytest.mark.parametrize(("row", "free", "more"), EXPORTED, ids=[resize_id(r) for r, _, _ in EXPORTED])
def test_they_are_exported_with_free_dims(row: Row, free: Any, more: Any) -> None:
    export_freely(row, free, more, constants=fixed(row))


COMPILED = [RESIZED[1], RESIZED[5], OTHER_GRIDS[0], DEFORMED[0], ALIGNED[1], ATTENTIVE[1], ATTENTIVE[8]]


@pytest.mark.parametrize("row", COMPILED, ids=resize_id)
def test_torch_compile_takes_them_whole(row: Row) -> None:
    module = converted(build(row, constants=fixed(row)))
    given = [torch.tensor(a) for i, a in enumerate(row[2]) if a is not None and i not in fixed(row)]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(*given), module(*given))


def test_a_picture_without_pillow_is_an_error_at_once() -> None:
    rule = find("", "ImageDecoder", 20)
    assert rule is not None
    nothing = torch.zeros(3, dtype=torch.uint8)
    if find_spec("PIL") is None:
        with pytest.raises(ValueError, match="Pillow"):
            rule.function(nothing)
    else:
        assert rule.function(nothing).shape == (0, 0, 3)

"""What does not pass, and why; what passes and has no gradient. A line that no longer holds fails the tests."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["FAILS", "UNREACHED"]

NARROW = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "UINT4", "INT4", "UINT2", "INT2")

PICTURES = (
    "jpeg_rgb",
    "jpeg_grayscale",
    "jpeg_bgr",
    "jpeg2k_rgb",
    "bmp_rgb",
    "png_rgb",
    "tiff_rgb",
    "webp_rgb",
    "pnm_rgb",
)

# reason -> the cases it explains, of kind node
_FAILS: dict[str, tuple[str, ...]] = {
    "draws random numbers: the expected ones are those of numpy's generator": tuple(
        f"bernoulli{kind}{body}" for kind in ("", "_double", "_seed") for body in ("", "_expanded")
    ),
    "needs Pillow to decode an image, which is not installed": tuple(
        f"image_decoder_decode_{kind}" for kind in PICTURES if find_spec("PIL") is None
    ),
    "wants the rounding noise of the reference, 1.9e-7 where 0 is exact": ("dft_inverse", "dft_inverse_opset19"),
    "off by one float16 digit, 2^-11 of the largest value: the reference rounds to float16 in other places": (
        "attention_4d_causal_fp16_expanded",
    ),
    "the reference aligns the corners of an unrounded size (2.4); ONNX Runtime and torch those of the whole one": (
        "resize_downsample_scales_linear_align_corners",
        "resize_downsample_scales_cubic_align_corners",
    ),
}

# reason -> cases with floating inputs and outputs in which autograd reaches no input
_UNREACHED: dict[str, tuple[str, ...]] = {
    "the values are integers or 8-bit floats; the floating input only names a type": tuple(
        f"castlike_{narrow}_to_{wide}{body}"
        for narrow in NARROW
        for wide in ("FLOAT", "FLOAT16")
        for body in ("", "_expanded")
    ),
    "a step function: its derivative is 0 wherever there is one": (
        *(f"hardmax_{kind}" for kind in ("example", "one_hot", "axis_0", "axis_1", "axis_2")),
        *("hardmax_negative_axis", "hardmax_default_axis", "ai_onnx_ml_binarizer"),
        *("ai_onnx_ml_tree_ensemble_single_tree", "ai_onnx_ml_tree_ensemble_set_membership"),
    ),
    "frequencies are rounded to whole bins": ("melweightmatrix",),
    "the input has no elements": ("reduce_max_empty_set", "reduce_min_empty_set"),
}

FAILS = {f"node/test_{case}": reason for reason, cases in _FAILS.items() for case in cases}
UNREACHED = {f"node/test_{case}": reason for reason, cases in _UNREACHED.items() for case in cases}

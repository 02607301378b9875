"""The planted bugs: each a real kind of conversion error, made by a mutation of a right conversion.

`finds`: a (kind, quantity) that must be among the verdict's mismatches. `module`: where `locate` puts it, None where
there is no run to look into; `ought`: where it should, if that is elsewhere. `sizes` and `nonzero`: the shrunk
counterexample's symbolic sizes (None where only votes reject, and those are not explored), and the most elements of its
inputs that may not be zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isomorph.convert.ir import Node, Sym, Value
from tests.quality.bugs import mutations_lowered as lower
from tests.quality.bugs import mutations_rules as rules
from tests.quality.bugs.mutations import (
    Mutation,
    after,
    argument,
    baked,
    becomes,
    before,
    both,
    bypassed,
    each,
    not_updated,
    output_order,
    output_through,
    retyped,
    skipped,
    swapped,
    trained,
    untied,
)
from tests.quality.bugs.mutations_model import assigned, mislaid, port, variable_trained

OUTPUT, INPUT, PARAMETER, BUFFER = "output", "input gradient", "parameter gradient", "buffer"
SIGNATURE = "signature"


@dataclass(frozen=True)
class Bug:
    """A row. reason: why it cannot be caught, for a strict xfail; "" where it must be."""

    name: str
    model: str
    mutation: Mutation
    finds: tuple[str, str]
    module: str | None
    sizes: str | None = "b=1"
    nonzero: int = 1
    ought: str = ""
    reason: str = ""


VALUE = ("value", OUTPUT)
BN, LN = "aten.batch_norm.default", "aten.layer_norm.default"
CONV, LINEAR = "aten.conv2d.default", "aten.linear.default"
MAX, AVERAGE, DROPOUT = "aten.max_pool2d.default", "aten.avg_pool2d.default", "aten.dropout.default"
RSQRT, EXPM1, LOG1P, TO = "aten.rsqrt.default", "aten.expm1.default", "aten.log1p.default", "aten.to.dtype"
BILINEAR, NEAREST = "aten.upsample_bilinear2d.vec", "aten.upsample_nearest2d.vec"
DETACH, MUL, FLIP, ROLL = "aten.detach.default", "aten.mul.Tensor", "aten.flip.default", "aten.roll.default"


def interleaved(nth: int) -> Mutation:
    """Angles (a, a, b, b) in place of (a, b, a, b), in the nth of the calls."""
    repeat, options = "aten.repeat_interleave.self_int", {"output_size": None}
    return each("aten.cat.default", lambda node, fresh: [
        node.replace(op=repeat, args=(node.args[0][0], 2, -1), kwargs=options)], module="rotary", nth=nth)  # fmt: skip


def naive_expm1(module: str) -> Mutation:
    """exp(x) - 1."""
    last = after(EXPM1, "aten.sub.Tensor", 1.0, kwargs={"alpha": 1}, module=module)
    return both(last, becomes(EXPM1, "aten.exp.default", module=module))


def naive_log1p(module: str) -> Mutation:
    """log(x + 1)."""
    first = before(LOG1P, 0, "aten.add.Tensor", 1.0, kwargs={"alpha": 1}, module=module)
    return both(first, becomes(LOG1P, "aten.log.default", module=module))


def added_mask(low: float) -> Mutation:
    """A number added to the scores that are masked."""

    def change(node: Node, fresh: Callable[[str], str]) -> list[Node]:
        scores, mask, _ = node.args
        number, moved = (Value(fresh("planted"), node.outputs[0].type) for _ in range(2))
        return [
            Node("aten.to.dtype", (mask, number.type.dtype, False, False, None), {}, (number,), node.origin),
            Node(MUL, (number, low), {}, (moved,), node.origin),
            node.replace(op="aten.add.Tensor", args=(scores, moved), kwargs={"alpha": 1}),
        ]

    return each("aten.masked_fill.Scalar", change)


def float32(x: float) -> float:
    """A number as float32 holds it."""
    return float(np.float32(x))


IMAGES = (
    # batch norm
    Bug("batch norm epsilon 1e-3", "vision", argument(BN, 7, 1e-3), VALUE, "stem.1"),
    Bug("batch norm momentum swapped", "vision", argument(BN, 6, lambda m: 1 - m), ("value", BUFFER), "stem.1"),
    Bug("batch norm biased running variance", "vision", rules.biased_variance(), ("value", BUFFER), "stem.1"),
    Bug("batch statistics in eval mode", "vision", argument(BN, 5, True), VALUE, "stem.1"),
    Bug("running statistics in train mode", "vision", argument(BN, 5, False), VALUE, "stem.1"),
    Bug("stop_gradient on batch statistics", "vision", rules.detached_moments(), ("value", INPUT), "stem.1"),
    # convolution
    Bug("asymmetric same padding at stride 2", "vision", both(
        before(CONV, 0, "aten.constant_pad_nd.default", [1, 2, 0, 1], 0.0,
               shape=lambda s: (*s[:2], 13, 19), module="stem.0"),
        argument(CONV, 4, [0, 0], module="stem.0")), VALUE, "stem.0"),
    Bug("height and width padding swapped", "pools",
        argument(CONV, 4, lambda p: p[::-1], module="wide"), VALUE, "wide", "b=1 h=1 w=5"),
    Bug("flipped kernel", "vision", before(CONV, 1, FLIP, [2, 3], module="mix"), VALUE, "mix"),
    Bug("kernel transposed in space", "vision",
        before(CONV, 1, "aten.permute.default", [0, 1, 3, 2], module="mix"), VALUE, "mix"),
    Bug("groups in another order", "vision", before(CONV, 0, ROLL, [2], [1], module="mix"), VALUE, "mix"),
    Bug("missing bias", "vision", argument(CONV, 2, None, module="mix"), VALUE, "mix", nonzero=0),
    Bug("channel shuffle order", "vision", both(
        retyped("aten.unflatten.int", lambda s: (s[0], 3, 2, *s[3:]), argument("aten.unflatten.int", 2, [3, 2])),
        retyped("aten.transpose.int", lambda s: (s[0], 2, 3, *s[3:]), argument("aten.transpose.int", 1, 1))),
        VALUE, "shuffle"),
    Bug("NCHW reshape after NHWC flatten", "vision",
        before("aten.flatten.using_ints", 0, "aten.permute.default", [0, 2, 3, 1],
               shape=lambda s: (s[0], s[2], s[3], s[1]), module="flatten"), VALUE, "flatten"),
    Bug("input fed in the wrong axis order", "vision", port(0, (0, 3, 2, 1)), ("raised", SIGNATURE), None),
    # pooling
    Bug("max pool padded with zero", "pools", both(
        before(MAX, 0, "aten.constant_pad_nd.default", [1, 1, 1, 1], 0.0), argument(MAX, 3, [0, 0])),
        VALUE, "high", "b=1 h=1 w=1"),
    Bug("ceil_mode", "pools", argument(MAX, 5, True), VALUE, "high", "b=1 h=1 w=2"),
    Bug("count_include_pad", "pools", argument(AVERAGE, 5, False), VALUE, "average", "b=1 h=1 w=1"),
    # resizing
    Bug("align_corners", "resizes", argument(BILINEAR, 2, True, module="bilinear"), VALUE, "bilinear"),
    Bug("no half-pixel centres", "resizes", rules.corner_pixels("bilinear"), VALUE, "bilinear"),
    Bug("nearest for nearest-exact", "resizes", becomes("aten._upsample_nearest_exact2d.vec", NEAREST),
        VALUE, "exact"),
    Bug("nearest-exact for nearest", "resizes", becomes(NEAREST, "aten._upsample_nearest_exact2d.vec"),
        VALUE, "nearest"),
    Bug("bicubic constant -0.5", "resizes", rules.cubic_constant(-0.5), VALUE, "bicubic"),
    Bug("bilinear for bicubic", "resizes", becomes("aten.upsample_bicubic2d.vec", BILINEAR), VALUE, "bicubic"),
)  # fmt: skip

ACTIVATIONS = (
    Bug("layer norm epsilon 1e-6", "mlp", argument(LN, 4, 1e-6), VALUE, "norm"),
    Bug("tanh-gelu for erf-gelu", "mlp", argument("aten.gelu.default", "approximate", "tanh"), VALUE, "gelu"),
    Bug("leaky slope 0.3", "mlp", argument("aten.leaky_relu.default", 1, 0.3), VALUE, "leaky"),
    Bug("elu alpha", "mlp", argument("aten.elu.default", 1, 1.0), VALUE, "elu"),
    Bug("elu for celu", "mlp", becomes("aten.celu.default", "aten.elu.default", 0.5, 1, 1), VALUE, "celu"),
    Bug("softplus beta", "mlp", argument("aten.softplus.default", 1, 1.0), VALUE, "softplus", nonzero=0),
    Bug("hardswish approximated", "mlp", becomes("aten.hardswish.default", "aten.silu.default"), VALUE, "hardswish"),
    Bug("float32 constant in float64", "mlp", argument("aten.leaky_relu.default", 1, float32),
        ("leak", OUTPUT), "leaky"),
    Bug("dropout not scaled", "mlp", after(DROPOUT, MUL, 0.6, train_only=True),
        VALUE, "head", ought="dropout"),
    Bug("dropout rate", "mlp", argument(DROPOUT, 1, 0.5), VALUE, "dropout"),
    Bug("dropout left on", "mlp", argument(DROPOUT, 2, True), VALUE, "head", ought="dropout"),
    Bug("dropout left off", "mlp", argument(DROPOUT, 2, False), ("random", SIGNATURE), None),
    Bug("square weight transposed", "mlp",
        before(LINEAR, 1, "aten.transpose.int", 0, 1, module="square"), VALUE, "square"),
    Bug("square weight mislaid", "mlp", mislaid("square.weight"), VALUE, "square"),
    Bug("parameter at its initial value", "mlp", assigned("norm.weight", np.ones_like),
        ("value", SIGNATURE), "norm"),
    Bug("stop_gradient on a bias", "mlp", before(LINEAR, 2, DETACH, module="square"), ("value", PARAMETER), "square"),
    Bug("TensorFloat-32 products", "mlp", rules.lowered(LINEAR, rules.tf32_linear, "head"),
        ("imprecise", OUTPUT), "head", None, 3),
    Bug("bfloat16 accumulation", "mlp", rules.lowered(LINEAR, rules.bfloat16_linear, "head"),
        ("precision", OUTPUT), "head", None, 6),
)  # fmt: skip

SEQUENCES = (
    Bug("attention without 1/sqrt(d)", "attention", bypassed("aten.div.Tensor", module="scale"),
        VALUE, "scale", "b=1 t=2"),
    Bug("softmax over another axis", "attention", argument("aten.softmax.int", 1, -2), VALUE, "softmax", "b=1 t=2"),
    Bug("causal mask shifted", "attention", argument("aten.triu.default", 1, 2), VALUE, "mask", "b=1 t=2"),
    Bug("causal mask of -1e4", "attention",
        argument("aten.masked_fill.Scalar", 2, -1e4), VALUE, "mask", "b=2 t=2"),
    Bug("padding mask of -1e4 added", "masked", added_mask(-1e4), VALUE, "", "b=1 t=3", 3, "mask"),
    Bug("padding mask of -1e4", "masked", argument("aten.masked_fill.Scalar", 2, -1e4), VALUE, "mask",
        reason="seen only where every visible score is below -1e4, which no drawn case has"),
    Bug("rotary halves interleaved", "attention",
        both(interleaved(0), interleaved(1)), VALUE, "rotary", "b=1 t=2"),
    Bug("heads not moved back", "attention",
        bypassed("aten.transpose.int", module="", nth=4), VALUE, "", "b=1 t=2"),
    Bug("padding row gets a gradient", "tokens", argument("aten.embedding.default", 2, -1),
        ("value", PARAMETER), "embed", "b=1 t=1", nonzero=0),
    Bug("embedding not scaled", "tokens", bypassed(MUL, module="scale"), VALUE, "scale", "b=1 t=1", nonzero=0),
    Bug("positions off by one", "tokens", both(
        argument("aten.slice.Tensor", 2, 1), argument("aten.slice.Tensor", 3, Sym("1 + t"))), VALUE, "", "b=1 t=1"),
    Bug("tied weight untied", "tokens", untied("head.weight", LINEAR, 1, "head"), ("tied", SIGNATURE),
        "embed", "b=1 t=1"),
    Bug("GRU without reset_after", "gru", rules.reset_before(), VALUE, "gru"),
    Bug("missing recurrent bias", "gru", before("aten.gru.input", (2, 3), MUL, 0.0), VALUE, "gru", nonzero=0),
    Bug("LSTM gate order", "lstm", rules.gate_order(), VALUE, "lstm", nonzero=0),
    Bug("reverse direction runs forwards", "lstm", rules.forward_only(), VALUE, "lstm", nonzero=0),
    Bug("initial state ignored", "lstm", before("aten.lstm.input", (1, 0), MUL, 0.0), VALUE, "lstm", nonzero=0),
    Bug("initial states exchanged", "lstm",
        argument("aten.lstm.input", 1, lambda s: s[::-1]), VALUE, "lstm", nonzero=0),
    Bug("cumsum off by one", "order", after("aten.cumsum.default", ROLL, [1], [1]), VALUE, "running", "b=1 t=2"),
    Bug("rolled the other way", "order", argument(ROLL, 1, [-1]), VALUE, "roll", "b=1 t=3"),
    Bug("slice off by one", "order", both(
        argument("aten.slice.Tensor", 2, 0, module="late", nth=2),
        argument("aten.slice.Tensor", 3, 2, module="late", nth=2)), VALUE, "late", "b=1 t=1"),
    Bug("negative index taken from the start", "order", argument("aten.select.int", 2, 0), VALUE, "last", "b=1 t=2"),
    Bug("constant baked from the example", "order", baked("t", 4, "aten.div.Tensor"), VALUE, "mean", "b=1 t=1"),
    Bug("dim fixed to the example's", "order", baked("t", 4, "aten.arange.default"),
        ("raised", SIGNATURE), None, "b=1 t=2"),
)  # fmt: skip

NUMBERS = (
    Bug("epsilon outside the root", "norms", both(
        argument("aten.add.Tensor", 1, 0.0, module="rms"), before(RSQRT, 0, "aten.sqrt.default"),
        before(RSQRT, 0, "aten.add.Tensor", 1e-5, kwargs={"alpha": 1}), becomes(RSQRT, "aten.reciprocal.default")),
        VALUE, "rms"),
    Bug("normalize adds its epsilon", "norms", becomes("aten.clamp_min.default", "aten.add.Tensor", 1e-12,
        kwargs={"alpha": 1}), VALUE, "unit", "b=2"),
    Bug("stop_gradient on a statistic", "norms", before(RSQRT, 0, DETACH), ("value", INPUT), "rms",
        nonzero=1),
    Bug("log of softmax", "norms", both(
        after("aten.log_softmax.int", "aten.log.default"), becomes("aten.log_softmax.int", "aten.softmax.int")),
        ("nonfinite", OUTPUT), "logits", nonzero=5),
    Bug("float division rounded", "integers", lower.FLOOR_DIVISION, VALUE, "halved"),
    Bug("integer division towards zero", "integers",
        argument("aten.div.Tensor_mode", "rounding_mode", "trunc"), ("integer", OUTPUT), "thirds"),
    Bug("remainder with the sign of the dividend", "integers", becomes("aten.remainder.Scalar", "aten.fmod.Scalar"),
        ("integer", OUTPUT), "rest"),
    Bug("index dtype", "integers", output_through(2, "aten.to.dtype", "int32", dtype="int32"), ("dtype", OUTPUT), None),
    Bug("last of ties in argmax", "integers", lower.LAST_OF_TIES, ("integer", OUTPUT), "", ought="best"),
    Bug("naive expm1", "numerics", naive_expm1("small"), VALUE, "small"),
    Bug("naive expm1 beside large values", "numerics", naive_expm1("grown"), ("imprecise", OUTPUT),
        "", None, 12, "grown"),
    Bug("naive log1p beside large values", "numerics", naive_log1p("slow"), ("imprecise", OUTPUT),
        "", None, 12, "slow"),
    Bug("naive log1p", "numerics", naive_log1p("log"), ("precision", OUTPUT), "log"),
    Bug("clipped exp", "numerics", before("aten.exp.default", 0, "aten.clamp_max.default", 80.0),
        VALUE, "", "b=2", ought="exp"),
    Bug("logsumexp without its maximum", "numerics", lower.NAIVE_LOGSUMEXP, ("nonfinite", OUTPUT), "",
        "b=2", ought="pooled"),
    Bug("NaN swallowed by max", "numerics", becomes("aten.maximum.default", "aten.fmax.default"),
        ("nonfinite", OUTPUT), "", ought="root"),
    Bug("cast to integer dropped", "numerics", skipped(TO, "whole"), VALUE, "whole"),
)  # fmt: skip

GRADIENTS = (
    *(Bug(f"gradient of {name} at a tie", "ties", lower.TIES[name], ("kink", INPUT), module, sizes, nonzero, ought)
      for name, module, sizes, nonzero, ought in (
          ("relu", "", "b=1", 0, "relu"), ("clamp", "", "b=1", 1, "clamp"), ("amax", "amax", "b=1", 0, ""),
          ("max", "max", "b=2", 0, ""), ("abs", "", "b=1", 0, "abs"), ("larger", "larger", "b=1", 0, ""))),
    Bug("gradient of where at its bound", "ties", becomes("aten.gt.Scalar", "aten.ge.Scalar"),
        ("kink", OUTPUT), "lift", ought="where"),
    Bug("stop_gradient on a path", "several", before(MUL, 0, DETACH, module="", nth=0), ("value", INPUT), ""),
    Bug("detach dropped", "several", bypassed(DETACH, nth=3), ("value", INPUT), ""),
    Bug("frozen parameter trained", "several", trained("left.weight", True), ("frozen", SIGNATURE), "left", ""),
    Bug("trained parameter frozen", "several", variable_trained("right.bias", False), ("frozen", SIGNATURE), "right",
        ""),
    Bug("buffer not updated", "several", not_updated("seen"), ("value", BUFFER), "", "b=2"),
    Bug("moving average swapped", "several", both(
        argument(MUL, 1, 0.1, nth=1), argument(MUL, 1, 0.9, nth=2)), ("value", BUFFER), "", "b=2"),
)  # fmt: skip

SHAPES = (
    Bug("outputs in another order", "several", output_order(1, 0, 2), VALUE, ""),
    Bug("output transposed", "several", output_through(2, "aten.transpose.int", 0, 1), VALUE, ""),
    Bug("batch rows mixed", "several", output_through(0, ROLL, [1], [0]), VALUE, "", "b=2"),
    Bug("scalar output of one element", "several", output_through(3, "aten.unsqueeze.default", 0,
        shape=lambda s: (1,)), ("shape", OUTPUT), ""),
    Bug("mode not followed", "several", swapped("isomorph.select_mode", 0, 1), VALUE, ""),
)  # fmt: skip

BUGS = (*IMAGES, *ACTIVATIONS, *SEQUENCES, *NUMBERS, *GRADIENTS, *SHAPES)

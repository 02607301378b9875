"""Normalisations without running statistics: one ONNX op each, and the layer of torch that they are."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from isomorph.convert.api import to_keras
from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.conversion import TorchConversion
from isomorph.convert.onnx_out.api import to_onnx
from tests.convert.onnx_out_models import close, functional, ops, run

layers = keras.layers
LAYER, GROUP, RMS = layers.LayerNormalization, layers.GroupNormalization, layers.RMSNormalization
IMAGE = (5, 4, 6)

# id: (shape, layer, its arguments, ONNX op, torch layer, its state)
CASES: dict[str, tuple[tuple[int, ...], Any, dict[str, Any], str, str, set[str]]] = {
    "layer": ((5, 6), LAYER, {"epsilon": 0.01}, "LayerNormalization", "LayerNorm", {"weight", "bias"}),
    "layer-no-shift": ((5, 6), LAYER, {"center": False}, "LayerNormalization", "LayerNorm", {"weight"}),
    "layer-no-scale": ((5, 6), LAYER, {"scale": False}, "LayerNormalization", "LayerNorm", {"weight", "bias"}),
    "layer-bare": ((5, 6), LAYER, {"scale": False, "center": False}, "LayerNormalization", "LayerNorm", set()),
    "layer-two-axes": ((5, 6), LAYER, {"axis": [1, 2]}, "LayerNormalization", "LayerNorm", {"weight", "bias"}),
    "group": (IMAGE, GROUP, {"groups": 3, "epsilon": 0.1}, "GroupNormalization", "GroupNorm", {"weight", "bias"}),
    "group-first": ((6, 4), GROUP, {"groups": 2, "axis": 1}, "GroupNormalization", "GroupNorm", {"weight", "bias"}),
    "group-no-places": ((6,), GROUP, {"groups": 3}, "GroupNormalization", "GroupNorm", {"weight", "bias"}),
    "group-no-shift": ((4, 6), GROUP, {"groups": 3, "center": False}, "GroupNormalization", "GroupNorm",
                       {"weight", "bias"}),
    "group-bare": ((4, 6), GROUP, {"groups": 3, "center": False, "scale": False}, "GroupNormalization", "GroupNorm",
                   set()),
    "instance": (IMAGE, GROUP, {"groups": -1}, "InstanceNormalization", "InstanceNorm2d", {"weight", "bias"}),
    "instance-bare": ((4, 6), GROUP, {"groups": -1, "center": False, "scale": False}, "InstanceNormalization",
                      "InstanceNorm1d", set()),
    "rms": ((5, 6), RMS, {"epsilon": 0.01}, "RMSNormalization", "RMSNorm", {"weight"}),
    "rms-two-axes": ((5, 6), RMS, {"axis": [1, 2]}, "RMSNormalization", "RMSNorm", {"weight"}),
}  # fmt: skip


def model_of(name: str, dtype: str = "float32") -> Any:
    shape, layer, arguments, *_ = CASES[name]
    inputs = "float64" if dtype == "float64" else "float32"
    return functional(shape, layer(**arguments, name="norm", dtype=dtype), dtype=inputs)


def home(conversion: TorchConversion, x: np.ndarray) -> torch.Tensor:
    """torch's answer in Keras' order of axes."""
    p = conversion.inputs[0].permutation
    y = conversion.module(torch.tensor(x if p is None else x.transpose(np.argsort(p)), requires_grad=True))
    q = conversion.outputs[0].permutation
    return y if q is None else y.permute(q)


@pytest.mark.parametrize("name", CASES)
def test_one_op_there_and_one_layer_home(name: str) -> None:
    shape, _, _, op, kind, state = CASES[name]
    model = model_of(name)
    export = to_onnx(model)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
    close(run(export.proto, x), model(x))
    assert export.report["markers"] == {op: 1}
    assert set(ops(export.proto)) <= {op, "Transpose"}
    conversion = to_torch(export)
    assert conversion.report["layers"] == {kind: 1}
    assert conversion.report["functional"] == 0
    norm = conversion.module.norm
    assert set(norm.state_dict()) == state
    assert norm.eps == model.get_layer("norm").epsilon
    kinds = {e.torch_name: (e.kind, e.trainable) for e in conversion.weights}
    own = {"gamma": "weight", "scale": "weight", "beta": "bias"}
    trained = {f"norm.{own[v.name]}" for v in model.trainable_variables}
    assert {n for n, k in kinds.items() if k == ("parameter", True)} == trained
    assert {n for n, k in kinds.items() if k == ("constant", False)} == set(kinds) - trained
    assert {n for n, p in conversion.module.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_are_those_of_keras(name: str) -> None:
    """Of the input and of each weight by its name, in float64."""
    import tensorflow as tf

    model = model_of(name, "float64")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *CASES[name][0]))
    slope = rng.standard_normal((3, *CASES[name][0]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) * slope)
    trained = model.trainable_variables
    wanted = dict(zip((v.path for v in trained), tape.gradient(loss, [v.value for v in trained]), strict=True))
    conversion = to_torch(model)
    found = home(conversion, x)
    assert np.abs(found.detach().numpy() - np.asarray(model(x))).max() < 1e-12
    (found * torch.tensor(slope)).sum().backward()
    moved = {e.location[0]: e for e in conversion.weights if e.kind == "parameter"}
    assert set(moved) == set(wanted)
    for path, gradient in wanted.items():
        mine = moved[path].transform.to_keras(moved[path].variable.grad.numpy())
        assert np.abs(mine - np.asarray(gradient)).max() < 1e-10, path


@pytest.mark.parametrize("opset", [15, 18, 21])
@pytest.mark.parametrize("name", ["layer", "group", "rms", "instance"])
def test_an_opset_without_the_op_has_it_in_parts(name: str, opset: int) -> None:
    since = {"LayerNormalization": 17, "GroupNormalization": 21, "RMSNormalization": 23, "InstanceNormalization": 1}
    op, model = CASES[name][3], model_of(name)
    export = to_onnx(model, opset=opset)
    x = np.random.default_rng(0).standard_normal((3, *CASES[name][0])).astype("float32")
    close(run(export.proto, x), model(x))
    assert (op in ops(export.proto)) == (opset >= since[op])
    assert export.proto.opset_import[0].version == opset


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
@pytest.mark.parametrize("name", ["layer", "group", "rms"])
def test_half_precision_is_computed_in_float32(name: str, dtype: str) -> None:
    model = model_of(name, dtype)
    export = to_onnx(model)
    assert CASES[name][3] in ops(export.proto)
    assert export.report["parity"]["max_error"] < 2e-3
    assert to_torch(export).module is not None


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.LayerNorm(6), "LayerNorm"),
        (nn.LayerNorm(6, bias=False), "LayerNorm"),
        (nn.LayerNorm(6, elementwise_affine=False), "LayerNorm"),
        (nn.GroupNorm(2, 6), "GroupNorm"),
        (nn.GroupNorm(2, 6, affine=False), "GroupNorm"),
        (nn.InstanceNorm2d(6, affine=True), "InstanceNorm2d"),
        (nn.InstanceNorm2d(6), "InstanceNorm2d"),
    ],
    ids=repr,
)
def test_layers_of_torch_come_home(norm: nn.Module, kind: str) -> None:
    module = nn.Sequential(norm, nn.Tanh())
    for p in module.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 6, 5, 6, generator=torch.Generator().manual_seed(0))
    conversion = to_torch(to_keras(module, (x,)))
    assert conversion.report["layers"].get(kind) == 1
    state = module.state_dict()
    assert list(conversion.module.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in conversion.module.state_dict().items())
    torch.testing.assert_close(conversion.module(x), module(x), rtol=1e-5, atol=1e-5)

"""There and back: torch -> Keras -> ONNX -> torch, and Keras -> ONNX -> torch -> Keras."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.conversion import TorchConversion
from isomorph.convert.onnx_out.trace import variable_names

slow = pytest.mark.slow
FIXTURES = [
    "dcgan", "nested_output", "dataclass_output", "keywords", "batch_norm_cumulative", "frozen", "shared_layers",
    "batch_norm_variants", "lstm", "types",
    *(pytest.param(n, marks=slow) for n in ("resnet_basic", "shufflenet", "unet", "gru", "rnn", "bert", "vit", "vgg")),
    *(pytest.param(n, marks=slow) for n in ("llama", "levit", "lstm_state", "fourier_mixing")),
]  # fmt: skip


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def doubled(tree: Any) -> Any:
    return pytree.tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


def quiet(module: nn.Module) -> nn.Module:
    """Without dropout, whose draws differ from module to module."""
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        if isinstance(part, (nn.RNNBase, nn.MultiheadAttention)):
            part.dropout = 0.0
    return module


def answers(module: nn.Module, call: Callable[[], Any]) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """The outputs, and the gradient of each parameter for fixed cotangents."""
    outputs = [y for y in tensors(call()) if y.is_floating_point()]
    generator = torch.Generator().manual_seed(1)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs)
    parameters = {n: p for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)  # type: ignore[arg-type]
    return outputs, dict(zip(parameters, found, strict=True))


@pytest.fixture(scope="module", params=FIXTURES)
def there_and_back(request: Any) -> tuple[Any, nn.Module, TorchConversion]:
    fixture = ZOO[request.param]
    module = fixture.build().eval()
    return fixture, module, to_torch(to_keras(module, fixture.args(), fixture.kwargs(), fixture.export_shapes(module)))


def test_the_state_dict_is_the_original(there_and_back: tuple[Any, nn.Module, TorchConversion]) -> None:
    _, module, conversion = there_and_back
    before, after = module.state_dict(), conversion.module.state_dict()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    assert set(after) == set(before), "buffers that were not persistent are none"
    for kind in ("named_parameters", "named_buffers"):
        assert {n for n, _ in getattr(conversion.module, kind)(remove_duplicate=False)} >= {
            n for n, _ in getattr(module, kind)(remove_duplicate=False) if n in before
        }
    trained = {n: p.requires_grad for n, p in module.named_parameters(remove_duplicate=False)}
    assert {n: p.requires_grad for n, p in conversion.module.named_parameters(remove_duplicate=False)} == trained


@pytest.mark.parametrize("training", [False, True])
def test_the_gradients_are_the_original(there_and_back: tuple[Any, nn.Module, TorchConversion], training: bool) -> None:
    fixture, module, conversion = there_and_back
    one, other = (quiet(copy.deepcopy(m)).double().train(training) for m in (module, conversion.module))
    args, kwargs = doubled(fixture.args()), doubled(fixture.kwargs())
    wanted, slopes = answers(one, lambda: one(*args, **kwargs))
    found, others = answers(other, lambda: other(*tensors((args, kwargs))))
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)  # ONNX keeps constants in float32
    largest = max(g.abs().max().item() for g in slopes.values() if g is not None)
    for name, slope in slopes.items():
        zero = torch.zeros(())
        a, b = (zero if g is None else g for g in (slope, others[name]))
        assert (a - b).abs().max() <= 1e-6 * largest, name
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, msg=name)


def test_the_signature_is_the_original(there_and_back: tuple[Any, nn.Module, TorchConversion]) -> None:
    """Channels first, nested as it was, and free dims stay free."""
    fixture, module, conversion = there_and_back
    flat = tensors((fixture.args(), fixture.kwargs()))
    with torch.no_grad():
        wanted, found = module(*fixture.args(), **fixture.kwargs()), conversion.module(*flat)
    assert len(tensors(wanted)) == len(tensors(found))
    if isinstance(wanted, dict):
        assert list(wanted) == list(found)
    for port, tensor in zip(conversion.inputs, flat, strict=True):
        assert all(d == size for d, size in zip(port.dims, tensor.shape, strict=True) if isinstance(d, int))


# ------------------------------------------------------------------------------------------------------ from Keras
def recurrent_net(seed: int) -> Any:
    """The same variable paths each time."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="first")(image)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    x = keras.layers.Reshape((4, 4))(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True), name="both")(x)
    x = keras.layers.GRU(4, name="gru")(x)
    x = keras.layers.Dropout(0.5)(x)
    return keras.Model(image, keras.layers.Dense(2, name="head")(x))


@pytest.fixture(scope="module")
def keras_model() -> Any:
    return recurrent_net(0)


@pytest.fixture(scope="module")
def from_keras(keras_model: Any) -> TorchConversion:
    return to_torch(keras_model)


def test_the_layers_of_keras(from_keras: TorchConversion) -> None:
    made = {"BatchNorm2d": 1, "Conv2d": 3, "Dropout": 1, "GRU": 1, "LSTM": 1, "Linear": 1}
    assert from_keras.report["layers"] == made
    assert from_keras.inputs[0].permutation == (0, 2, 3, 1)
    names = set(from_keras.module.state_dict())
    assert {"first.weight", "norm.running_var", "separable.depthwise.weight", "both.weight_ih_l0_reverse",
            "gru.bias_hh_l0", "head.bias"} <= names  # fmt: skip
    kinds = {e.torch_name: e.kind for e in from_keras.weights}
    assert kinds["both.bias_hh_l0"] == "constant", "Keras has one bias where torch has two"
    assert not from_keras.module.both.bias_hh_l0.requires_grad
    transforms = {e.torch_name: e.transform.steps for e in from_keras.weights}
    assert transforms["both.weight_ih_l0"] == (("transpose", (1, 0), ()),)


def test_every_variable_is_there(keras_model: Any, from_keras: TorchConversion) -> None:
    pulled = from_keras.pull()
    variables = {n: v for n, v in variable_names(keras_model).items() if "seed_generator" not in n}
    assert set(pulled) == set(variables)
    for name, variable in variables.items():
        np.testing.assert_array_equal(pulled[name], np.asarray(variable), strict=True)
    trained = sum(int(np.prod(v.shape)) for v in keras_model.trainable_variables)
    assert from_keras.report["parameters"] == trained


def test_tuned_weights_come_back_to_keras(keras_model: Any, from_keras: TorchConversion) -> None:
    module = from_keras.module
    before = copy.deepcopy(module.state_dict())
    try:
        optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 0.01)
        for seed in range(3):
            optimiser.zero_grad()
            x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            module.train()(x).square().mean().backward()
            optimiser.step()
        module.eval()
        other = recurrent_net(1)
        from_keras.assign_to(other)
        image = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
        wanted = module(torch.from_numpy(image).permute(0, 3, 1, 2)).detach().numpy()
        np.testing.assert_allclose(other(image, training=False), wanted, rtol=1e-4, atol=1e-5)
        assert not np.allclose(keras_model(image, training=False), wanted, atol=1e-3)
    finally:
        module.load_state_dict(before)


def test_another_model_is_refused(from_keras: TorchConversion) -> None:
    from isomorph.convert.errors import WeightError

    with pytest.raises(WeightError, match="another model"):
        from_keras.assign_to(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))

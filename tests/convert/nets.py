"""What the converter's tests share: both sides run on the same values, and a module's state seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import torch
from torch.utils import _pytree as pytree

from fixtures.zoo.registry import randomise


def settled(module: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """`module` in float64 and eval mode, no weight at its initial value."""
    return randomise(module, seed).double().eval()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded float64 normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_torch(module: torch.nn.Module, *args: Any, training: bool | None = None, **kwargs: Any) -> list[np.ndarray]:
    """The flat outputs of one call, in the mode wanted (None: as the module is)."""
    if training is not None:
        module.train(training)
    with torch.no_grad():
        return [t.numpy() for t in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(t, torch.Tensor)]


def on_keras(conversion: Any, *tensors: Any, training: bool = False, model: Any = None) -> list[np.ndarray]:
    """The flat outputs for torch-ordered inputs, in torch's axis order."""
    arrays = [np.asarray(t.numpy() if isinstance(t, torch.Tensor) else t) for t in tensors]
    result = (model or conversion.model)(conversion.keras_inputs(arrays), training=training)
    return [
        p.to_torch(keras.ops.convert_to_numpy(y))
        for p, y in zip(conversion.outputs, conversion.flatten_outputs(result), strict=True)
    ]


def assert_same(
    conversion: Any, module: torch.nn.Module, *tensors: torch.Tensor, training: bool = False, tolerance: float = 1e-10
) -> None:
    """Both sides give the same outputs (deterministic modes only)."""
    got, want = on_keras(conversion, *tensors, training=training), on_torch(module, *tensors, training=training)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def every_layer(model: Any) -> Iterator[Any]:
    """All layers, those of nested models too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)


def layers_of(model: Any, cls: Any) -> list[Any]:
    return [layer for layer in every_layer(model) if isinstance(layer, cls)]


def portrait(module: torch.nn.Module) -> dict[str, Any]:
    """What a conversion must not change: modes, weights, flags, hooks, attributes."""
    return {
        "modes": [(n, m.training) for n, m in module.named_modules()],
        "weights": {n: (id(t), t.clone()) for n, t in [*module.named_parameters(), *module.named_buffers()]},
        "flags": {n: (p.requires_grad, p.grad is None) for n, p in module.named_parameters()},
        "hooks": [
            (n, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in module.named_modules()
        ],
        "attributes": [(n, sorted(vars(m)), getattr(m, "momentum", None)) for n, m in module.named_modules()],
    }


def assert_untouched(before: dict[str, Any], module: torch.nn.Module) -> None:
    after = portrait(module)
    weights = before["weights"], after["weights"]
    assert {k: v for k, v in after.items() if k != "weights"} == {k: v for k, v in before.items() if k != "weights"}
    assert weights[0].keys() == weights[1].keys()
    for name, (identity, old) in weights[0].items():
        assert weights[1][name][0] == identity, name
        assert torch.equal(weights[1][name][1], old), name

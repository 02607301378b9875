"""A failure is located: the module at fault, forward or backward, whatever the converted model calls its layers."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import isomorph
from isomorph.parity.contract import prepare
from isomorph.parity.explaining.locate import locate
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings
from isomorph.parity.verdict import Case, Located

from .twin import TwinConversion, make_net

EXAMPLE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))

# fault of the twin -> mode, direction, module, words of the cause, words of the note
TWIN = {
    "epsilon": ("eval", "forward", "bn", "epsilon is 0.001, not 1e-05", ""),
    "biased variance": ("train", "forward", "bn", "the variance is biased: divided by n = 60", "bn.running_var"),
    "swapped momentum": ("train", "forward", "bn", "momentum is 0.8, not 0.2 (swapped", "bn.running_"),
    "buffer not updated": ("train", "forward", "bn", "is not updated", "bn.running_"),
    "running statistics": ("train", "forward", "bn", "normalised with running statistics", ""),
    "missing bias": ("eval", "forward", "conv", "the bias is missing", ""),
    "transposed weight": ("eval", "forward", "square", "the square weight is transposed", ""),
    "shifted": ("train", "forward", "bn", "axis 3 is shifted by 1", ""),
    "dropout scale": ("train", "forward", "", "not scaled by 1/(1 - 0.4)", "F.dropout, after bn before square"),
    "gelu tanh": ("eval", "forward", "", "gelu (tanh), not gelu", "gelu, after square before head"),
    "leaky slope": ("eval", "forward", "", "negative slope is 0.3, not 0.1", "F.leaky_relu, after square"),
    "float32 slope": ("eval", "forward", "", "rounded to float32", "F.leaky_relu, after square"),
    "float32 inside": ("eval", "forward", "", "rounded to float32", ""),
    "coarse": ("eval", "forward", "", "rounded to bfloat16", "after head"),
    "stop_gradient": ("eval", "backward", "conv", "no gradient reaches parameter conv.bias", "parameter conv.bias"),
}  # fmt: skip


def pair_of(net: nn.Module, conversion: Any, example: Tensor) -> Pair:
    pair = prepare(ModelSpec(net, example=example), ModelSpec(conversion), Settings(), Ledger(), {})
    assert pair is not None
    return pair


def located(net: nn.Module, conversion: Any, mode: str, example: Tensor = EXAMPLE) -> tuple[Located, ...]:
    pair = pair_of(net, conversion, example)
    asked = pair.ask(mode, Case("normal", 3), (example.numpy(),), True)
    assert asked is not None
    return locate(pair, asked)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_nothing_is_located_in_an_honest_twin(mode: str) -> None:
    net = make_net()
    assert located(net, TwinConversion(net), mode) == ()


@pytest.mark.parametrize("fault", TWIN)
def test_a_fault_of_a_model_without_names_is_located_by_value(fault: str) -> None:
    mode, direction, module, cause, note = TWIN[fault]
    net = make_net()
    found = located(net, TwinConversion(net, fault), mode)
    assert [(f.direction, f.module) for f in found] == [(direction, module)], found
    assert any(cause in text for text in found[0].causes), found
    assert note in found[0].note, found


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(6) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(F.silu(x))


def stack() -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(2)
    net, example = Stack(), torch.randn(3, 6)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net, isomorph.to_keras(net, (example,)), example


def layer(conversion: Any, *path: str) -> Any:
    found = conversion.model
    for name in path:
        found = found.get_layer(name)
    return found


def doctored(conversion: Any, change: Any) -> Any:
    """The conversion, and its float64 twin, changed alike."""
    make = conversion.with_dtype

    def with_dtype(dtype: str) -> Any:
        other = make(dtype)
        change(other)
        return other

    change(conversion)
    conversion.with_dtype = with_dtype
    return conversion


def epsilon(conversion: Any) -> None:
    layer(conversion, "blocks.1", "norm").epsilon = 1e-3


def test_the_innermost_module_of_a_repeated_block_is_named_with_local_and_accumulated_errors() -> None:
    net, conversion, example = stack()
    names = [name for name, _ in net.named_modules()]
    (found,) = located(net, doctored(conversion, epsilon), "eval", example)
    assert found.module == "blocks.1.norm"
    assert found.module in names
    assert (found.kind, found.counterpart) == ("LayerNorm", "blocks.1.norm")
    assert found.causes == ("epsilon is 0.001, not 1e-05",)
    by_path = {m.path: m for m in found.modules}
    before, at, after = by_path["blocks.0"], by_path["blocks.1.norm"], by_path["blocks.2"]
    assert before.accumulated is not None
    assert before.accumulated <= before.tolerance
    assert at.local is not None
    assert at.accumulated is not None
    assert at.local > 1e3 * at.tolerance
    assert abs(at.local - at.accumulated) < 1e-3 * at.local  # its inputs are right
    assert after.accumulated is not None
    assert after.accumulated > 1e3 * after.tolerance  # it inherits the difference
    assert after.local is not None
    assert after.local <= after.tolerance  # and makes none


def stop(conversion: Any) -> None:
    """No gradient through the second block's normalisation."""
    norm = layer(conversion, "blocks.1", "norm")
    call = norm.call
    norm.call = lambda x, *args, **kwargs: call(keras.ops.stop_gradient(x), *args, **kwargs)


def test_a_missing_gradient_path_is_located_backward() -> None:
    net, conversion, example = stack()
    (found,) = located(net, doctored(conversion, stop), "eval", example)
    assert (found.direction, found.module) == ("backward", "blocks.1.norm")
    assert "no gradient reaches the input of blocks.1.norm" in found.causes[0]


class Foreign(keras.Model):  # type: ignore[misc]
    """A hand-made Stack, its layers under names of its own. fault: see below."""

    def __init__(self, net: Stack, fault: str, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.fault = fault
        self.parts: list[Any] = []
        for block in net.blocks:
            eps = 1e-2 if fault == "epsilon" and block is net.blocks[2] else 1e-5
            norm = keras.layers.LayerNormalization(epsilon=eps, dtype=dtype)
            self.parts.append([norm, *(keras.layers.Dense(m.out_features, dtype=dtype) for m in block.mlp[::2])])
        self.last = keras.layers.Dense(4, dtype=dtype)
        self(np.zeros((1, 6), dtype))
        for block, (norm, one, two) in zip(net.blocks, self.parts, strict=True):
            norm.set_weights([block.norm.weight.detach().numpy(), block.norm.bias.detach().numpy()])
            for dense, linear in ((one, block.mlp[0]), (two, block.mlp[2])):
                dense.set_weights([linear.weight.detach().numpy().T, linear.bias.detach().numpy()])
        self.last.set_weights([net.head.weight.detach().numpy().T, net.head.bias.detach().numpy()])

    def call(self, x: Any, training: bool = False) -> Any:
        for index, (norm, one, two) in enumerate(self.parts):
            y = one(norm(x))
            y = 0.5 * y * (1.0 + keras.ops.erf(y * 0.5**0.5))
            x = (2.0 if self.fault == "residual" and index == 1 else 1.0) * x + two(y)
        return self.last(keras.ops.relu(x) if self.fault == "relu" else x * keras.ops.sigmoid(x))


@pytest.mark.parametrize(
    ("fault", "module", "cause", "note"),
    [
        ("", None, "", ""),
        ("epsilon", "blocks.2.norm", "epsilon is 0.01, not 1e-05", ""),
        ("residual", "blocks.1", "", "Tensor.add, after blocks.1.mlp"),
        ("relu", "", "relu, not silu", "F.silu, after blocks.2 before head"),
    ],
)
def test_a_model_of_someone_else_is_located_by_value(fault: str, module: str | None, cause: str, note: str) -> None:
    net, _, example = stack()
    assert isinstance(net, Stack)
    pair = pair_of(net, Foreign(net, fault, "float32"), example)
    pair.converted64 = prepare(  # Keras cannot retype a subclassed model: a twin made in float64 takes its place
        ModelSpec(net, example=example), ModelSpec(Foreign(net, fault, "float64")), Settings(), Ledger(), {}
    ).converted  # type: ignore[union-attr]
    asked = pair.ask("eval", Case("normal", 3), (example.numpy(),), True)
    assert asked is not None
    found = locate(pair, asked)
    if module is None:
        assert found == ()
        return
    assert found[0].module == module, found
    assert note in found[0].note, found
    assert not cause or any(cause in text for text in found[0].causes), found


def as_function(net: nn.Module) -> Any:
    """The net as a function from arrays to arrays, in the dtype of the arrays."""
    twins = {torch.float32: net, torch.float64: copy.deepcopy(net).double()}

    def function(x: Any) -> Any:
        with torch.no_grad():
            given = torch.as_tensor(np.asarray(x))
            return twins[given.dtype](given).numpy()

    return function


def test_a_model_that_shows_nothing_inside_is_located_by_trying_known_mistakes() -> None:
    net, _, example = stack()
    other = copy.deepcopy(net)
    other.blocks[1].norm.eps = 1e-2  # type: ignore[union-attr, operator, index]
    (found,) = located(net, as_function(other), "eval", example)
    assert found.module == "blocks.1.norm"
    assert found.causes == ("epsilon is 0.01, not 1e-05",)
    assert "shows nothing of its inside" in found.note


def test_where_no_known_mistake_fits_no_module_is_named() -> None:
    net, _, example = stack()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (found,) = located(net, as_function(other), "eval", example)
    assert (found.module, found.causes) == ("", ())
    assert "shows nothing of its inside" in found.note


def test_functions_have_no_inside_and_their_counterexample_is_told_all_the_same() -> None:
    verdict = isomorph.check(lambda x: x * 2, lambda x: x * 2 + (x > 0.5), np.zeros((1, 3), np.float32), level="quick")
    assert verdict.status == "FAIL"
    assert verdict.counterexample is not None
    assert verdict.located == ()
    assert not any("explanation" in text for text in verdict.coverage["not_checked"])

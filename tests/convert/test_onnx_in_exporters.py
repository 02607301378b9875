"""What torch's own exporters write comes back with the names and layers that it had."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.conversion import TorchConversion


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.body = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.25))
        self.gamma = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.body(self.conv(x))


class Net(nn.Module):
    """Nested names, a scale of its own, stacked recurrent layers, a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList([Block(4), Block(4)])
        self.rnn = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(10)
        self.mlp = nn.Sequential(nn.Linear(10, 10), nn.GELU())
        self.head = nn.Linear(10, 2, bias=False)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        steps = self.norm(self.rnn(x.flatten(2).transpose(1, 2))[0])
        return self.head(self.mlp(self.mlp(steps)).mean(1)) * self.scale


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """The exporters warn of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(before)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = Net()
    made.train()(torch.randn(8, 3, 4, 4))  # statistics of its own
    return made.eval()


def exported(net: nn.Module, dynamo: bool) -> Any:
    x = torch.randn(2, 3, 4, 4)
    if dynamo:
        program = torch.onnx.export(net, (x,), dynamo=True, verbose=False, optimize=False, dynamic_shapes=({0: "b"},))
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.PRESERVE
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "b"}}}
    torch.onnx.export(net, (x,), file, dynamo=False, training=mode, do_constant_folding=False, **names)  # type: ignore[arg-type]
    return onnx.load_from_string(file.getvalue())


@pytest.fixture(
    scope="module",
    params=[pytest.param(True, id="dynamo", marks=pytest.mark.slow), pytest.param(False, id="torchscript")],
)
def conversion(request: Any, net: nn.Module) -> TorchConversion:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_torch(exported(net, request.param))


def test_the_names_and_the_bits(net: nn.Module, conversion: TorchConversion) -> None:
    before, after = net.state_dict(), conversion.module.state_dict()
    before = {n: t for n, t in before.items() if not n.endswith("num_batches_tracked")}  # ONNX has no such thing
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    net.load_state_dict(after)  # and torch does not miss it
    assert {n for n, _ in conversion.module.named_parameters()} == {n for n, _ in net.named_parameters()}


def test_the_answers(net: nn.Module, conversion: TorchConversion) -> None:
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conversion.module(x), net(x))
    parameters = dict(conversion.module.named_parameters())
    found = torch.autograd.grad(conversion.module(x).square().sum(), list(parameters.values()))
    wanted = torch.autograd.grad(net(x).square().sum(), [dict(net.named_parameters())[n] for n in parameters])
    for name, a, b in zip(parameters, found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_the_layers(conversion: TorchConversion) -> None:
    kinds = {n: type(m).__name__ for n, m in conversion.module.named_modules()}
    assert kinds["stem"] == "Conv2d"
    assert kinds["blocks.1.body.0"] == "BatchNorm2d"
    assert kinds["mlp.0"] == "Linear"
    assert kinds["norm"] == "LayerNorm"
    assert conversion.module.code.count('getattr(self.mlp, "0")(') == 2

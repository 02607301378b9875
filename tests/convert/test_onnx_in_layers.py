"""Nodes that become torch's own layers: which, with what options, computing what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from isomorph.convert.onnx_in.api import to_torch

from .onnx_in_models import drawn, model, node, reference


@dataclass(frozen=True)
class Case:
    """nodes over the input x, giving y. layers: class and repr of each module; () where the rule serves."""

    name: str
    nodes: list[Any]
    weights: dict[str, np.ndarray]
    x: tuple[int, ...]
    layers: tuple[str, ...]
    opset: int = 21
    train_same: bool = True  # whether train mode computes the same
    y: tuple[int, ...] | None = None  # the output's dims


def one(op: str, *inputs: str, **attributes: Any) -> list[Any]:
    return [node(op, ["x", *inputs], ["y"], name=f"/net/{op.lower()}/{op}", **attributes)]


CONV = {"c.weight": drawn(6, 4, 3, 3), "c.bias": drawn(6)}
KERNEL = {"c.weight": CONV["c.weight"]}
AFFINE = {"n.weight": drawn(4), "n.bias": drawn(4, seed=1)}
STATISTICS = {"n.running_mean": drawn(4, seed=2), "n.running_var": drawn(4, positive=True)}
NORM = AFFINE | STATISTICS
IDLE = {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
CASES = [
    Case("conv", one("Conv", "c.weight", "c.bias", pads=[1, 0, 1, 0], strides=[2, 1]), CONV, (2, 4, 9, 8),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 1), padding=(1, 0))",)),
    Case("conv of one axis", one("Conv", "w", dilations=[2]), {"w": drawn(3, 2, 2)}, (2, 2, 7),
         ("Conv1d(2, 3, kernel_size=(2,), stride=(1,), dilation=(2,), bias=False)",)),
    Case("conv in groups", one("Conv", "w", group=2), {"w": drawn(4, 1, 2, 2, 2)}, (1, 2, 4, 4, 4),
         ("Conv3d(2, 4, kernel_size=(2, 2, 2), stride=(1, 1, 1), groups=2, bias=False)",)),
    Case("conv, uneven pads", one("Conv", "c.weight", "c.bias", pads=[0, 1, 2, 1]), CONV, (1, 4, 5, 5),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))",)),
    Case("conv, same", one("Conv", "c.weight", "c.bias", auto_pad="SAME_LOWER", strides=[2, 2]), CONV, (1, 4, 6, 5),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2))",)),
    Case("conv, same at stride 1", one("Conv", "c.weight", auto_pad="SAME_UPPER"), KERNEL, (1, 4, 6, 5),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",)),
    Case("conv behind a pad", [node("Pad", ["x", "p"], ["z"]), node("Conv", ["z", "c.weight"], ["y"])],
         KERNEL | {"p": np.array([0, 0, 1, 2, 0, 0, 1, 2])}, (1, 4, 6, 5),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 2), bias=False)",)),
    Case("conv and bias", [node("Conv", ["x", "c.weight"], ["z"]), node("Add", ["z", "b"], ["y"])],
         KERNEL | {"b": drawn(1, 6, 1, 1)}, (1, 4, 6, 5),
         ("Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))",)),
    Case("conv of one axis as two", [node("Unsqueeze", ["x", "two"], ["a"]),
                                     node("Conv", ["a", "w"], ["b"], pads=[0, 1, 0, 1]),
                                     node("Squeeze", ["b", "two"], ["y"])],
         {"w": drawn(3, 2, 1, 3), "two": np.array([2])}, (2, 2, 7),
         ("Conv1d(2, 3, kernel_size=(3,), stride=(1,), padding=(1,), bias=False)",)),
    Case("transposed conv", one("ConvTranspose", "w", "b", strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]),
         {"w": drawn(4, 3, 3, 3), "b": drawn(3)}, (1, 4, 4, 5),
         ("ConvTranspose2d(4, 3, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1))",)),
    Case("transposed conv, uneven", one("ConvTranspose", "w", strides=[2], pads=[0, 1]), {"w": drawn(4, 3, 3)},
         (1, 4, 4), ("ConvTranspose1d(4, 3, kernel_size=(3,), stride=(2,), bias=False)",)),
    Case("gemm", one("Gemm", "w", "b", transB=1), {"w": drawn(5, 4), "b": drawn(5)}, (3, 4),
         ("Linear(in_features=4, out_features=5, bias=True)",)),
    Case("gemm, not transposed", one("Gemm", "w"), {"w": drawn(4, 5)}, (3, 4),
         ("Linear(in_features=4, out_features=5, bias=False)",)),
    Case("gemm, scaled", one("Gemm", "w", "b", alpha=0.5), {"w": drawn(4, 5), "b": drawn(5)}, (3, 4), ()),
    Case("gemm of rows", one("Gemm", "w", "b"), {"w": drawn(4, 5), "b": drawn(3, 5)}, (3, 4), ()),
    Case("matmul and bias", [node("MatMul", ["x", "w"], ["z"]), node("Add", ["b", "z"], ["y"])],
         {"w": drawn(4, 5), "b": drawn(5)}, (2, 3, 4), ("Linear(in_features=4, out_features=5, bias=True)",)),
    Case("matmul of folded dims", [node("Reshape", ["x", "s"], ["a"]), node("MatMul", ["a", "w"], ["b"]),
                                   node("Add", ["b", "bias"], ["c"]), node("Reshape", ["c", "t"], ["y"])],
         {"w": drawn(4, 5), "bias": drawn(5), "s": np.array([-1, 4]), "t": np.array([2, 3, 5])}, (2, 3, 4),
         ("Linear(in_features=4, out_features=5, bias=True)",)),
    Case("matmul of weights in front", [node("MatMul", ["w", "x"], ["y"])], {"w": drawn(5, 4)}, (4, 3), ()),
    Case("einsum to heads", one("Einsum", "w", equation="abc,cde->abde"), {"w": drawn(4, 2, 3)}, (2, 5, 4),
         ("Linear(in_features=4, out_features=6, bias=False)",)),
    Case("einsum from heads", [node("Einsum", ["x", "w"], ["z"], equation="abde,dec->abc"),
                               node("Add", ["z", "b"], ["y"])],
         {"w": drawn(2, 3, 4), "b": drawn(4)}, (2, 5, 2, 3), ("Linear(in_features=6, out_features=4, bias=True)",)),
    Case("einsum of a batch", one("Einsum", "w", equation="abc,acd->abd"), {"w": drawn(2, 4, 3)}, (2, 5, 4), ()),
    Case("batch norm", one("BatchNormalization", *NORM), NORM, (3, 4, 5, 5),
         ("BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)",),
         train_same=False),
    Case("batch norm of rows", one("BatchNormalization", *NORM, epsilon=1e-3, momentum=0.99), NORM, (3, 4),
         ("BatchNorm1d(4, eps=0.001, momentum=0.01, affine=True, bias=True, track_running_stats=True)",),
         train_same=False),
    Case("batch norm without scale", one("BatchNormalization", *IDLE, *STATISTICS), IDLE | STATISTICS, (3, 4, 5),
         (), train_same=False),
    Case("layer norm", one("LayerNormalization", *AFFINE), AFFINE, (2, 3, 4),
         ("LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True)",)),
    Case("layer norm over two", one("LayerNormalization", "w", axis=1), {"w": drawn(3, 4)}, (2, 3, 4),
         ("LayerNorm((3, 4), eps=1e-05, elementwise_affine=True, bias=False)",)),
    Case("rms norm", one("RMSNormalization", "w", epsilon=1e-6), {"w": drawn(4)}, (2, 3, 4),
         ("RMSNorm((4,), eps=1e-06, elementwise_affine=True)",), opset=23),
    Case("group norm", one("GroupNormalization", *AFFINE, num_groups=2), AFFINE, (2, 4, 5),
         ("GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)",), y=(2, 4, 5)),
    Case("instance norm", one("InstanceNormalization", *AFFINE), AFFINE, (2, 4, 5, 3),
         ("InstanceNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=False)",)),
    Case("prelu", one("PRelu", "w"), {"w": drawn(4, 1, 1)}, (2, 4, 3, 3), ("PReLU(num_parameters=4)",)),
    Case("prelu of one slope", one("PRelu", "act.weight"), {"act.weight": drawn(1)}, (2, 4),
         ("PReLU(num_parameters=1)",)),
    Case("prelu of each place", one("PRelu", "w"), {"w": drawn(4, 3, 3)}, (2, 4, 3, 3), ()),
    Case("dropout", [node("Dropout", ["x", "rate"], ["y"])], {"rate": np.array(0.25, np.float32)}, (2, 4),
         ("Dropout(p=0.25, inplace=False)",), train_same=False),
    Case("dropout of old", one("Dropout", ratio=0.5), {}, (2, 4), ("Dropout(p=0.5, inplace=False)",), opset=10,
         train_same=False),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(case: Case) -> None:
    proto = model(case.nodes, {"x": case.x}, {"y": case.y}, case.weights, case.opset)
    conversion = to_torch(proto)
    made = [m for m in conversion.module.modules() if not next(m.children(), None) and m is not conversion.module]
    if case.layers:
        assert tuple(map(repr, (m for m in made if "Module()" not in repr(m)))) == case.layers
    else:
        assert all(type(m) in (torch.nn.Module, torch.nn.BatchNorm1d) or "Batch" in type(m).__name__ for m in made)
    x = drawn(*case.x, seed=9)
    found = conversion.module(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), reference(proto, {"x": x})[0], rtol=1e-4, atol=1e-5)
    if case.train_same:
        torch.testing.assert_close(conversion.module.train()(torch.from_numpy(x)), found)
    for name, array in conversion.pull().items():
        np.testing.assert_array_equal(array, case.weights[name], strict=True)
    parameters = {n for n, p in conversion.module.named_parameters() if p.requires_grad}
    assert len(parameters) == sum(e.kind == "parameter" and e.tied_to is None for e in conversion.weights)


def test_statistics_move_as_onnx_moves_them() -> None:
    """By the batch's own variance, where torch takes the estimate for the population."""
    proto = model(one("BatchNormalization", *NORM, momentum=0.75), {"x": (3, 4, 2)}, ["y"], NORM)
    module = to_torch(proto).module.train()
    x = torch.from_numpy(drawn(3, 4, 2, seed=5))
    module(x)
    mean, variance = x.mean((0, 2)), x.var((0, 2), correction=0)
    torch.testing.assert_close(module.n.running_mean, 0.75 * torch.from_numpy(NORM["n.running_mean"]) + 0.25 * mean)
    torch.testing.assert_close(module.n.running_var, 0.75 * torch.from_numpy(NORM["n.running_var"]) + 0.25 * variance)
    assert "n.num_batches_tracked" not in module.state_dict(), "ONNX counts no batches"


def test_embedding() -> None:
    """Of indices known at run time alone; rows chosen by a constant are no embedding."""
    table = drawn(7, 3)
    nodes = [node("Gather", ["table.weight", "x"], ["y"])]
    conversion = to_torch(model(nodes, {"x": (2, 4)}, ["y"], {"table.weight": table}, dtypes={"x": "int64"}))
    assert repr(conversion.module.table) == "Embedding(7, 3)"
    ids = torch.tensor([[0, 6, 2, 2], [1, 1, 1, 5]])
    np.testing.assert_array_equal(conversion.module(ids).detach().numpy(), table[ids.numpy()])
    nodes = [node("Gather", ["table.weight", "i"], ["z"]), node("Add", ["x", "z"], ["y"])]
    weights = {"table.weight": table, "i": np.array([[0, 6], [0, 1]])}
    conversion = to_torch(model(nodes, {"x": (2, 2, 3)}, ["y"], weights))
    assert conversion.report["layers"] == {}
    assert set(conversion.module.state_dict()) == {"table.weight"}


RECURRENT = [
    ("LSTM", "forward", {}, True, "LSTM(3, 2)"),
    ("LSTM", "reverse", {}, True, "LSTM(3, 2)"),
    ("LSTM", "bidirectional", {}, False, "LSTM(3, 2, bias=False, bidirectional=True)"),
    ("GRU", "bidirectional", {"linear_before_reset": 1}, True, "GRU(3, 2, bidirectional=True)"),
    ("GRU", "forward", {}, True, None),  # torch has the other order of product and reset alone
    ("RNN", "forward", {}, True, "RNN(3, 2)"),
    ("RNN", "bidirectional", {"activations": ["Relu", "Relu"]}, True, "RNN(3, 2, bidirectional=True)"),
    ("LSTM", "forward", {"activations": ["Sigmoid", "Relu", "Tanh"]}, True, None),
    ("LSTM", "forward", {"clip": 0.3}, True, None),
]


@pytest.mark.parametrize(("op", "direction", "attributes", "bias", "layer"), RECURRENT)
@pytest.mark.parametrize("states", [False, True])
def test_recurrent(
    op: str, direction: str, attributes: dict[str, Any], bias: bool, layer: str | None, states: bool
) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    d = 2 if direction == "bidirectional" else 1
    weights = {"l.w": drawn(d, gates * 2, 3), "l.r": drawn(d, gates * 2, 2)} | (
        {"l.b": drawn(d, gates * 4)} if bias else {}
    )
    inputs = ["x", "l.w", "l.r", "l.b" if bias else ""]
    dims: dict[str, Any] = {"x": (5, 2, 3)}
    if states:
        names = ["h", "c"] if op == "LSTM" else ["h"]
        inputs += ["", *names]
        dims |= dict.fromkeys(names, (d, 2, 2))
    outputs = ["y", "y_h", "y_c"] if op == "LSTM" else ["y", "y_h"]
    nodes = [node(op, inputs, outputs, name="/enc/rnn/op", direction=direction, hidden_size=2, **attributes)]
    proto = model(nodes, dims, outputs, weights)
    conversion = to_torch(proto)
    assert [repr(m) for m in conversion.module.modules() if isinstance(m, torch.nn.RNNBase)] == (
        [layer] if layer else []
    )
    feeds = {name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(dims.items())}
    found = conversion.module(*map(torch.from_numpy, feeds.values()))
    for mine, theirs in zip(found, reference(proto, feeds), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-4, atol=1e-5)
    pulled = conversion.pull()
    assert set(pulled) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(pulled[name], array, strict=True)

"""Functions and exported programs as runners, what runners do without a framework, and how inputs are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.parity.runners.arrays import flatten, inputs_for, inputs_that_run, nest_of
from isomorph.parity.runners.base import Perturbation, PortInfo, Request
from isomorph.parity.runners.exported import open_exported
from isomorph.parity.runners.function import open_function
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.runners.torch_runner import TorchRunner, example_leaves
from tests.parity.formats import keeps_protocol, largest, same

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ function
def two(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    return {"sum": x + y, "both": (x.max(), y * 2)}


def test_a_function_is_a_forward_only_model() -> None:
    opened = open_function(ModelSpec(two, example=(X, X + 1)))
    about = opened.runner.about()
    assert (about.format, about.modes, about.gradients, about.float64) == ("function", ("eval",), False, True)
    assert [p.name for p in about.inputs] == ["x", "y"]
    assert opened.example is not None
    keeps_protocol(opened.runner, opened.example)
    response = opened.runner.respond(Request((X, X), "eval"))
    assert response.structure == {"sum": 0, "both": [1, 2]}
    assert np.array_equal(response.outputs[0], X + X)
    assert response.dtypes == ("float32", "float32", "float32")


def test_a_function_in_float64_is_given_and_gives_float64() -> None:
    wide = open_function(ModelSpec(two, example=(X, X))).runner.to_float64()
    response = wide.respond(Request((X, X), "eval"))
    assert set(response.dtypes) == {"float64"}
    assert np.array_equal(response.outputs[0], X.astype(float) * 2)


def test_a_function_that_computes_in_float32_has_no_float64() -> None:
    opened = open_function(ModelSpec(lambda x: np.tanh(x.astype(np.float32)), example=X))
    assert not opened.runner.about().float64
    assert "float32" in opened.runner.about().missing["float64"]
    with pytest.raises(UnsupportedError):
        opened.runner.to_float64()


def test_a_functions_inputs_from_text() -> None:
    opened = open_function(ModelSpec(lambda a, b: a[b], inputs=("a=float32[v=7..9,4]", "b=int64[n]:2..5")))
    assert opened.example is not None
    assert opened.example[0].shape[0] in (7, 8, 9)
    assert opened.example[1].min() >= 2
    assert opened.values == {"b": (2.0, 5.0)}
    assert opened.runner.about().sizes["v"] == (7, 9)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ModelSpec(two), "give inputs="),
        (ModelSpec(two, inputs=("x=float32[2]", "z=float32[2]")), "takes x, y"),
        (ModelSpec(lambda x: "no", example=X), "no array"),
    ],
)
def test_a_function_with_bad_inputs_is_one_clear_line(spec: ModelSpec, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_function(spec)
    assert "\n" not in str(caught.value)


def test_a_mode_that_a_format_has_not_is_refused() -> None:
    runner = open_function(ModelSpec(two, example=(X, X))).runner
    with pytest.raises(UsageError, match="no train mode"):
        runner.respond(Request((X, X), "train"))


# --------------------------------------------------------------------------------------------------------------- moved
def test_a_perturbation_moves_every_float_by_delta_and_no_integer() -> None:
    seen: list[np.ndarray] = []
    opened = open_function(ModelSpec(lambda x, i: seen.append((x, i)) or x * i, example=(X, np.ones((4, 3), int))))
    seen.clear()
    delta = 2.0**-10
    response = opened.runner.respond(Request((X, np.full((4, 3), 2)), "eval", perturbation=Perturbation(delta, seed=1)))
    (x, i), relative = seen[0], response.outputs[0] / (2 * X.astype(float)) - 1
    assert np.array_equal(i, np.full((4, 3), 2))
    assert np.allclose(np.abs(relative), delta, rtol=1e-3)
    assert (relative > 0).any()
    assert (relative < 0).any()
    assert x.dtype == np.float32


def test_a_perturbation_below_float32_is_not_lost_in_float64() -> None:
    wide = open_function(ModelSpec(lambda x: x, example=X)).runner.to_float64()
    moved = wide.respond(Request((X,), "eval", perturbation=Perturbation(2.0**-40, seed=1)))
    assert np.allclose(np.abs(moved.outputs[0] / X.astype(float) - 1), 2.0**-40, rtol=1e-3)
    other = wide.respond(Request((X,), "eval", perturbation=Perturbation(2.0**-40, seed=2)))
    assert not same(moved, other)


# -------------------------------------------------------------------------------------------------------------- inputs
PORTS = (PortInfo("x", "float32", ("batch", 3, None)), PortInfo("i", "int32", ("batch",)))


def test_made_up_inputs_fit_their_ports() -> None:
    x, i = inputs_for(ModelSpec(None), PORTS).arrays
    assert x.shape[0] == i.shape[0]
    assert x.shape[1] == 3
    assert x.shape[2] > 1
    assert (x.dtype, i.dtype) == (np.float32, np.int32)
    assert set(np.unique(i)) <= {0, 1}


def test_free_axes_of_one_position_have_one_size() -> None:
    ports = (PortInfo("ids", "int32", ("batch", None)), PortInfo("mask", "int32", ("batch", None)))
    ids, mask = inputs_for(ModelSpec(None), ports).arrays
    assert ids.shape == mask.shape


def test_made_up_sizes_grow_until_the_model_takes_them() -> None:
    def run(arrays: tuple[np.ndarray, ...]) -> None:
        if arrays[0].shape[2] < 30:
            raise ValueError("too small")

    inputs = inputs_for(ModelSpec(None), PORTS)
    assert inputs_that_run(ModelSpec(None), inputs, run).arrays[0].shape[2] >= 30
    assert inputs_that_run(ModelSpec(None), inputs, lambda arrays: None) == inputs


def test_texts_name_the_free_sizes() -> None:
    found = inputs_for(ModelSpec(None, inputs=("i=int32[b]:0..9", "x=float32[b,3,t=4..8]")), PORTS)
    assert found.ports[0].dims == ("b", 3, "t")
    assert found.sizes["t"] == (4, 8)
    assert found.values == {"i": (0.0, 9.0)}


def test_texts_fit_by_order_where_no_name_is_known() -> None:
    assert inputs_for(ModelSpec(None, inputs=("a=float32[b,3,4]", "c=int32[b]")), PORTS).ports[0].dims == ("b", 3, 4)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ModelSpec(None, inputs=("x=float32[b,4,t]",)), "size is 3 where 4"),
        (ModelSpec(None, inputs=("x=float32[b,3]",)), "3 axes, not 2"),
        (ModelSpec(None, inputs=("x=int64[b,3,4]",)), "takes float32, not int64"),
        (ModelSpec(None, inputs=("x=float32[b,3,4]", "z=int32[b]")), "no such input"),
        (ModelSpec(None, example=(X,)), "has 1 arrays; the model takes 2"),
        (ModelSpec(None, example=(X, np.ones(4, np.int32))), "has shape"),
        (ModelSpec(None, example=(np.ones((2, 3, 4)), np.ones(2))), "'i' is float64; the model takes int32"),
        (ModelSpec(None, example={"x": X, "k": X}), "has x, k; the model takes x, i"),
    ],
)
def test_inputs_that_do_not_fit_are_one_clear_line(spec: ModelSpec, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        inputs_for(spec, PORTS)


@pytest.mark.parametrize(
    ("names", "order", "nesting"),
    [
        (["logits"], [0], 0),
        (["output_0", "output_10", "output_2"], [0, 2, 1], [0, 1, 2]),
        (["Identity", "Identity_1"], [0, 1], [0, 1]),
        (["StatefulPartitionedCall_1:1", "StatefulPartitionedCall_1:0"], [1, 0], [0, 1]),
        (["b", "a"], [0, 1], {"b": 0, "a": 1}),
    ],
)
def test_outputs_are_nested_by_their_names(names: list[str], order: list[int], nesting: Any) -> None:
    assert nest_of(names) == (order, nesting)


def test_flatten_keeps_none_and_numbers() -> None:
    structure, arrays = flatten({"a": [X, None], "n": 3})
    assert structure == {"a": [0, None], "n": 1}
    assert arrays[1] == 3


# ------------------------------------------------------------------------------------------------------------ exported
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 3)
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.register_buffer("factor", torch.linspace(0.5, 2, 4))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.norm(self.linear(x) + self.linear(self.table(ids))[:, 0])
        return {"y": torch.sigmoid(h) * self.factor + torch.arange(4) * 0.1, "z": x.sum()}


def exported(folder: Path, training: bool) -> tuple[Net, str]:
    torch.manual_seed(0)
    net, batch = Net().train(training), torch.export.Dim("b", min=2, max=64)
    args = (torch.randn(4, 3), torch.ones(4, 5, dtype=torch.int64))
    path = str(folder / "net.pt2")
    torch.export.save(torch.export.export(net, args, dynamic_shapes=({0: batch}, {0: batch})), path)
    return net, path


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_exported_program_is_its_module_in_the_mode_it_holds(tmp_path: Path, mode: str) -> None:
    net, path = exported(tmp_path, mode == "train")
    opened = open_exported(ModelSpec(path))
    about = opened.runner.about()
    assert (about.format, about.modes) == ("exported", (mode,))
    (symbol,) = about.sizes
    assert about.sizes[symbol] == (2, 64)
    assert [(p.name, p.dims) for p in about.inputs] == [("x", (symbol, 3)), ("ids", (symbol, 5))]
    assert opened.runner.index_bounds() == {"ids": 11}
    assert opened.example is not None
    keeps_protocol(opened.runner, opened.example)
    arrays = (np.tile(X, (2, 1)), np.full((8, 5), 3))
    own = TorchRunner(net, example_leaves((torch.randn(4, 3), torch.ones(4, 5, dtype=torch.int64))), ("x", "ids"))
    request = Request(arrays, mode)
    assert largest(own.respond(request), opened.runner.respond(request)) < 1e-6
    wide = opened.runner.to_float64().respond(request)
    assert largest(own.to_float64().respond(request), wide) < 1e-13
    assert wide.outputs[0].dtype == np.float64
    with pytest.raises(UsageError, match="has no"):
        opened.runner.respond(Request(arrays, "eval" if mode == "train" else "train"))


def test_an_exported_program_takes_an_example_and_refuses_one_that_does_not_fit(tmp_path: Path) -> None:
    _, path = exported(tmp_path, False)
    example = (np.ones((6, 3), np.float32), np.zeros((6, 5), np.int64))
    opened = open_exported(ModelSpec(path, example=example))
    assert opened.example is not None
    assert opened.example[0].shape == (6, 3)
    with pytest.raises(UsageError, match="takes 2 tensors, the example has 1"):
        open_exported(ModelSpec(path, example=example[:1]))
    with pytest.raises(UsageError, match="input 'ids' is int64"):
        open_exported(ModelSpec(path, example=(example[0], example[1].astype(np.int32))))
    with pytest.raises(UsageError, match="no such file"):
        open_exported(ModelSpec(str(tmp_path / "none.pt2"), example=example))

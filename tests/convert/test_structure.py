"""The Keras model reads like the torch module: nesting, names, one layer per module, one variable per tensor."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.layers import GraphLayer, Weight
from isomorph.convert.nesting import LIMIT
from isomorph.convert.weights import variable_at
from tests.convert.nets import assert_same, every_layer, layers_of, on_keras, randn, settled


def reloaded(conversion: object, path: Path) -> keras.Model:
    conversion.save(path / "model.keras")  # type: ignore[attr-defined]
    return keras.models.load_model(path / "model.keras")


def same_after_reload(conversion: object, path: Path, *tensors: Tensor) -> keras.Model:
    model = reloaded(conversion, path)
    for got, want in zip(on_keras(conversion, *tensors, model=model), on_keras(conversion, *tensors), strict=True):
        np.testing.assert_array_equal(got, want)
    return model


# ---------------------------------------------------------------------------------------------------- nesting and names
def test_layers_are_found_by_the_modules_names(tmp_path: Path) -> None:
    fixture = ZOO["resnet_basic"]
    module = fixture.build()
    converted = to_keras(module, fixture.args())
    model = converted.model
    for path, leaf in module.named_modules():
        if not isinstance(leaf, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            continue
        layer = model
        for name in path.split("."):
            layer = (
                next(x for x in layer.layers if x.name == name)
                if any(x.name == name for x in layer.layers)
                else layer.get_layer(path.split(".", 1)[1])
            )
        expected = {
            nn.Conv2d: keras.layers.Conv2D,
            nn.BatchNorm2d: keras.layers.BatchNormalization,
            nn.Linear: keras.layers.Dense,
        }[type(leaf)]
        assert isinstance(layer, expected), path
        state = {n: p.detach().numpy() for n, p in leaf.named_parameters()}
        own = {e.torch_name: e for e in converted.weights}
        for name, value in state.items():
            np.testing.assert_array_equal(
                own[f"{path}.{name}"].to_torch(np.asarray(own[f"{path}.{name}"].variable)), value
            )
            assert any(v is own[f"{path}.{name}"].variable for v in layer.variables)
    same_after_reload(converted, tmp_path, *fixture.args())


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.norm(self.fc(x)))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer1(x))


def test_one_nested_model_per_module() -> None:
    module = settled(Stack())
    model = to_keras(module, (randn(2, 4),)).model
    assert [x.name for x in model.layers] == ["x", "layer1", "head"]
    block = model.get_layer("layer1").get_layer("0")
    assert isinstance(block, keras.Model)
    assert isinstance(block.get_layer("fc"), keras.layers.Dense)
    assert isinstance(block.get_layer("norm"), keras.layers.LayerNormalization)
    assert model.get_layer("layer1").get_layer("1") is not block
    np.testing.assert_array_equal(
        np.asarray(block.get_layer("fc").kernel), module.layer1[0].fc.weight.detach().numpy().T
    )
    assert block.get_layer("fc").kernel.path.endswith("fc/kernel")


# -------------------------------------------------------------------------------------------------------------- sharing
class Twice(nn.Module):
    """A block and a layer, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = Block(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.fc(self.block(self.fc(x)) * 2))


def test_a_module_called_twice_is_one_model_called_twice(tmp_path: Path) -> None:
    module, x = settled(Twice()), randn(3, 4)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    assert [layer.name for layer in converted.model.layers if isinstance(layer, keras.Model)] == ["block"]
    assert len(converted.model.get_layer("block")._inbound_nodes) == 2
    assert len(converted.model.get_layer("fc")._inbound_nodes) == 2
    assert len(converted.model.trainable_variables) == len(list(module.parameters()))
    model = same_after_reload(converted, tmp_path, x)
    assert len(model.trainable_variables) == len(list(module.parameters()))


class Sizes(nn.Module):
    """The same block on two shapes: two graphs, one set of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).mean((2, 3)) + self.block(nn.functional.avg_pool2d(x, 2)).mean((2, 3))


class Tied(nn.Module):
    """Embedding and head of one matrix; one norm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.first, self.second = Block(), Block()
        self.second.norm = self.first.norm
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.embed(ids))))


def test_a_tied_parameter_is_one_variable(tmp_path: Path) -> None:
    module, ids = settled(Tied()), torch.arange(6).reshape(2, 3)
    converted = to_keras(module, (ids,))
    assert_same(converted, module, ids)
    assert len(converted.model.trainable_variables) == len(list(module.parameters()))
    entries = {e.torch_name: e for e in converted.weights}
    ties = {
        "head.weight": "embed.weight",
        "second.norm.weight": "first.norm.weight",
        "second.norm.bias": "first.norm.bias",
    }
    for name, owner in ties.items():
        assert entries[name].tied_to == owner
        assert entries[name].variable is entries[owner].variable
    assert converted.pull().keys() == module.state_dict().keys()
    module.load_state_dict(converted.pull())
    changed = {n: t + 0.25 for n, t in module.state_dict().items()}
    converted.push({n: t for n, t in changed.items() if n not in ties.values()})  # the tied names alone will do
    for name, tensor in converted.pull().items():
        assert torch.equal(tensor, changed[name]), name
    model = same_after_reload(converted, tmp_path, ids)
    assert len(model.trainable_variables) == len(list(module.parameters()))
    assert load(tmp_path / "model.keras").pull().keys() == module.state_dict().keys()


def test_a_block_on_two_shapes_keeps_one_set_of_weights(tmp_path: Path) -> None:
    module, x = settled(Sizes()), randn(2, 2, 8, 8)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    assert len(converted.model.trainable_variables) == len(list(module.parameters()))
    same_after_reload(converted, tmp_path, x)


# ---------------------------------------------------------------------------------------------------------- deep graphs
class Chain(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.length // 3):
            x = torch.tanh(x * self.scale + i % 3)
        return x


@pytest.mark.slow
def test_a_chain_of_1500_ops_builds_saves_and_loads(tmp_path: Path) -> None:
    module, x = settled(Chain(1500)), randn(2, 3)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    models = [converted.model, *layers_of(converted.model, keras.Model)]
    assert len(models) > 4
    assert all(len(m.operations) <= LIMIT + 10 for m in models)
    assert [layer.name for layer in converted.model.layers if isinstance(layer, keras.Model)][:2] == [
        "part_0",
        "part_1",
    ]
    assert len(converted.model.trainable_variables) == 1
    same_after_reload(converted, tmp_path, x)


def test_a_long_level_is_cut_into_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import isomorph.convert.nesting as scopes

    monkeypatch.setattr(scopes.plan, "__defaults__", (20,))
    module, x = settled(Chain(60)), randn(2, 3)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    models = layers_of(converted.model, keras.Model)
    assert {m.name for m in models} >= {"part_0", "part_1", "part_2"}
    assert max(len(m.operations) for m in models) <= 24
    assert len(layers_of(converted.model, Weight)) == 1
    same_after_reload(converted, tmp_path, x)


# ----------------------------------------------------------------------------------------------------------- weight map
@pytest.mark.parametrize("name", ["resnet_basic", "gpt", "lstm_state", "frozen", "shared_layers"])
def test_every_location_leads_to_its_variable(name: str, tmp_path: Path) -> None:
    fixture = ZOO[name]
    converted = to_keras(fixture.build(), fixture.args(), fixture.kwargs(), fixture.dynamic)
    model = reloaded(converted, tmp_path)
    for entry in converted.weights:
        assert variable_at(converted.model, entry.location) is entry.variable
        again = variable_at(model, entry.location)
        assert entry.variable.path.endswith(again.path)  # Keras builds a loaded model without our name scopes
        np.testing.assert_array_equal(np.asarray(again), np.asarray(entry.variable))
    names = [e.torch_name for e in converted.weights]
    assert len(names) == len(set(names))
    covered = {id(e.variable) for e in converted.weights}
    seeds = ("seed_generator_state", "num_batches_tracked")
    assert [v.path for v in converted.model.variables if id(v) not in covered and not v.path.endswith(seeds)] == []


class Partly(nn.Module):
    """A frozen module, a module frozen in part, a parameter that no op reads."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.mixed, self.free = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.idle = nn.Parameter(torch.ones(3, 2))
        self.register_buffer("memory", torch.arange(3))
        self.frozen.requires_grad_(False)
        self.mixed.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.free(self.mixed(self.frozen(x)))


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    module, x = settled(Partly()), randn(2, 4)
    converted = to_keras(module, (x,))
    wanted = {n: p.requires_grad for n, p in module.named_parameters()}
    assert {e.torch_name: e.trainable for e in converted.weights if e.kind == "parameter"} == wanted
    same_after_reload(converted, tmp_path, x)
    for each in (converted, load(tmp_path / "model.keras")):
        trainable = {id(v) for v in each.model.trainable_variables}
        assert {e.torch_name: id(e.variable) in trainable for e in each.weights if e.kind == "parameter"} == wanted
        each.model.compile(keras.optimizers.SGD(0.1), "mse")
        before = each.pull()
        each.model.fit(x.numpy(), np.ones((2, 4)), verbose=0)
        after = each.pull()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert changed == {n for n, free in wanted.items() if free} - {"idle"}


def test_what_nobody_reads_has_a_place() -> None:
    module = settled(Partly())
    pulled = to_keras(module, (randn(2, 4),)).pull()
    assert pulled.keys() == module.state_dict().keys()
    assert torch.equal(pulled["idle"], module.idle)
    assert torch.equal(pulled["memory"], module.memory)


def test_a_model_of_stock_layers_needs_none_of_ours() -> None:
    module = settled(Stack())
    converted = to_keras(module, (randn(2, 4),))
    assert converted.report["needs_layers"] is False
    assert not any(isinstance(layer, (GraphLayer, Weight)) for layer in every_layer(converted.model))
    assert to_keras(settled(Chain(3)), (randn(2, 3),)).report["needs_layers"] is True

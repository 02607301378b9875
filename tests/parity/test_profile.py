"""The error of each module beside the original's own: found by path, by value, and where the models differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isomorph
from isomorph.parity import exam
from isomorph.parity.check import check
from isomorph.parity.explaining.profile import _labelled, _likely
from isomorph.parity.explaining.shelf import Shelf, placed
from isomorph.parity.runners.base import ModuleTrace
from isomorph.parity.runners.spec import ModelSpec, WorkerError
from isomorph.parity.verdict import ModuleProfile, Verdict

FLOAT32 = 1e-5  # more than rounding does to nets as small as these


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.act(self.fc(x))
        return out


class Net(nn.Module):
    """(b, 4) -> (b, 3): a linear layer, one block twice, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.block = Block()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.block(self.stem(x))))
        return out


MODULES = ["stem", "block.fc", "block.act", "block", "head", ""]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def example() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def port(net: Net, off: float = 0.0) -> keras.Model:
    """The same net by hand, with names of its own. off: added to one weight of the block."""
    given = keras.Input((4,))
    stem, block, head = keras.layers.Dense(6), keras.layers.Dense(6), keras.layers.Dense(3)
    x = stem(given)
    for _ in range(2):
        x = keras.layers.Add()([x, keras.layers.ReLU()(block(x))])
    model = keras.Model(given, head(x))
    for layer, linear in ((stem, net.stem), (block, net.block.fc), (head, net.head)):
        weight = linear.weight.detach().numpy().T.copy()
        weight[0, 0] += off if layer is block else 0.0
        layer.set_weights([weight, linear.bias.detach().numpy()])
    return model


def profiled(original: Any, converted: Any, inputs: Any = None, **more: Any) -> Verdict:
    return check(original, converted, inputs, modes=["eval"], examples=2, level="quick", profile=True, **more)


def by_path(verdict: Verdict) -> dict[str, ModuleProfile]:
    return {module.path: module for module in verdict.modules}


@pytest.fixture(scope="module")
def converted(net: Net, example: Tensor) -> Verdict:
    return profiled(net, isomorph.to_keras(net, (example,)), example)


def test_every_module_is_there_once_in_order_of_completion(converted: Verdict) -> None:
    assert converted.status == "PASS", converted.summary()
    assert [module.path for module in converted.modules] == MODULES
    assert [module.kind for module in converted.modules] == ["Linear", "Linear", "ReLU", "Block", "Linear", "Net"]
    assert by_path(converted)["block.fc"].parameters == ("block.fc.weight", "block.fc.bias")
    assert by_path(converted)["block"].parameters == ()
    assert "module profile" in converted.coverage["timings"]
    assert converted.to_dict()["modules"][0]["path"] == "stem"


def test_errors_are_those_of_float32_beside_the_original_s_own(converted: Verdict) -> None:
    for module in converted.modules:
        assert module.forward is not None, module
        assert module.forward_floor is not None, module
        assert 0 < module.forward < FLOAT32, module
        assert 0 < module.forward_floor < FLOAT32, module
    for path in ("stem", "block.fc", "block.act", "block"):
        module = by_path(converted)[path]
        assert module.gradient is not None, module
        assert module.gradient_floor is not None, module
        assert 0 < module.gradient < FLOAT32, module
        assert 0 < module.gradient_floor < FLOAT32, module
    assert by_path(converted)[""].gradient is None  # it was given


def test_counterparts_are_found_by_path(converted: Verdict) -> None:
    named = {module.path: module.counterpart for module in converted.modules}
    assert all(named[path] == path for path in ("stem", "block.fc", "block", "head"))


def test_the_floor_is_the_original_s_own_error(net: Net, example: Tensor, converted: Verdict) -> None:
    """Against a float64 copy made here, on other inputs: the same size of error, not the same error."""
    double = Net().double()
    double.load_state_dict(net.state_dict())
    apart = (net.stem(example).double() - double.stem(example.double())).detach().abs().max()
    floor = by_path(converted)["stem"].forward_floor
    assert floor is not None
    assert 0.02 < float(apart) / floor < 50


def test_without_paths_they_are_found_by_value(net: Net, example: Tensor) -> None:
    verdict = profiled(net, port(net), example)
    assert verdict.status == "PASS", verdict.summary()
    for module in verdict.modules:
        assert module.forward is not None, module
        assert module.forward < FLOAT32, module
        assert module.counterpart or not module.path, module
    assert "dense" in by_path(verdict)["stem"].counterpart
    assert (by_path(verdict)["stem"].gradient or 1) < FLOAT32


def test_a_wrong_weight_shows_where_it_is(net: Net, example: Tensor) -> None:
    verdict = profiled(net, port(net, 0.05), example, explain=False)
    assert verdict.status == "FAIL"
    found = by_path(verdict)
    assert (found["stem"].forward or 1) < FLOAT32
    for path in ("block.fc", "head", ""):
        assert (found[path].forward or 0) > 1e-3, found[path]
        assert (found[path].forward_floor or 1) < FLOAT32, found[path]
    assert (found["stem"].gradient or 0) > 1e-3
    assert (found["block.fc"].gradient or 1) > 0


def test_a_model_without_an_inside_shows_its_outputs_alone(net: Net, example: Tensor) -> None:
    def answer(x: Any) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    verdict = profiled(net, answer, example)
    assert verdict.status == "PASS", verdict.summary()
    assert any("nothing of its inside" in text for text in verdict.coverage["not_checked"])
    *parts, whole = verdict.modules
    assert all((part.forward, part.counterpart) == (None, "") and part.forward_floor for part in parts)
    assert whole.forward is not None
    assert whole.forward < FLOAT32


def test_it_is_not_measured_unless_asked_for(net: Net, example: Tensor) -> None:
    verdict = check(net, port(net), example, modes=["eval"], examples=1, level="quick")
    assert verdict.modules == ()
    assert "module profile" not in verdict.coverage["timings"]


@pytest.mark.parametrize("error", [RuntimeError("no trace\nof it"), WorkerError("it died")])
def test_a_profile_that_cannot_be_made_is_noted(
    net: Net, example: Tensor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(exam, "profile_modules", broken)
    verdict = profiled(net, port(net), example)
    assert (verdict.status, verdict.modules) == ("PASS", ())
    (said,) = [text for text in verdict.coverage["not_checked"] if text.startswith("the errors of the modules")]
    assert str(error).splitlines()[0] in said


def test_in_float64_the_original_has_no_error_of_its_own(net: Net, example: Tensor) -> None:
    double = Net().double().eval()
    double.load_state_dict(net.state_dict())
    verdict = profiled(double, isomorph.to_keras(double, (example.double(),)), example.double())
    assert verdict.status == "PASS", verdict.summary()
    assert all(module.forward is not None and module.forward < 1e-12 for module in verdict.modules)
    assert all(module.forward_floor is None for module in verdict.modules)


def test_a_layer_that_holds_an_activation_stands_for_what_it_holds(net: Net, example: Tensor) -> None:
    """The torch module that isomorph makes of it has the layer's path, and the activation apart: the path alone would
    give the linear part an error of 1."""
    given = keras.Input((4,))
    model = keras.Model(given, keras.layers.Dense(3)(keras.layers.Dense(6, activation="tanh", name="hidden")(given)))
    verdict = profiled(model, isomorph.to_torch(model))
    assert verdict.status == "PASS", verdict.summary()
    hidden = by_path(verdict)["hidden"]
    assert (hidden.forward or 1) < FLOAT32
    assert (hidden.gradient or 1) < FLOAT32
    assert hidden.counterpart.startswith("hidden")


@pytest.mark.slow
def test_it_crosses_into_worker_processes(net: Net, example: Tensor, tmp_path: Any) -> None:
    path = tmp_path / "port.keras"
    port(net).save(path)
    verdict = profiled(ModelSpec(net, example=(example,)), ModelSpec(str(path), isolate=True))
    assert verdict.status == "PASS", verdict.summary()
    assert all(module.forward is not None and module.forward < FLOAT32 for module in verdict.modules)


def test_by_likeness_an_array_stands_for_the_nearest_one_alone() -> None:
    """Of a layer that was fused into the next nothing is left: what is like it belongs to the next."""
    rng = np.random.default_rng(0)
    before = rng.normal(2.0, 1.0, 400)
    after = np.maximum(before, 0.0)
    shelf = Shelf()
    shelf.add(7, after + rng.normal(0.0, 1e-3, 400))
    assert _likely(shelf, {(0, 0): before}, set()) == {(0, 0): 7}
    assert _likely(shelf, {(0, 0): before, (1, 0): after, (2, 0): after}, set()) == {(1, 0): 7, (2, 0): 7}
    assert _likely(shelf, {(1, 0): after}, {7}) == {}
    assert _likely(shelf, {(1, 0): rng.normal(size=400)}, set()) == {}


def test_calls_that_are_not_alike_are_no_counterparts() -> None:
    call = ModuleTrace("a", "Linear", 0, (), (np.ones(2),))
    trace, there = (call, replace(call, call=1)), (replace(call, call=1), replace(call, outputs=()))
    assert list(_labelled(trace, there)) == [(1 << 16, (0, 0))]


def test_the_order_of_axes_is_told_by_a_sample() -> None:
    rng = np.random.default_rng(0)
    large = rng.normal(size=(2, 3, 64, 64))
    found = placed(large.transpose(0, 2, 3, 1).reshape(2, -1, 3) + 1e-4, large)
    assert found is not None
    assert np.allclose(found, large + 1e-4)
    assert placed(large[0], large) is None
    single = placed(np.array([3.0]), np.array(2.0))
    assert single is not None
    assert single.shape == ()

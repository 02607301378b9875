"""The weights go both ways, bit by bit, and a state dict that does not fit is refused whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.errors import WeightError
from isomorph.convert.ir import TensorType
from isomorph.convert.weights import ParamRef, Transform, numpy_of
from tests.convert.nets import assert_same, on_keras, randn, settled


class Everything(nn.Module):
    """Every kind of tensor a state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.lstm = nn.LSTM(3, 4, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("counts", torch.arange(5))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("bytes", torch.tensor([0, 255], dtype=torch.uint8))
        self.register_buffer("table", torch.linspace(0, 1, 6).reshape(2, 3))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.up(self.conv(x))).flatten(2).permute(2, 0, 1)
        y = self.lstm(y * self.scratch)[0].transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0] * self.scalar
        return y * self.flags[0] + self.counts.sum() + self.table.sum() + self.bytes.max()


def filled(like: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Other values of the same dtypes: every float bit pattern but NaN's, every int."""
    generator = torch.Generator().manual_seed(seed)

    def one(t: Tensor) -> Tensor:
        if t.dtype == torch.bool:
            return ~t
        if not t.is_floating_point():
            return torch.randint(0, 200, t.shape, generator=generator).to(t.dtype)
        values = torch.randn(t.shape, generator=generator, dtype=torch.float64) * 10.0 ** torch.randint(
            -6, 5, t.shape, generator=generator
        )
        return values.to(t.dtype)

    return {n: one(t) for n, t in like.items()}


def assert_identical(pulled: dict[str, Any], state: dict[str, Tensor]) -> None:
    assert pulled.keys() == state.keys()
    for name, tensor in state.items():
        got = pulled[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(got.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_push_then_pull_is_bit_identical(dtype: torch.dtype, tmp_path: Path) -> None:
    module = Everything().to(dtype).eval()
    converted = to_keras(module, (torch.zeros(2, 2, 4, 4, dtype=dtype),), mode="eval")
    assert_identical(converted.pull(), module.state_dict())
    state = filled(module.state_dict())
    converted.push(state)
    assert_identical(converted.pull(), state)
    converted.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert_identical(again.pull(), state)
    again.push(module.state_dict())
    assert_identical(again.pull(), module.state_dict())
    module.load_state_dict(again.pull())


def test_push_changes_what_the_model_computes() -> None:
    module, x = settled(Everything()), randn(2, 2, 4, 4)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    state = {n: t * 0.5 if t.is_floating_point() else t for n, t in module.state_dict().items()}
    before = on_keras(converted, x)[0]
    converted.push(state)
    assert np.abs(on_keras(converted, x)[0] - before).max() > 1e-3
    module.load_state_dict(state)
    assert_same(converted, module, x)


def test_special_values_survive() -> None:
    module = nn.Linear(3, 2)
    converted = to_keras(module, (torch.zeros(2, 3),))
    state = {
        "weight": torch.tensor([[0.0, -0.0, float("inf")], [1e-45, -float("inf"), 3.4e38]]),
        "bias": torch.tensor([float("nan"), 1.0]),
    }
    converted.push(state)
    assert_identical(converted.pull(), state)


def test_a_state_dict_that_does_not_fit_changes_nothing_and_says_all() -> None:
    module = settled(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    converted = to_keras(module, (randn(2, 4),))
    state = filled(module.state_dict())
    del state["2.bias"], state["1.running_mean"]
    state["0.weight"] = state["0.weight"].T.contiguous()
    state["1.weight"] = torch.zeros(())
    state["3.weight"] = torch.zeros(2)
    with pytest.raises(WeightError) as refused:
        converted.push(state)
    text = str(refused.value)
    for piece in (
        "2.bias is missing",
        "1.running_mean is missing",
        "0.weight has shape [4, 3], the model wants [3, 4]",
        "1.weight has shape [], the model wants [3]",
        "3.weight is not a weight of the model",
    ):
        assert piece in text
    assert text.count(";") == 4
    assert refused.value.exit_code == 2
    assert_identical(converted.pull(), module.state_dict())


def test_a_long_list_of_problems_is_cut() -> None:
    module = nn.Sequential(*[nn.Linear(2, 2) for _ in range(15)])
    with pytest.raises(WeightError, match="and 10 more"):
        to_keras(module, (torch.zeros(2, 2),)).push({})


def test_tied_tensors_that_differ_are_refused() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    converted = to_keras(module, (torch.zeros(2, 3),))
    state = {n: t.clone() for n, t in module.state_dict().items()}
    converted.push(state)
    state["2.weight"] += 1
    with pytest.raises(WeightError, match=r"2.weight .*0.weight"):
        converted.push(state)


def test_a_buffer_outside_of_the_state_dict_is_not_pulled_but_may_be_pushed() -> None:
    module = settled(Everything())
    converted = to_keras(module, (randn(2, 2, 4, 4),), mode="eval")
    assert "scratch" not in converted.pull()
    assert "scratch" in {e.torch_name for e in converted.weights}
    converted.push({**module.state_dict(), "scratch": torch.full((3,), 2.0)})
    module.scratch.fill_(2.0)
    assert_same(converted, module, randn(2, 2, 4, 4))


def test_numpy_and_parameters_are_pushed_too() -> None:
    module = nn.Linear(3, 2)
    converted = to_keras(module, (torch.zeros(2, 3),))
    converted.push({"weight": np.ones((2, 3)), "bias": nn.Parameter(torch.ones(2))})
    assert float(converted.pull()["weight"].sum()) == 6


# ----------------------------------------------------------------------------------------------------------- transforms
@st.composite
def transforms(draw: Any) -> tuple[tuple[int, ...], Transform]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    ref = ParamRef("w", TensorType(shape, "float32"))
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            ref = ref.transposed(*draw(st.permutations(range(len(ref.shape)))))
        else:
            size = int(np.prod(ref.shape))
            first = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            ref = ref.reshaped(first, size // first)
    return shape, ref.transform


@settings(max_examples=100, deadline=None)
@given(transforms())
def test_a_transform_moves_every_element_and_back(case: tuple[tuple[int, ...], Transform]) -> None:
    shape, transform = case
    array = np.arange(int(np.prod(shape))).reshape(shape)
    there = transform.to_keras(array)
    assert sorted(there.ravel()) == sorted(array.ravel())
    np.testing.assert_array_equal(transform.to_torch(there), array)
    assert Transform.from_data(transform.to_data()) == transform


def test_numpy_of_every_kind() -> None:
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    assert numpy_of(half).dtype.name == "bfloat16"
    assert numpy_of(half).tolist() == [1.5, -2.0]
    assert numpy_of(keras.Variable([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert numpy_of(torch.arange(6).reshape(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert numpy_of(torch.tensor(3, dtype=torch.bfloat16)).shape == ()


# --------------------------------------------------------------------------------------------------------------- dtypes
class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.fc = (
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.Linear(4, 3),
        )
        self.scale = nn.Parameter(torch.tensor([0.5, 1.5, 2.5, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale + 0.1)), 1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 3e-2), ("float16", 5e-3)]
)
def test_a_conversion_to_another_dtype(dtype: str, tolerance: float, tmp_path: Path) -> None:
    module, x = settled(Small()).float(), randn(2, 2, 5, 5).float()
    converted = to_keras(module, (x,), dtype=dtype)
    assert {p.dtype for p in [*converted.inputs, *converted.outputs]} == {dtype}
    assert {str(v.dtype) for v in converted.model.variables if "float" in str(v.dtype)} == {dtype}
    wanted = module.double()(x.double()).detach().numpy()
    own = getattr(torch, dtype)
    for model in (converted.model, _reload(converted, tmp_path)):
        result = model(keras.ops.cast(converted.inputs[0].to_keras(x.numpy()), dtype))
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        np.testing.assert_allclose(
            np.asarray(keras.ops.cast(result, "float64")), wanted, rtol=tolerance, atol=tolerance
        )
        np.asarray(
            keras.ops.cast(
                model(keras.ops.cast(converted.inputs[0].to_keras(x.numpy()), dtype), training=True), "float64"
            )
        )
    assert {t.dtype for t in converted.pull().values() if t.is_floating_point()} == {own}


def _reload(converted: Any, folder: Path) -> Any:
    converted.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def test_with_dtype_keeps_the_weights_of_now() -> None:
    module, x = settled(Small()).float(), randn(2, 2, 5, 5).float()
    converted = to_keras(module, (x,))
    changed = filled(module.state_dict(), 3)
    changed["norm.running_var"] = changed["norm.running_var"].abs()
    converted.push(changed)
    wide = converted.with_dtype("float64")
    module.load_state_dict(changed)
    assert_same(wide, module.double(), x.double())
    assert {p.dtype for p in wide.inputs} == {"float64"}
    assert converted.inputs[0].dtype == "float32"


def test_a_loaded_conversion_can_be_cast_to_float64(tmp_path: Path) -> None:
    converted = to_keras(nn.Linear(2, 2), (torch.zeros(2, 2),))
    converted.save(tmp_path / "m.keras")
    wide = load(tmp_path / "m.keras").with_dtype("float64")
    for entry, other in zip(converted.weights, wide.weights, strict=True):
        assert other.variable.dtype == "float64"
        assert np.array_equal(np.asarray(entry.variable), np.asarray(other.variable))


@pytest.mark.parametrize("name", ["resnet_basic", "lstm_state", "batch_norm_cumulative"])
def test_a_loaded_conversion_is_the_conversion(name: str, tmp_path: Path) -> None:
    fixture = ZOO[name]
    converted = to_keras(fixture.build(), fixture.args(), fixture.kwargs(), fixture.dynamic)
    converted.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    for field in ("inputs", "outputs", "output_structure", "mode", "layout", "batchnorm", "bounds"):
        assert getattr(again, field) == getattr(converted, field), field
    plain = [
        (e.torch_name, e.kind, e.trainable, e.tied_to, e.transform, e.location, e.dtype) for e in converted.weights
    ]
    assert [
        (e.torch_name, e.kind, e.trainable, e.tied_to, e.transform, e.location, e.dtype) for e in again.weights
    ] == plain

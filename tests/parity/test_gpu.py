"""Models on a GPU: the settings under which numbers can be compared, and the comparisons. What needs the device bears
the mark `gpu`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from isomorph.convert.errors import UsageError
from isomorph.parity.modes.random_mode import RandomTape
from isomorph.parity.runners import device
from isomorph.parity.runners.base import Recorded, Request, Response, Runner
from isomorph.parity.runners.open import open_runner
from isomorph.parity.runners.spec import ModelSpec
from scripts.package import ROOT

SCRIPT = [sys.executable, str(ROOT / "scripts" / "gpu_parity.py")]


class Net(torch.nn.Module):
    """Convolution, batch statistics, dropout, a recurrent layer with dropout of its own, attention; a plain tensor
    attribute, which `Module.to` does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.4)
        self.rnn = torch.nn.LSTM(4, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.attention = torch.nn.MultiheadAttention(5, 1, dropout=0.2, batch_first=True)
        self.scale = torch.linspace(0.5, 2.0, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
        x = self.rnn(x)[0]
        return self.attention(x, x, x, need_weights=False)[0] * self.scale


def spec(**options: Any) -> ModelSpec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return ModelSpec(Net(), example=(torch.randn(2, 2, 4, 3),), **options)


def both(mode: str, wide: bool = False) -> tuple[Response, Response, Runner]:
    """The CPU's response, the GPU's to the same draws and cotangents, and the runner on the GPU."""
    here, there = open_runner(spec()), open_runner(spec(device="cuda"))
    runners = [r.runner.to_float64() if wide else r.runner for r in (here, there)]
    assert here.example is not None
    request = Request(here.example, mode, seed=3)
    expected = here.runner.respond(request)
    request = replace(request, draws=expected.draws, cotangents=expected.cotangents)
    return runners[0].respond(request), runners[1].respond(request), there.runner


def arrays(response: Response) -> Iterator[tuple[str, np.ndarray]]:
    for quantity, found in response.groups().items():
        for name, array in found.items():
            yield f"{quantity} {name}", array


# --- without one --------------------------------------------------------------------------------------------------


def test_the_settings_of_a_gpu_are_made_and_put_back() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def state() -> list[bool]:
        return [
            matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark,
            cudnn.enabled, torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cuda.flash_sdp_enabled(),
        ]  # fmt: skip

    matmul.allow_tf32, before = True, state()[1:]
    try:
        with device.torch_settings("cpu"):
            assert state() == [True, *before]
        with device.torch_settings("cuda:1", recurrent=True):
            assert state() == [False, False, False, False, True, False, False, True, True, False]
        with device.torch_settings("cuda"):
            assert cudnn.enabled
        with pytest.raises(ZeroDivisionError), device.torch_settings("cuda"):
            raise ZeroDivisionError
        assert state() == [True, *before]
    finally:
        matmul.allow_tf32 = False


def test_a_mask_drawn_in_one_kernel_replays_as_a_mask_drawn_by_itself() -> None:
    """CUDA draws dropout as native_dropout, the CPU as bernoulli_."""
    x = torch.arange(1.0, 7.0)
    mask = np.array([1, 0, 1, 1, 0, 0], bool)
    with RandomTape([Recorded("aten.bernoulli_.float", mask.astype(np.float32))]):
        fused, kept = torch.native_dropout(x, 0.5, True)
    with RandomTape([Recorded("aten.native_dropout.default", mask)]):
        plain = torch.nn.functional.dropout(x, 0.5, True)
    np.testing.assert_array_equal(fused, 2 * x * mask)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_array_equal(plain, fused)


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "-1")}
    return subprocess.run([*SCRIPT, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_matrix_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each framework, and the end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    run = run_script("--sides", "torch", "tensorflow")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "torch: sees no GPU, only cpu",
        "tensorflow: sees no GPU, only CPU:0",
        "no framework sees a GPU: nothing was compared (--cpu runs the same matrix on the CPU)",
    ]


@pytest.mark.slow
def test_the_matrix_on_the_cpu() -> None:
    run = run_script("--cpu", "--level", "quick", "--models", "gather_scatter", "--sides", "torch", "tensorflow")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 of 2 passed" in run.stdout
    rows = [line for line in run.stdout.splitlines() if "gather_scatter" in line]
    assert [("PASS" in row, side in row) for row, side in zip(rows, ("torch", "tensorflow"), strict=True)] == [
        (True, True)
    ] * 2


def test_a_model_that_the_zoo_has_not() -> None:
    run = run_script("--cpu", "--models", "nothing_of_that_name")
    assert run.returncode == 2
    assert "gpu_parity: error: fixtures/zoo has no model nothing_of_that_name" in run.stderr


# --- with one -----------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_device_and_its_settings_are_recorded() -> None:
    about = open_runner(spec(device="cuda")).runner.about()
    assert about.device == "cuda"
    assert about.environment["gpu"] == torch.cuda.get_device_name(0)
    assert about.environment["tf32"] == "off"
    assert about.environment["reduced_precision_reduction"] == "off"


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-10), (False, 1e-4)])
def test_a_module_answers_on_the_gpu_as_on_the_cpu(mode: str, wide: bool, tolerance: float) -> None:
    """Dropout masks drawn on the CPU are replayed on the GPU; recurrent layers have their gradients in eval mode."""
    expected, got, _ = both(mode, wide)
    names = [name for name, _ in arrays(expected)]
    assert names == [name for name, _ in arrays(got)]
    assert any(name.startswith("parameter gradient rnn") for name in names)
    for (name, left), (_, right) in zip(arrays(expected), arrays(got), strict=True):
        np.testing.assert_allclose(right, left, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.gpu
def test_draws_of_the_gpu_are_recorded_and_replayed() -> None:
    found = open_runner(spec(device="cuda"))
    assert found.example is not None
    request = Request(found.example, "train", seed=3)
    first = found.runner.respond(request)
    assert len(first.draws) >= 3
    other = found.runner.respond(replace(request, seed=4))
    assert not np.array_equal(first.outputs[0], other.outputs[0])
    again = found.runner.respond(replace(request, seed=4, draws=first.draws, cotangents=first.cotangents))
    np.testing.assert_array_equal(first.outputs[0], again.outputs[0])


@pytest.mark.gpu
def test_tf32_is_off_though_the_user_has_it_on() -> None:
    """A product of 1024 terms in TF32 is wrong by 1e-3, in float32 by 1e-6."""
    linear = torch.nn.Linear(1024, 1024, bias=False)
    x = torch.randn(64, 1024)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        found = open_runner(ModelSpec(linear, example=(x,), device="cuda")).runner
        got = found.respond(Request((x.numpy(),), "eval", False)).outputs[0]
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    exact = x.double().numpy() @ linear.weight.detach().double().numpy().T
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 1e-5


@pytest.mark.gpu
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"device cuda:99 is not there: torch sees \d+ GPU"):
        open_runner(spec(device="cuda:99"))


@pytest.mark.gpu
def test_a_worker_on_the_gpu() -> None:
    """It sees one GPU, answers as this process does, and says what it runs on."""
    here, there = open_runner(spec(device="cuda")), open_runner(spec(device="cuda", isolate=True))
    try:
        request = Request(here.example or (), "eval", seed=1)
        for (name, left), (_, right) in zip(
            arrays(here.runner.respond(request)), arrays(there.runner.respond(request)), strict=True
        ):
            np.testing.assert_allclose(right, left, rtol=1e-5, atol=1e-6, err_msg=name)
        about = there.runner.about()
        assert about.device == "cuda"
        assert about.environment["NVIDIA_TF32_OVERRIDE"] == "0"
        assert about.environment["gpu"] == torch.cuda.get_device_name(0)
    finally:
        there.runner.close()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("side", ["torch", "tensorflow", "jax"])
def test_the_matrix_on_the_gpu(side: str) -> None:
    if importlib.util.find_spec(side) is None:
        pytest.skip(f"{side} is not installed")
    run = run_script("--level", "quick", "--models", "resnet_basic", "lstm", "--sides", side)
    assert run.returncode == 0, run.stdout + run.stderr
    if "no framework sees a GPU" in run.stdout:
        pytest.skip(run.stdout.splitlines()[0])
    assert "2 of 2 passed" in run.stdout

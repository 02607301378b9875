"""A failure is written down whole, and fails the same way elsewhere; with the right model in its place it passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isomorph
from isomorph.convert.errors import UsageError
from isomorph.parity.check import check
from isomorph.parity.explaining.reproduce import replay, reproduce
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.verdict import Verdict


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    module = Net()
    with torch.no_grad():
        module.norm.running_var.uniform_(0.01, 2.0)
    return module


EXAMPLE = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(1))


def wrong(module: nn.Module) -> Any:
    conversion = isomorph.to_keras(module, (EXAMPLE,))
    make = conversion.with_dtype

    def changed(dtype: str) -> Any:
        other = make(dtype)
        other.model.get_layer("norm").epsilon = 1e-2
        return other

    conversion.model.get_layer("norm").epsilon = 1e-2
    conversion.with_dtype = changed  # type: ignore[method-assign]
    return conversion


@pytest.fixture(scope="module")
def failure() -> tuple[nn.Module, Any, Verdict]:
    module = net()
    conversion = wrong(module)
    verdict = check(module, conversion, (EXAMPLE,), level="quick")
    assert verdict.status == "FAIL"
    return module, conversion, verdict


@pytest.fixture(scope="module")
def folder(failure: tuple[nn.Module, Any, Verdict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, conversion, verdict = failure
    return reproduce(verdict, module, conversion, tmp_path_factory.mktemp("r") / "failure")


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_reproduce.py"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_folder_is_whole(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "converted.keras", "inputs.safetensors", "original.pt2", "test_reproduce.py", "versions.json",
    ]  # fmt: skip
    facts = json.loads((folder / "versions.json").read_text())
    assert facts["mismatch"]["kind"] == "value"
    assert facts["located"][0]["module"] == "norm"
    assert facts["environment"]["torch"]
    assert "norm" in (folder / "README.md").read_text()


def test_it_shows_the_same_difference(failure: tuple[nn.Module, Any, Verdict], folder: Path) -> None:
    example = failure[2].counterexample
    assert example is not None
    found = replay(folder)
    assert (example.kind, example.quantity, example.name) in {(m.kind, m.quantity, m.name) for m in found}


@pytest.mark.slow
def test_pytest_fails_on_it_the_same_way_and_passes_with_the_right_model(folder: Path) -> None:
    before = run(folder)
    assert before.returncode == 1, before.stdout + before.stderr
    assert "2 failed" in before.stdout
    assert "output 0: value (eval float64)" in before.stdout
    held = (folder / "converted.keras").read_bytes()
    try:
        (folder / "converted.keras").unlink()
        isomorph.to_keras(net(), (EXAMPLE,)).save(folder / "converted.keras")
        after = run(folder)
        assert after.returncode == 0, after.stdout + after.stderr
        assert "2 passed" in after.stdout
    finally:
        (folder / "converted.keras").write_bytes(held)


def test_files_are_copied(failure: tuple[nn.Module, Any, Verdict], folder: Path, tmp_path: Path) -> None:
    verdict = failure[2]
    again = reproduce(verdict, str(folder / "original.pt2"), str(folder / "converted.keras"), tmp_path / "again")
    for name in ("original.pt2", "converted.keras"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert {(m.kind, m.name) for m in replay(again)} == {(m.kind, m.name) for m in replay(folder)}


def test_named_code_stays_a_name(failure: tuple[nn.Module, Any, Verdict], folder: Path, tmp_path: Path) -> None:
    verdict = failure[2]
    written = reproduce(verdict, "some.package:make", ModelSpec(str(folder / "converted.keras")), tmp_path / "named")
    facts = json.loads((written / "versions.json").read_text())
    assert facts["original"] == {"backend": None, "copied": False, "target": "some.package:make"}
    assert "'some.package:make'" in (written / "test_reproduce.py").read_text()
    assert "needs the code of some.package:make" in (written / "README.md").read_text()


def test_an_existing_folder_is_left_alone(failure: tuple[nn.Module, Any, Verdict], tmp_path: Path) -> None:
    module, conversion, verdict = failure
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        reproduce(verdict, module, conversion, tmp_path / "mine")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "note"]


def test_nothing_is_left_behind_where_it_cannot_be_written(
    failure: tuple[nn.Module, Any, Verdict], tmp_path: Path
) -> None:
    module, _, verdict = failure
    with pytest.raises(UsageError, match="cannot be written down"):
        reproduce(verdict, module, lambda x: np.asarray(x), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="only a failure"):
        reproduce(replace(verdict, status="PASS"), module, None, tmp_path / "out")
    with pytest.raises(UsageError, match="does not exist"):
        reproduce(verdict, module, None, tmp_path / "no" / "out")
    with pytest.raises(UsageError, match="holds no reproduction"):
        replay(tmp_path)

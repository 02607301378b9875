"""isomorph check A B from end to end: verdicts, exit codes, what is written, and what wrong input gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run

Command = Callable[..., Run]

MODELS = """
import os
import numpy as np
import torch
from torch import nn

W = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")

class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.norm(torch.relu(self.first(x))))

class Wrong(Mlp):
    def __init__(self):
        super().__init__()
        self.norm.eps = 1e-3

class Silent(nn.Module):
    def forward(self, x):
        return x * 0

def matmul():
    class Times(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.from_numpy(W))
        def forward(self, x):
            return x @ self.w
    return Times()

def product(x):
    return x @ W.astype(x.dtype)

def dies(x):
    os._exit(9)
"""
X = ("--input", "x=float32[b,3]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    (path / "check_models.py").write_text(MODELS)
    return path


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def keras_file(folder: Path) -> Path:
    from isomorph.parity.cli import main

    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["convert", "check_models:Mlp", *X, "-o", "mlp.keras", "--verify", "none", "-q"]) == 0
    finally:
        os.chdir(here)
    return folder / "mlp.keras"


def test_a_module_and_its_saved_conversion_are_the_same_model(isomorph: Command, keras_file: Path) -> None:
    run = isomorph("check", "check_models:Mlp", keras_file, *X, "--level", "quick", "--json", "-")
    assert run.code == 0, run.out
    found = run.document
    assert found["status"] == "PASS"
    assert found["exit_code"] == 0
    assert {c["stage"] for c in found["checks"]} == {"structure", "precision"}
    assert found["coverage"]["parameters"]["compared"] == [
        "first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "second.bias",
    ]  # fmt: skip


def test_the_page_a_person_reads(isomorph: Command, keras_file: Path) -> None:
    run = isomorph("check", "check_models:Mlp", keras_file, *X, "--level", "quick")
    assert run.code == 0
    assert run.out.startswith("PASS")
    assert "parameter gradient" in run.out
    assert "gradients compared of 6 of 6 parameters" in run.out


def test_a_failure_is_shrunk_located_explained_and_written(isomorph: Command, keras_file: Path, tmp_path: Path) -> None:
    report, folder = tmp_path / "verdict.json", tmp_path / "reproducer"
    run = isomorph("check", "check_models:Wrong", keras_file, *X, "--json", report, "--reproduce", folder)
    assert run.code == 1, run.out
    assert run.out.startswith("FAIL")
    found = json.loads(report.read_text())
    assert found["schema"] == "isomorph.verdict/1"
    assert found["exit_code"] == 1
    assert found["counterexample"]["inputs"]["x"]["shape"] == [1, 3]
    assert found["located"][0]["module"] == "norm"
    assert any("epsilon" in cause for cause in found["located"][0]["causes"])
    assert (folder / "test_reproduce.py").is_file()


def test_a_function_on_arrays_is_compared_forward_only(isomorph: Command) -> None:
    run = isomorph("check", "check_models:matmul", "check_models:product", *X, "--json", "-")
    assert run.code == 0, run.out
    assert any(text.startswith("gradients: ") for text in run.document["coverage"]["not_checked"])
    assert not any("gradient" in check["quantity"] for check in run.document["checks"])


def test_a_model_that_shows_nothing_is_not_passed(isomorph: Command) -> None:
    run = isomorph("check", "check_models:Silent", "check_models:Silent", *X, "--level", "quick", "--json", "-")
    assert run.code == 5
    assert run.document["status"] == "NOTHING_COMPARED"


def test_a_worker_that_dies_is_an_error_with_its_last_words(isomorph: Command) -> None:
    run = isomorph("check", "check_models:matmul", "check_models:dies", *X, "--isolate", "--level", "quick",
                   "--json", "-")  # fmt: skip
    assert run.code == 4, run.out
    assert run.document["status"] == "ERROR"
    assert "worker" in run.document["coverage"]["reason"]


WRONG = {
    "no file": (("missing.keras", *X), "missing.keras"),
    "no such module": (("nowhere:thing", *X), "nowhere"),
    "unknown format": (("check_models.py", *X), "check_models.py"),
    "weights, not a model": (("m.safetensors", *X), "m.safetensors"),
    "input grammar": (("check_models:Mlp", "--input", "x=float32"), "--input"),
    "shapes do not fit": (("check_models:Mlp", "--input", "x=float32[b,5]"), "5"),
    "contradicting inputs": (("check_models:Mlp", *X, "--input", "x=float32[b,4]"), "x"),
    "no such input": (("check_models:Mlp", "--input", "y=float32[b,3]"), "y"),
    "tolerance NaN": (("check_models:Mlp", *X, "--tolerance", "int8=nan"), "int8"),
    "tolerance negative": (("check_models:Mlp", *X, "--tolerance", "int8=-1"), "int8"),
    "tolerance of nothing": (("check_models:Mlp", *X, "--tolerance", "0.1"), "KIND=VALUE"),
    "tolerance of what": (("check_models:Mlp", *X, "--tolerance", "int7=0.1"), "int7"),
    "budget": (("check_models:Mlp", *X, "--budget", "0"), "budget"),
    "budget NaN": (("check_models:Mlp", *X, "--budget", "nan"), "budget"),
    "examples": (("check_models:Mlp", *X, "--examples", "0"), "examples"),
    "device": (("check_models:Mlp", *X, "--device", "cuda"), "cuda"),
    "unknown device": (("check_models:Mlp", *X, "--device", "abacus"), "abacus"),
    "backend": (("check_models:Mlp", *X, "--backend-b", "theano"), "theano"),
    "interpreter": (("check_models:Mlp", *X, "--python-b", "/no/such/python"), "/no/such/python"),
    "report nowhere": (("check_models:Mlp", *X, "--json", "no/such/folder/v.json"), "folder"),
    "seed": (("check_models:Mlp", *X, "--seed", "-1"), "seed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(isomorph: Command, name: str) -> None:
    (second, *options), said = WRONG[name]
    run = isomorph("check", "check_models:Mlp", second, *options)
    assert run.code == 2, (run.out, run.err)
    assert said in run.error


def test_an_existing_folder_is_not_written_into(isomorph: Command, tmp_path: Path) -> None:
    run = isomorph("check", "check_models:Mlp", "check_models:Wrong", *X, "--reproduce", tmp_path)
    assert run.code == 2
    assert "exists" in run.error


def test_the_json_file_says_an_error_too(isomorph: Command, tmp_path: Path) -> None:
    report = tmp_path / "v.json"
    assert isomorph("check", "check_models:Mlp", "missing.keras", *X, "--json", report).code == 2
    assert json.loads(report.read_text())["error"]["exit_code"] == 2


def test_a_failure_is_kept_and_replayed_first(isomorph: Command, keras_file: Path, tmp_path: Path) -> None:
    arguments = ("check", "check_models:Wrong", keras_file, *X, "--database", tmp_path / "db", "--json", "-")
    first = isomorph(*arguments).document
    again = isomorph(*arguments).document
    assert first["counterexample"]["case"] == again["coverage"]["cases"][0]["case"]

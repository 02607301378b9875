"""isomorph check of one trained net against the files that production runs: .keras, SavedModel, LiteRT, int8 LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Run

Command = Callable[..., Run]
NET = ("fixtures.digits.net:build", "--weights", "fixtures/digits/digits.safetensors")
RANGE = ("--input", "x=float32[b,1,8,8]:0..1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    import isomorph
    from isomorph.parity.cli import main

    folder = tmp_path_factory.mktemp("digits")
    keras_file = folder / "digits.keras"
    assert main(["convert", *NET, "-o", str(keras_file), "--verify", "none", "-q"]) == 0
    model = isomorph.load(keras_file).model
    model.export(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "float.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = np.random.default_rng(0)
    converter.representative_dataset = lambda: ([rng.random((1, 8, 8, 1), np.float32)] for _ in range(50))
    (folder / "int8.tflite").write_bytes(converter.convert())
    kernel = next(v for v in model.trainable_variables if v.ndim == 4)
    kernel.assign(np.flip(np.asarray(kernel), 0))
    model.export(str(folder / "flipped"), verbose=False)
    return folder


@pytest.mark.parametrize("name", ["digits.keras", "saved", "float.tflite", "int8.tflite"])
def test_each_file_is_the_net(isomorph: Command, files: Path, name: str) -> None:
    run = isomorph("check", NET[0], files / name, *NET[1:], *RANGE, "--json", "-")
    assert run.code == 0, run.out
    coverage = run.document["coverage"]
    assert sorted(coverage["dims"]["b"])[:2] == [1, 2]
    gradients = {"digits.keras": 14, "saved": 14}.get(name, 0)
    assert len(coverage["parameters"]["compared"]) == gradients
    assert any(text.startswith("gradients: ") for text in coverage["not_checked"]) is (gradients == 0)


def test_a_quantised_file_beyond_its_range_fails_and_says_what_to_do(isomorph: Command, files: Path) -> None:
    run = isomorph("check", NET[0], files / "int8.tflite", *NET[1:], "--json", "-")
    assert run.code == 1
    assert any("--input" in text for text in run.document["coverage"]["warnings"])


def test_a_tighter_budget_is_held(isomorph: Command, files: Path) -> None:
    run = isomorph(
        "check", NET[0], files / "int8.tflite", *NET[1:], *RANGE, "--tolerance", "int8=0.0001", "--json", "-"
    )
    assert run.code == 1
    assert run.document["mismatches"][0]["kind"] == "precision"


def test_a_flipped_kernel_in_a_saved_model_is_found(isomorph: Command, files: Path) -> None:
    run = isomorph("check", NET[0], files / "flipped", *NET[1:], *RANGE, "--json", "-")
    assert run.code == 1
    assert run.document["counterexample"]["inputs"]["x"]["shape"][0] == 1

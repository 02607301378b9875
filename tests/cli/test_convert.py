"""isomorph convert and isomorph ops SOURCE from end to end, on small models; and what is left when they fail."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .conftest import Run

Command = Callable[..., Run]

MODELS = """
import torch
from torch import nn

class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

@torch.library.custom_op("isomorph_test::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()

@mystery.register_fake
def _(x):
    return torch.empty_like(x)

class Inner(nn.Module):
    def forward(self, x):
        return mystery(x)

class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.linear = Inner(), nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(self.linear(self.inner(x)))
"""
X = ("--input", "x=float32[b,3]")
MLP = ("convert", "cli_models:Mlp", *X, "-o", "m.keras")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    (path / "cli_models.py").write_text(MODELS)
    return path


@pytest.fixture(autouse=True)
def _elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own; the models are imported once, as a custom op registers only once."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)


def test_convert_verify_write(isomorph: Command) -> None:
    import keras

    run = isomorph(*MLP, "--json", "--report", "r.json", "--seed", "3")
    document = run.document
    assert (run.code, run.err) == (0, "")
    assert json.loads(Path("r.json").read_text()) == document
    assert sorted(p.name for p in Path().iterdir()) == ["m.keras", "r.json"]
    assert (document["status"], document["exit_code"], document["schema"]) == ("PASS", 0, "isomorph.convert/1")
    assert document["options"]["seed"] == document["verdict"]["seed"] == 3
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "dims": ["b", 3], "permutation": None}]
    assert document["output"]["bytes"] == Path("m.keras").stat().st_size
    compared = {check["quantity"] for check in document["verdict"]["checks"] if check["equal"]}
    assert compared == {"output", "input gradient", "parameter gradient", "parameter"}
    assert {"load", "capture", "emit", "verify", "write"} <= set(document["seconds"])

    with zipfile.ZipFile("m.keras") as archive:
        assert "isomorph.json" in archive.namelist()
    torch.manual_seed(3)
    from cli_models import Mlp

    module, x = Mlp(), torch.randn(6, 3)
    got = np.asarray(keras.models.load_model("m.keras")(x.numpy()))
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_a_person_reads(isomorph: Command) -> None:
    run = isomorph(*MLP, "--verify", "quick")
    lines = run.out.splitlines()
    assert run.code == 0
    assert lines[0].startswith("wrote m.keras (")
    assert any("x float32 (b, 3)" in line for line in lines)
    assert any("100% native, 0 transposes left" in line for line in lines)
    assert any(line.startswith("PASS: compared ") for line in lines)


def test_quiet(isomorph: Command) -> None:
    run = isomorph(*MLP, "-q", "--verify", "none")
    assert (run.code, run.out, run.err) == (0, "", "")
    assert Path("m.keras").is_file()


def test_not_verified_is_said(isomorph: Command) -> None:
    run = isomorph(*MLP, "--verify", "none", "--json")
    assert (run.code, run.document["status"], run.document["verdict"]) == (0, "NOT_VERIFIED", None)
    assert "not verified (--verify none)" in isomorph(*MLP, "--verify", "none").out


def test_the_same_command_gives_the_same_bytes(isomorph: Command) -> None:
    import keras

    # Keras numbers the ops of a process; the command is a process of its own.
    keras.utils.clear_session()
    first = isomorph(*MLP, "--verify", "none", "--json").document["output"]
    keras.utils.clear_session()
    assert isomorph(*MLP, "--verify", "none", "--json").document["output"] == first


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dtype(dtype: str, isomorph: Command) -> None:
    import keras

    run = isomorph(*MLP, "--dtype", dtype, "--verify", "quick", "--json")
    assert run.code == 0, run.err
    assert run.document["inputs"][0]["dtype"] == dtype
    model = keras.models.load_model("m.keras")
    assert {str(v.dtype) for v in model.weights} == {dtype}


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that changes one weight by a thousandth."""
    from isomorph.convert import api

    real = api.to_keras

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        conversion = real(*args, **kwargs)
        variable = conversion.weights[0].variable
        variable.assign(np.asarray(variable) * 1.001)
        return conversion

    monkeypatch.setattr(api, "to_keras", spoiled)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("existing", [False, True])
def test_a_model_that_differs_is_not_written(existing: bool, isomorph: Command) -> None:
    if existing:
        Path("m.keras").write_text("precious")
    run = isomorph(*MLP, "--verify", "quick", "--report", "r.json")
    assert run.code == 1
    assert "not proven to be the same model (FAIL); m.keras was not written" in run.error
    assert "FAIL" in run.out
    report = json.loads(Path("r.json").read_text())
    assert (report["status"], report["exit_code"]) == ("FAIL", 1)
    assert report["verdict"]["mismatches"]
    assert "output" not in report
    left = {p.name: p.read_text() for p in Path().iterdir() if p.name != "r.json"}
    assert left == ({"m.keras": "precious"} if existing else {})


def test_a_write_that_breaks_off(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def full(self: Any, path: str, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    Path("m.keras").write_text("precious")
    run = isomorph(*MLP, "--verify", "none")
    assert run.code == 2
    assert run.error == "m.keras: cannot be written: No space left on device"
    assert [(p.name, p.read_text()) for p in Path().iterdir()] == [("m.keras", "precious")]


def test_a_data_dependent_branch(isomorph: Command, folder: Path) -> None:
    run = isomorph("convert", "cli_models:Branch", *X, "-o", "m.keras")
    assert run.code == 2
    line = 1 + MODELS.splitlines().index("        if x.sum() > 0:")
    assert f"cli_models.py:{line}" in run.error
    assert "torch.where" in run.error
    assert list(Path().iterdir()) == []


def test_unsupported_ops(isomorph: Command) -> None:
    line = 1 + MODELS.splitlines().index("        return mystery(x)")
    run = isomorph("convert", "cli_models:Strange", *X, "-o", "m.keras", "--json")
    assert run.code == 3
    assert run.document["status"] == "UNSUPPORTED"
    (op,) = run.document["error"]["ops"]
    assert (op["op"], op["count"]) == ("isomorph_test.mystery.default", 2)
    assert all(place.startswith("inner (Inner)") and f"cli_models.py:{line}" in place for place in op["where"])
    assert "isomorph_test.mystery.default x2" in run.err
    assert list(Path().iterdir()) == []

    run = isomorph("ops", "cli_models:Strange", *X, "--json")
    assert (run.code, run.document["missing"]) == (3, [op])
    run = isomorph("ops", "cli_models:Strange", *X)
    assert run.code == 3
    assert "isomorph_test.mystery.default" in run.out
    assert "1 op has no rule and no decomposition" in run.error


def test_ops_of_a_model_that_lacks_nothing(isomorph: Command) -> None:
    run = isomorph("ops", "cli_models:Mlp", *X)
    assert (run.code, run.out) == (0, "cli_models:Mlp: every op has a rule\n")


def test_an_exported_program(isomorph: Command) -> None:
    import keras
    from cli_models import Mlp

    module, auto = Mlp().eval(), torch.export.Dim.AUTO
    program = torch.export.export(module, (torch.randn(2, 3),), dynamic_shapes={"x": {0: auto}}, strict=False)
    torch.export.save(program, "m.pt2")
    run = isomorph("convert", "m.pt2", "-o", "m.keras", "--json")
    assert run.code == 0, run.err
    assert run.document["options"]["mode"] == "eval"
    assert "one mode" in run.document["notes"][0]
    assert isinstance(run.document["inputs"][0]["dims"][0], str), "the batch is free"
    x = torch.randn(5, 3)
    got = np.asarray(keras.models.load_model("m.keras")(x.numpy()))
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert "a .pt2 holds one mode only" in isomorph("convert", "m.pt2", "-o", "m.keras", "--mode", "both").error
    assert isomorph("ops", "m.pt2").code == 0

    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    torch.save({"state_dict": state}, "w.ckpt")
    assert isomorph("convert", "m.pt2", "--weights", "w.ckpt", "-o", "z.keras", "--verify", "quick").code in (0, 5)
    converted = isomorph("convert", "m.pt2", "--weights", "w.ckpt", "-o", "z.keras", "--verify", "none")
    assert converted.code == 0
    assert not np.asarray(keras.models.load_model("z.keras")(x.numpy())).any()


TWO = """
import torch
from torch import nn

class Two(nn.Module):
    def forward(self, x, y):
        return x * 2, y * 3
"""


def test_one_name_is_one_axis(isomorph: Command, tmp_path: Path) -> None:
    (tmp_path / "cli_two.py").write_text(TWO)
    run = isomorph(
        "convert",
        "cli_two:Two",
        "--input",
        "x=float32[b,3]",
        "--input",
        "y=float32[b,4]",
        "-o",
        "m.keras",
        "--verify",
        "none",
        "--json",
    )
    assert [port["dims"] for port in run.document["inputs"]] == [["b", 3], ["b", 4]]


NESTED = """
from torch import nn

class Dict(nn.Module):
    def forward(self, batch):
        return batch["a"] * 2

class Star(nn.Module):
    def forward(self, *xs):
        return xs[0] * 2

class Keywords(nn.Module):
    def forward(self, **named):
        return named["x"] * 2
"""


KEYWORDS = pytest.param(
    "Keywords",
    "x",
    marks=pytest.mark.xfail(strict=True, reason="torch.export 2.13 refuses a dynamic dim inside **kwargs"),
)


@pytest.mark.parametrize(("model", "name"), [("Dict", "batch.a"), ("Star", "xs.0"), KEYWORDS])
def test_free_axes_of_nested_arguments(model: str, name: str, isomorph: Command, tmp_path: Path) -> None:
    (tmp_path / "cli_nested.py").write_text(NESTED)
    run = isomorph(
        "convert",
        f"cli_nested:{model}",
        "--input",
        f"{name}=float32[b,3]",
        "-o",
        "m.keras",
        "--verify",
        "quick",
        "--json",
    )
    assert run.code == 0, run.err
    assert [port["dims"] for port in run.document["inputs"]] == [["b", 3]]


def test_wrong_backend(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert isomorph(*MLP).error == "KERAS_BACKEND=theano: isomorph knows tensorflow, jax, torch"


@pytest.mark.slow
def test_a_fresh_process_says_nothing_else(folder: Path) -> None:
    """TensorFlow's C++ log, absl and torch's warnings are silent, and so is a factory that prints."""
    loud = "import warnings\nprint('loud')\nwarnings.warn('loud')\nfrom cli_models import Mlp\n"
    (folder / "cli_loud.py").write_text(loud)
    command = [sys.executable, "-m", "isomorph.parity.cli", "convert", "cli_loud:Mlp", *X, "-o", "m.keras", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(folder))
    assert run.stderr == ""
    assert run.returncode == 0
    assert json.loads(run.stdout)["status"] == "PASS"


def _environment(folder: Path) -> dict[str, str]:
    import os

    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Without the tests' own log level: what the command sets is to be enough.
    return {**{k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}, "PYTHONPATH": path}

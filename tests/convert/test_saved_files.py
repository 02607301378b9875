"""A saved model loads with plain Keras, on the TensorFlow and the JAX backend, computes the same and fine-tunes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.errors import UsageError

CHECK = Path(__file__).with_name("saved_model_check.py")


def run_on(backend: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(CHECK), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("name", ["resnet_basic", "gpt", "lstm", "efficientnet", "unet"])
def test_loads_and_fits_elsewhere(name: str, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    fixture = ZOO[name]
    module = fixture.build().eval()
    converted = to_keras(module, fixture.args(), fixture.kwargs(), fixture.dynamic)
    tensors = torch.utils._pytree.tree_leaves((fixture.args(), fixture.kwargs()))
    xs = [p.to_keras(x) for p, x in zip(converted.inputs, [t.numpy() for t in tensors], strict=True)]
    with torch.no_grad():
        outs = [o.numpy() for o in torch.utils._pytree.tree_leaves(module(*fixture.args(), **fixture.kwargs()))]
    ys = {f"y{i}": p.to_keras(y) for i, (p, y) in enumerate(zip(converted.outputs, outs, strict=True))}
    np.savez(tmp_path / "arrays.npz", **{f"x{i}": x for i, x in enumerate(xs)}, **ys)
    converted.save(tmp_path / "model.keras")
    done = run_on(backend, tmp_path / "model.keras", tmp_path / "arrays.npz")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "fitted" in done.stdout


def test_round_trip_is_bit_identical(tmp_path: Path) -> None:
    fixture = ZOO["resnet_basic"]
    module = fixture.build().eval()
    converted = to_keras(module, fixture.args())
    other = {k: torch.randn_like(v) if v.is_floating_point() else v + 3 for k, v in module.state_dict().items()}
    converted.push(other)
    converted.save(tmp_path / "m.keras")
    for pulled in (converted.pull(), load(tmp_path / "m.keras").pull()):
        assert pulled.keys() == other.keys()
        assert all(torch.equal(pulled[k], v) and pulled[k].dtype == v.dtype for k, v in other.items())
    module.load_state_dict(converted.pull())


def test_metadata_is_inside(tmp_path: Path) -> None:
    fixture = ZOO["shared_layers"]
    converted = to_keras(fixture.build().eval(), fixture.args(), fixture.kwargs(), fixture.dynamic)
    converted.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        data = json.loads(archive.read("isomorph.json"))
    assert {w["torch_name"] for w in data["weights"] if w["kind"] == "parameter"} >= set(
        dict(fixture.build().named_parameters())
    )
    assert data["weights_sha256"]
    assert data["options"]["mode"] == "both"
    assert data["versions"]["torch"] == torch.__version__


def test_same_input_same_bytes(tmp_path: Path) -> None:
    fixture = ZOO["efficientnet"]  # with dropout and stochastic depth
    for name in ("a", "b"):
        to_keras(fixture.build().eval(), fixture.args()).save(tmp_path / f"{name}.keras")
    first, second = (dict(_members(tmp_path / f"{n}.keras")) for n in ("a", "b"))
    assert first.keys() == second.keys()
    assert [n for n in first if first[n] != second[n]] == []
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def _members(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(n, archive.read(n)) for n in sorted(archive.namelist())]


def test_bad_paths(tmp_path: Path) -> None:
    fixture = ZOO["dcgan"]
    converted = to_keras(fixture.build().eval(), fixture.args())
    with pytest.raises(UsageError, match=r"ends in \.keras"):
        converted.save(tmp_path / "m.h5")
    with pytest.raises(UsageError, match="does not exist"):
        converted.save(tmp_path / "no" / "m.keras")
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "none.keras")
    (tmp_path / "junk.keras").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match=r"not a \.keras file"):
        load(tmp_path / "junk.keras")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["junk.keras"]

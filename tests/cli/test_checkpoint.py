"""Weights files: every kind and wrapper is read, nothing runs, and all that does not fit is listed at once."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isomorph.convert.checkpoint import load_weights, read_state_dict
from isomorph.convert.errors import UsageError, WeightError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.model = nn.Linear(4, 4, bias=False)  # a child with the name of a wrapper


def other() -> dict[str, torch.Tensor]:
    """A state dict that differs from every fresh Net."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for name, value in Net().state_dict().items()
    }


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in other().items()}


KINDS: dict[str, tuple[str, Any]] = {
    "plain": ("w.pt", other),
    "pth": ("w.pth", other),
    "lightning": ("w.ckpt", lambda: {"epoch": 3, "state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}}),
    "data parallel": ("w.pth", lambda: prefixed("module.")),
    "compiled, data parallel": ("w.pth", lambda: {"model": prefixed("module._orig_mod."), "optimizer": {"state": {}}}),
    "nested": ("w.bin", lambda: {"model_state_dict": prefixed("")}),
    "half": ("w.pt", lambda: {k: v.half() if v.is_floating_point() else v for k, v in other().items()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_wrapper(kind: str, tmp_path: Path) -> None:
    name, make = KINDS[kind]
    torch.save(make(), tmp_path / name)
    net = Net()
    load_weights(net, tmp_path / name)
    for key, value in other().items():
        wanted = value.half().float() if kind == "half" and value.is_floating_point() else value
        assert torch.equal(net.state_dict()[key], wanted), key


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors(prefix: str, tmp_path: Path) -> None:
    save_file(prefixed(prefix), tmp_path / "w.safetensors")
    net = Net()
    load_weights(net, tmp_path / "w.safetensors")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in other().items())


def test_sharded_safetensors(tmp_path: Path) -> None:
    state = list(other().items())
    save_file(dict(state[:3]), tmp_path / "a.safetensors")
    save_file(dict(state[3:]), tmp_path / "b.safetensors")
    index = tmp_path / "w.safetensors.index.json"
    shards = {key: "a.safetensors" if i < 3 else "b.safetensors" for i, (key, _) in enumerate(state)}
    index.write_text(str({"weight_map": shards}).replace("'", '"'))
    assert set(read_state_dict(index)) == set(other())
    index.write_text('{"weight_map": {"x": "../a.safetensors"}}')
    with pytest.raises(UsageError, match="does not lie beside"):
        read_state_dict(index)


def test_all_that_does_not_fit_is_in_one_message(tmp_path: Path) -> None:
    state = other()
    del state["first.bias"], state["norm.weight"]
    state["model.weight"] = torch.zeros(4, 5)
    state["norm.bias"] = torch.zeros(4, dtype=torch.int64)
    state["head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightError) as caught:
        load_weights(net, tmp_path / "w.pt")
    message = str(caught.value)
    assert "2 missing: first.bias, norm.weight" in message
    assert "1 unexpected: head.weight" in message
    assert "model.weight: has shape (4, 5), the module wants (4, 4)" in message
    assert "norm.bias: has dtype int64, the module wants float32" in message
    assert str(tmp_path / "w.pt") in message
    assert "\n" not in message
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items()), "nothing half-loaded"


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    torch.save({f"layer{i}.w": torch.zeros(1) for i in range(50)}, tmp_path / "w.pt")
    with pytest.raises(WeightError, match=r"and 30 more.*another model"):
        load_weights(Net(), tmp_path / "w.pt")


def test_tied_parameters_are_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    for name in ("embed.weight", "head.weight"):
        weight = torch.randn(5, 3)
        save_file({name: weight}, tmp_path / "w.safetensors")
        net = Tied()
        load_weights(net, tmp_path / "w.safetensors")
        assert torch.equal(net.head.weight, weight)
        assert net.head.weight is net.embed.weight


def test_the_old_counter_may_be_absent(tmp_path: Path) -> None:
    state = {name: value for name, value in other().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pt")
    load_weights(Net(), tmp_path / "w.pt")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it_ran", tmp_path / "w.pt"
    if how == "torch":
        torch.save({"state_dict": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UsageError, match=r"refused, reading it would run code.*state_dict"):
        read_state_dict(path)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"would run code \(torch\.nn.*Linear\)"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.safetensors", b"not a safetensors file", "not a safetensors file"),
        ("w.safetensors", b"", "cannot be read"),
        ("w.pt", b"garbage that is no pickle", "cannot be read|refused"),
        ("w.pt", b"", "cannot be read"),
        ("w.ckpt", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("w.h5", b"", "unknown kind of file"),
        ("w.safetensors.index.json", b"{", "cannot be read"),
    ],
)
def test_unreadable(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(3)])
def test_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        read_state_dict(tmp_path / "w.pt")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_state_dict(tmp_path / "w.pt")
    with pytest.raises(UsageError, match="is not a file"):
        read_state_dict(tmp_path)

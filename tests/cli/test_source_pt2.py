"""model.pt2: what it gives, and that nothing in it runs."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isomorph.convert.errors import UsageError
from isomorph.convert.source_pt2 import load_pt2
from isomorph.convert.sources import load_source


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor, y: Any = None, *, z: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.linear(x) * self.scale + z}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    auto = torch.export.Dim.AUTO
    shapes = {"x": {0: auto}, "z": {0: auto, 1: auto}}
    kwargs = {"z": torch.randn(5, 2, 4)}
    program = torch.export.export(Net().eval(), (torch.randn(2, 4),), kwargs, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)
    return path


def rewrite(archive: Path, out: Path, change: Callable[[str, bytes], bytes], extra: str = "") -> Path:
    """A copy of the archive with some records changed."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        if extra:
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{extra}", b"x")
    return out


def test_a_program_with_its_inputs_and_dims(archive: Path) -> None:
    source = load_source(str(archive))
    assert source.exported_program is not None
    assert [tuple(a.shape) for a in source.args] == [(2, 4)]
    assert list(source.kwargs) == ["z"]
    shapes = source.dynamic_shapes
    assert set(shapes) == {"x", "z"}
    assert set(shapes["z"]) == {0, 1}
    assert shapes["z"][1] == shapes["x"][0] != shapes["z"][0], "an axis that must be equal has one name"
    assert "one mode" in source.notes[0]
    got = source.module(*source.args, **source.kwargs)["out"]
    net = Net()
    net.load_state_dict(source.exported_program.state_dict)
    assert torch.equal(got, net(*source.args, **source.kwargs)["out"])


def test_inputs_and_weights_are_replaced(archive: Path, tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in Net().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    source = load_source(str(archive), tmp_path / "w.pt", ["x=float32[3,4]", "z=float32[6,3,4]"])
    assert source.args[0].shape == (3, 4)
    assert torch.equal(source.module(*source.args, **source.kwargs)["out"], source.kwargs["z"])
    with pytest.raises(UsageError, match="axes were fixed when it was exported"):
        load_source(str(archive), None, ["x=float32[b,4]", "z=float32[6,b,4]"])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_it_is_refused(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    buffer = io.BytesIO()
    torch.save(((Bomb(mark),), {}), buffer)
    evil = rewrite(archive, tmp_path / "evil.pt2", lambda n, b: buffer.getvalue() if "sample_inputs" in n else b)
    with pytest.raises(UsageError, match="refused, reading it would run code"):
        load_pt2(evil)
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('{mark}')",
        "Symbol('s0').__class__",
        "Symbol('s0', positive=True).func",
        "open('x')",
        "(lambda: 1)()",
        "Symbol('a b')",
        "exec(chr(49))",
    ],
)
def test_a_shape_that_is_code_is_refused(expression: str, archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    text = expression.replace("{mark}", str(mark)).encode()

    def change(name: str, content: bytes) -> bytes:
        symbols = [part for part in content.split(b'"') if part.startswith(b"Symbol(")]
        return content.replace(symbols[0], text) if name.endswith("models/model.json") else content

    evil = rewrite(archive, tmp_path / "evil.pt2", change)
    with pytest.raises(UsageError, match="not a plain expression"):
        load_pt2(evil)
    assert not mark.exists()


@pytest.mark.parametrize(
    "record", ["data/aotinductor/model/x.so", "data/constants/opaque_obj_0", "data/constants/custom_obj_0"]
)
def test_compiled_code_and_objects_are_refused(record: str, archive: Path, tmp_path: Path) -> None:
    evil = rewrite(archive, tmp_path / "evil.pt2", lambda _, content: content, extra=record)
    with pytest.raises(UsageError, match=record):
        load_pt2(evil)


def test_what_is_no_archive(tmp_path: Path, archive: Path) -> None:
    text, empty_zip, weights, cut = (tmp_path / f"{name}.pt2" for name in ("text", "zip", "weights", "cut"))
    text.write_text("hello")
    with zipfile.ZipFile(empty_zip, "w") as file:
        file.writestr("a.txt", "x")
    torch.save({"w": torch.zeros(2)}, weights)
    cut.write_bytes(archive.read_bytes()[:2000])
    for path in (text, empty_zip, weights, cut):
        with pytest.raises(UsageError, match=r"is not a torch.export archive|holds no exported program") as caught:
            load_pt2(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_torn_program(tmp_path: Path, archive: Path) -> None:
    torn = rewrite(archive, tmp_path / "torn.pt2", lambda n, b: b"{}" if n.endswith("models/model.json") else b)
    with pytest.raises(UsageError, match=r"cannot be read as a torch\.export archive"):
        load_pt2(torn)

"""What a model on disk is, in a hash: the one that standard tools give, and nothing left out in silence."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from isomorph.convert.errors import UsageError
from isomorph.convert.onnx_out.export import OnnxExport
from isomorph.parity.gate import digest
from isomorph.parity.gate.external_data import MESSAGES, locations

NAMES = ("saved_model.pb", "variables/variables.index", "variables-2", "Zeta", "alpha", "é", "a b")
LISTED = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory such as a SavedModel, with names whose order depends on the locale."""
    folder = tmp_path / "saved"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 3)
    (folder / "assets").mkdir()
    return folder


def test_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    path.write_bytes(b"weights" * 100_000)
    assert digest.of(path) == ("file", hashlib.sha256(path.read_bytes()).hexdigest(), 700_000)


def test_a_directory_is_what_standard_tools_say(saved: Path) -> None:
    said = subprocess.run(["bash", "-c", LISTED], cwd=saved, capture_output=True, text=True, check=True).stdout
    found = digest.of(saved)
    assert (found.kind, found.sha256) == ("directory", said.split()[0])
    assert found.size == sum(len((name * 3).encode()) for name in NAMES)


def test_the_command_is_the_documented_one() -> None:
    assert LISTED in str(digest.__doc__)


def test_a_directory_is_the_go_hash_of_the_specification(tmp_path: Path) -> None:
    """`dirHash` is Hash1 of Go's sumdb/dirhash: of two known files, its summary by hand."""
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    summary = "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in (("a", b"1"), ("b", b"2")))
    assert digest.of(tmp_path).sha256 == hashlib.sha256(summary.encode()).hexdigest()


@pytest.mark.parametrize("change", ["byte", "name", "new", "gone", "moved"])
def test_any_change_of_a_directory_is_another_hash(saved: Path, change: str) -> None:
    before = digest.of(saved)
    file = saved / "variables" / "variables.index"
    match change:
        case "byte":
            file.write_bytes(file.read_bytes()[:-1] + b"!")
        case "name":
            file.rename(file.with_name("variables.Index"))
        case "new":
            (saved / "assets" / "vocab").write_text("")
        case "gone":
            file.unlink()
        case "moved":
            file.rename(saved / "variables.index")
    assert digest.of(saved).sha256 != before.sha256


def test_a_copy_is_the_same_whatever_its_name_times_links_and_empty_folders(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "served"
    shutil.copytree(saved, copy)
    (copy / "assets").rmdir()
    (copy / "alpha").unlink()
    (copy / "alpha").symlink_to(saved / "alpha")
    os.utime(copy / "Zeta", (0, 0))
    assert digest.of(copy) == digest.of(saved)
    (tmp_path / "link").symlink_to(saved)
    assert digest.of(tmp_path / "link") == digest.of(saved)


def test_what_cannot_be_listed_is_refused(saved: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UsageError, match=match):
            digest.of(saved)

    (saved / "loop").symlink_to(saved)
    refused("loop is a link to a directory")
    (saved / "loop").unlink()
    (saved / "gone").symlink_to(saved / "nowhere")
    refused("gone cannot be read: No such file")
    (saved / "gone").unlink()
    os.mkfifo(saved / "pipe")
    refused("pipe is neither a file nor a directory")
    (saved / "pipe").unlink()
    (saved / "new\nline").write_text("")
    refused("no listing can hold")
    (saved / "new\nline").rename(saved / "back\\slash")
    refused("no listing can hold")


def test_an_empty_directory_a_socket_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(UsageError, match="no file is in it"):
        digest.of(tmp_path / "empty")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        digest.of(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="neither a file nor a directory"):
            digest.of(tmp_path / "socket")


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.keras"
    path.write_bytes(b"half")
    real = hashlib.file_digest

    def while_it_grows(file: object, name: str) -> object:
        found = real(file, name)  # type: ignore[arg-type]
        path.write_bytes(b"half and the rest")
        return found

    monkeypatch.setattr(hashlib, "file_digest", while_it_grows)
    with pytest.raises(UsageError, match="was written to while it was read"):
        digest.of(path)


# ------------------------------------------------------------------------------------------------ the files of an ONNX
def onnx_with(path: Path, **where: str) -> None:
    """An .onnx with the named tensors as external data at the locations given; the files are made too."""
    onnx = pytest.importorskip("onnx")

    def tensor(name: str, location: str) -> object:
        made = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [0.0])
        made.ClearField("float_data")
        made.data_location = onnx.TensorProto.EXTERNAL
        made.external_data.add(key="offset", value="0")
        made.external_data.add(key="location", value=location)
        return made

    inner = onnx.helper.make_graph([], "inner", [], [], [tensor("deep", where.pop("deep"))] if "deep" in where else [])
    constant = [tensor("c", where.pop("constant"))] if "constant" in where else []
    nodes = [onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner)]
    nodes += [onnx.helper.make_node("Constant", [], ["k"], value=made) for made in constant]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [tensor(n, location) for n, location in where.items()])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    for location in [e.value for t in graph.initializer for e in t.external_data if e.key == "location"]:
        if not location.startswith(("/", "..")):
            (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / location).write_text(location)


def test_the_external_data_of_an_onnx_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx_with(path, a="net.onnx.data", b="net.onnx.data", c="parts/one.bin", deep="deep.bin", constant="constant.bin")
    assert locations(path) == ("constant.bin", "deep.bin", "net.onnx.data", "parts/one.bin")
    (tmp_path / "deep.bin").write_text("")
    (tmp_path / "constant.bin").write_text("")
    found = digest.subjects("converted", "models/net.onnx", path)
    assert [(s.name, s.kind) for s in found] == [
        ("models/net.onnx", "file"), ("constant.bin", "data"), ("deep.bin", "data"), ("net.onnx.data", "data"),
        ("parts/one.bin", "data"),
    ]  # fmt: skip
    assert found[3].sha256 == hashlib.sha256(b"net.onnx.data").hexdigest()
    (tmp_path / "deep.bin").unlink()
    with pytest.raises(UsageError, match=r"deep\.bin cannot be read"):
        digest.subjects("converted", "models/net.onnx", path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", ".", "a\\b"])
def test_external_data_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = tmp_path / "net.onnx"
    onnx_with(path, deep=location)
    with pytest.raises(UsageError, match="outside its folder"):
        digest.files_of(path)


@pytest.mark.parametrize("data", [b"", b"\x3a\xff\x01", b"no protobuf at all", b"\x3a" + b"\xff" * 11])
def test_what_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"no readable ONNX file|is empty"):
        digest.files_of(path)


def test_our_exporters_data_file_is_found(tmp_path: Path) -> None:
    """The real thing, as `OnnxExport.save` splits a model."""
    onnx = pytest.importorskip("onnx")
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1024], bytes(4096), raw=True)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weights]))
    path = tmp_path / "net.onnx"
    OnnxExport(model).save(path, external_data=True)
    assert digest.files_of(path) == (path, tmp_path / "net.onnx.data")
    OnnxExport(model).save(path)
    assert digest.files_of(path) == (path,)


def test_every_way_to_a_tensor_is_known() -> None:
    """A field that a newer ONNX adds would hide external data: the table is held against onnx' own description."""
    onnx = pytest.importorskip("onnx")
    ours = {(m, number, inner) for m, fields in MESSAGES.items() for number, inner in fields.items()}
    seen, todo = set(), [onnx.ModelProto.DESCRIPTOR]
    edges = []
    while todo:
        message = todo.pop()
        if message.name not in seen:
            seen.add(message.name)
            inner = [(field.number, field.message_type) for field in message.fields if field.message_type]
            edges += [(message.name, number, kind.name) for number, kind in inner]
            todo += [kind for _, kind in inner]
    leads = {"TensorProto"}
    while grown := {a for a, _, b in edges if b in leads} - leads:
        leads |= grown
    data = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number
    assert ours == {e for e in edges if e[2] in leads} | {("TensorProto", data, "StringStringEntryProto")}


@pytest.mark.parametrize("name", ["net.keras", "net.tflite", "saved"])
def test_other_models_are_one_file_or_directory(tmp_path: Path, name: str) -> None:
    assert digest.files_of(tmp_path / name) == (tmp_path / name,)

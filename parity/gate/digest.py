"""What a model on disk is, in 64 characters: SHA-256 of a file, `dirHash` of a directory. Standard library only.

A directory's hash is the in-toto DigestSet algorithm `dirHash`: SHA-256 over one line for each file, its SHA-256, two
spaces, its path from the directory with slashes, a newline, in the order of the paths' bytes. That is Go's `Hash1`, and
standard tools compute it, in the directory:

    find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

Names, empty directories, times and permissions of a model do not count, only what its files hold. A link to a file is
the file that it leads to, so that a model in a cache made of links and its copy are the same model. What cannot be
listed in this way is refused, never left out: a link to a directory (which could lead back), a socket, pipe or device,
a name with a newline or a backslash (which sha256sum writes in another way), and a directory without any file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import NamedTuple

from isomorph.convert.errors import UsageError

from ..record import Subject
from .external_data import locations

__all__ = ["DATA", "Digest", "files_of", "of", "subjects"]

DATA = "data"  # the kind of a Subject that is a part of the model before it: a file beside it
_ODD = "\n\r\\"


class Digest(NamedTuple):
    """kind: "file" or "directory". sha256: 64 lowercase hex digits, of a directory its `dirHash`. size: bytes, of a
    directory those of its files."""

    kind: str
    sha256: str
    size: int


def of(path: str | os.PathLike[str]) -> Digest:
    """The hash of a file or directory. UsageError: there is none, it cannot be read or be hashed, or it changed."""
    path = Path(path)
    with _reading(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _directory(path)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path} is neither a file nor a directory")
        return Digest("file", *_file(path))


def files_of(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The model itself, then the files beside it that it takes its weights from: the external data of an .onnx.

    UsageError: it is no ONNX file, or takes its weights from outside of its folder."""
    path = Path(path)
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return (path,)
    with _reading(path):
        return (path, *(path.parent / location for location in locations(path)))


def subjects(role: str, name: str, path: str | os.PathLike[str]) -> tuple[Subject, ...]:
    """A model as the record names it: first itself, then, of the kind `DATA`, each file beside it that belongs to it.

    role: "original" or "converted". name: as it was given. The name of a part is where it lies, from the folder of the
    model. UsageError: see `of`, `files_of`."""
    first, *rest = files_of(path)
    kind, sha256, size = of(first)
    found = [Subject(role, name, kind, sha256, size)]
    for file in rest:
        kind, sha256, size = of(file)
        found.append(Subject(role, file.relative_to(first.parent).as_posix(), DATA, sha256, size))
    return tuple(found)


def _file(path: Path) -> tuple[str, int]:
    """SHA-256 and size of what the file holds, read once from one descriptor."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        found = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UsageError(f"{path} was written to while it was read; try again when it is whole")
    return found, after.st_size


def _directory(top: Path) -> Digest:
    total, size, count = hashlib.sha256(), 0, 0
    named = {os.fsencode(path.relative_to(top).as_posix()): path for path in _walk(top)}
    for name in sorted(named):
        sha256, length = _file(named[name])
        total.update(sha256.encode() + b"  " + name + b"\n")
        size, count = size + length, count + 1
    if not count:
        raise UsageError(f"{top}: no file is in it")
    return Digest("directory", total.hexdigest(), size)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if any(sign in entry.name for sign in _ODD):
            raise UsageError(
                f"{PurePath(folder)}: the name {entry.name!r} has a sign that no listing can hold; rename it"
            )
        mode = entry.stat().st_mode
        if stat.S_ISDIR(mode):
            if entry.is_symlink():
                raise UsageError(f"{entry} is a link to a directory; put a copy in its place (cp -rL)")
            yield from _walk(entry)
        elif stat.S_ISREG(mode):
            yield entry
        else:
            raise UsageError(f"{entry} is neither a file nor a directory")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise UsageError(f"{where} cannot be read: {error.strerror or error}") from error

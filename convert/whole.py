"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError

__all__ = ["whole"]


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside `path`, to be written in the body. When the body ends well,
    every file in that folder is moved into place, `path` itself last: so that it never names another file that is not
    there. After an exception `path` is as it was.

    UsageError: `path` is a folder, its own folder does not exist or takes no files, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield folder / path.name
        for made in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            os.replace(made, path.with_name(made.name))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

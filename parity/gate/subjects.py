"""What a result is about: each model as it was given, with its hash. And whether it is there at all. Standard library
only; nothing of a model is run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isomorph.convert.errors import IsomorphError
from isomorph.convert.routes import SCHEMES, is_code
from isomorph.parity.gate import digest, identity
from isomorph.parity.gate.tasks import Task
from isomorph.parity.record import Subject

__all__ = ["NotFoundError", "alike", "require", "subjects_of", "unnamed"]


class NotFoundError(IsomorphError):
    """A source, artifact or file of weights is not there."""

    exit_code = 6


def require(task: Task) -> dict[str, Path]:
    """The modules that a task's code is made of (`identity.Code`): name -> file or directory.

    NotFoundError: the folder, a file, a directory or a module is not there.
    """
    folder, entry = Path(task.folder), task.entry
    if not folder.is_dir():
        raise NotFoundError(f"the gate file's folder {folder} is not there")
    modules: dict[str, Path] = {}
    for key, text in _models(task):
        scheme, _, rest = text.partition(":")
        if is_code(text):
            code = identity.code_of(text, folder)
            if code is None:
                raise NotFoundError(f"{key} {text}: there is no {_what(text)}, from {folder}")
            modules |= code.modules
        elif scheme not in SCHEMES or scheme == "hf":
            path = folder / (rest if scheme == "hf" else text)
            if not path.exists():
                raise NotFoundError(f"{key} {text}: no such file: {path}")
    for key in ("weights", "artifact_weights"):
        file = getattr(entry, key)
        if file is not None and not (folder / file).exists():
            raise NotFoundError(f"{key} {file}: no such file: {folder / file}")
    return modules


def _models(task: Task) -> list[tuple[str, str]]:
    entry = task.entry
    return [("source", entry.source)] + ([] if entry.artifact is None else [("artifact", entry.artifact)])


def _what(text: str) -> str:
    target = text.rpartition(":")[0]
    return f"file {target}" if target.endswith(".py") or "/" in target or "\\" in target else f"module {target!r}"


def unnamed(task: Task) -> str:
    """After a model could not be opened: the name in its module that is not there, "" where that was not the
    reason."""
    for key, text in _models(task):
        target, _, attribute = text.rpartition(":")
        if not is_code(text):
            if _unlisted(text):
                return f"{key} {text}: {target} has no architecture {attribute!r}"
            continue
        found = _module(target)
        for part in attribute.split(".") if found is not None else ():
            if not hasattr(found, part):
                return f"{key} {text}: {target} has no {attribute!r}"
            found = getattr(found, part)
    return ""


def _module(target: str) -> Any:
    """The module of this name, or of this file, if it was loaded. The working directory is the gate file's folder."""
    found = sys.modules.get(target)
    if found is None:
        found = sys.modules.get(f"isomorph_source_{Path(target).stem}")
        file = getattr(found, "__file__", None)
        if file is None or Path(file).resolve() != Path(target).resolve():  # of another folder
            return None
    return found


def _unlisted(text: str) -> bool:
    """Whether it names an architecture that its library, which was loaded, does not have."""
    scheme, _, name = text.partition(":")
    timm, vision = sys.modules.get("timm"), sys.modules.get("torchvision.models")
    if scheme == "timm" and timm is not None:
        return not timm.is_model(name)
    return scheme == "torchvision" and vision is not None and name not in vision.list_models()


def subjects_of(task: Task) -> tuple[Subject, ...]:
    """Both models of a task, with the files that belong to them. One that cannot be read has no hash."""
    entry, folder = task.entry, Path(task.folder)
    found = list(_subject("original", entry.source, folder, entry.weights))
    if entry.artifact is None:
        return (*found, Subject("converted", entry.converted))
    return (*found, *_subject("converted", entry.artifact, folder, entry.artifact_weights))


def alike(task: Task, found: Sequence[Subject]) -> bool:
    """Whether both models are the same bytes, run in the same way: then nothing is compared. One file of code may
    make both models: there they have the same name too."""
    entry, hashes = task.entry, {"original": list[str](), "converted": list[str]()}
    for subject in found:
        hashes[subject.role].append(subject.sha256)
    same = hashes["original"] == hashes["converted"] and all(hashes["original"])
    if any(subject.kind == "code" for subject in found):
        same = same and entry.source == entry.artifact
    return same and entry.backend is None and entry.python is None


def _subject(role: str, text: str, folder: Path, weights: str | None) -> tuple[Subject, ...]:
    scheme = text.partition(":")[0]
    try:
        if scheme in SCHEMES or is_code(text) or weights is not None:
            sha256 = identity.of_text(text, folder, weights)
            return (Subject(role, text, "code", sha256),) if sha256 else (Subject(role, text),)
        return digest.subjects(role, text, folder / text)
    except IsomorphError:
        return (Subject(role, text),)

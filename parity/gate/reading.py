"""A verdict's file as what `verify` decides on: strict, small, and nothing of it believed that is not checked here.

    read(path) -> fact_of(document) -> Fact          Unreadable: it is none, or it contradicts itself

Standard library only. Fields that nothing is decided on are left alone, as in-toto's parsing rules ask.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path, PurePosixPath
from typing import Any

from .digest import DATA
from .statement import ALGORITHMS, HASH, PREDICATE, TYPE

__all__ = ["Artifact", "Fact", "Unreadable", "fact_of", "moment", "read"]

LARGEST = 64 * 2**20  # bytes of a verdict; a real one has some ten thousand for each model
PAYLOAD = "application/vnd.in-toto+json"
UNSIGNED = "the signature was not checked: that is for the tool that made it (cosign verify-blob-attestation)"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


class Unreadable(Exception):
    """It is no verdict that this version knows; the message says why, in one line."""


@dataclass(frozen=True)
class Artifact:
    """A converted model. model: the policy's name of it. kind: "file" or "directory". parts: where a file that belongs
    to it lies, from its folder -> SHA-256."""

    model: str
    name: str
    kind: str
    sha256: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Fact:
    """All that is decided on. status: "PASS" or another. version, sha256: of the policy. originals, parts: (kind, hash)
    of what is named but was not passed by itself."""

    status: str
    created: datetime
    expires: datetime
    version: int
    sha256: str
    converted: tuple[Artifact, ...]
    originals: frozenset[tuple[str, str]]
    parts: frozenset[tuple[str, str]]
    notes: tuple[str, ...] = ()


def read(path: Path) -> Mapping[str, Any]:
    """The JSON document in a file."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
    return _parsed(data, str(path))


def _parsed(data: bytes, where: str) -> Mapping[str, Any]:
    if len(data) > LARGEST:
        raise Unreadable(f"{where} is larger than {LARGEST >> 20} MB: that is no verdict")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{where} is no JSON document ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{where} is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is said twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def fact_of(document: Mapping[str, Any]) -> Fact:
    """What a Statement says, also one inside a DSSE envelope or a Sigstore bundle. Unreadable: it is none."""
    statement, notes = _opened(document)
    _require(statement.get("_type") == TYPE, f"no in-toto Statement (_type is not {TYPE})")
    _require(statement.get("predicateType") == PREDICATE, f"no verdict of a gate (predicateType is not {PREDICATE})")
    try:
        return _fact(statement, notes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"not a verdict of a gate: {type(error).__name__} {error}") from error


def _opened(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    envelope = document.get("dsseEnvelope", document)
    if not isinstance(envelope, Mapping) or "payload" not in envelope:
        return document, ()
    _require(envelope.get("payloadType") == PAYLOAD, f"an envelope of something else (payloadType is not {PAYLOAD})")
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
    except (ValueError, TypeError, binascii.Error) as error:
        raise Unreadable("an envelope whose payload is not base64") from error
    return _parsed(payload, "the envelope's payload"), (UNSIGNED,)


def _fact(statement: Mapping[str, Any], notes: tuple[str, ...]) -> Fact:
    said = _of(statement, "predicate", dict)
    policy = _of(said, "policy", dict)
    models = _of(said, "models", list)
    hashes = {pair for item in _of(statement, "subject", list) for pair in _hashes(_of(item, "digest", dict))}
    converted = [a for model in models for a in _artifacts(model, "converted")]
    originals = [a for model in models for a in _artifacts(model, "original")]
    fact = Fact(
        status=_of(said, "status", str),
        created=moment(_of(said, "created", str), "created", _TIME),
        expires=moment(_of(said, "expires", str), "expires", _TIME),
        version=_of(policy, "version", int),
        sha256=_of(policy, "sha256", str),
        converted=tuple(a for a in converted if (a.kind, a.sha256) in hashes),
        originals=frozenset((a.kind, a.sha256) for a in originals),
        parts=frozenset(("file", sha256) for a in converted for sha256 in a.parts.values()),
        notes=notes,
    )
    _require(fact.created <= fact.expires, "it expires before it was made")
    _require(HASH.fullmatch(fact.sha256) is not None, "the policy's sha256 is none")
    if fact.status == "PASS":
        _agree(said, models)
        _require(
            all(("file", part) in hashes for a in converted for part in a.parts.values()),
            "a part of a model is not among its subjects",
        )
    return fact


def _agree(said: Mapping[str, Any], models: Iterable[Mapping[str, Any]]) -> None:
    """A PASS is one throughout."""
    _require(_of(said, "complete", bool) and not _of(said, "missing", list), "a PASS that is not complete")
    for model in models:
        results = _of(model, "results", list)
        statuses = [_of(model, "status", str), *(_of(result, "status", str) for result in results)]
        sound = bool(results) and set(statuses) == {"PASS"} and all(map(_sound, results))
        _require(sound, "a PASS that its own results contradict")


def _sound(result: Mapping[str, Any]) -> bool:
    """Whether nothing in a result that passed stands against the model, or somebody answers for it."""
    if _of(result, "waivers", list):
        return True
    verdict = result["verdict"]
    differs = verdict is not None and (
        _of(verdict, "status", str) != "PASS" or bool(_of(verdict, "mismatches_in_all", int))
    )
    return not differs and all(_kept(line) for line in _of(result, "budgets", list))


def _kept(line: Mapping[str, Any]) -> bool:
    return _of(line, "kept", bool) and float(line["measured"]) <= float(line["limit"])


def _artifacts(model: Mapping[str, Any], role: str) -> Iterator[Artifact]:
    """Those with a hash that a file or directory can be compared with."""
    for said in _of(model, role, list):
        parts = {_location(_of(part, "name", str)): _hash(part, DATA) for part in _of(said, "parts", list)}
        kind = _of(said, "kind", str)
        if kind in ("file", "directory"):
            yield Artifact(_of(model, "name", str), _of(said, "name", str), kind, _hash(said, kind), parts)


def _hash(said: Mapping[str, Any], kind: str) -> str:
    found: str = _of(_of(said, "digest", dict), ALGORITHMS[kind], str)
    _require(HASH.fullmatch(found) is not None, f"{found[:80]!r} is no hash")
    return found


def _hashes(digests: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The kinds and hashes of a DigestSet that mean something here; others are ignored, as its specification asks."""
    for kind in ("file", "directory"):
        if ALGORITHMS[kind] in digests:
            yield kind, _hash({"digest": digests}, kind)


def _location(name: str) -> str:
    """Where a part lies, from the model's folder: never outside of it."""
    path = PurePosixPath(name)
    plain = name == str(path) and not path.is_absolute() and path.parts and ".." not in path.parts
    _require(bool(plain) and "\\" not in name and "\0" not in name, f"a part lies outside its model's folder: {name!r}")
    return name


def moment(text: str, where: str, form: re.Pattern[str] | None = None) -> datetime:
    """A time with a timezone; UTC where it names none. A date is its last second. Unreadable: it is neither."""
    try:
        if form is not None and not form.fullmatch(text):
            raise ValueError(text)
        if form is None and len(text) == len("2026-12-31"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Unreadable(f"{where}: {text[:80]!r} is no date or time of ISO 8601, such as 2026-12-31") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _of(said: Any, name: str, kind: Callable[..., Any]) -> Any:
    """A field that has to be there and of exactly this type: True is no 1, an absent one no default."""
    _require(isinstance(said, Mapping) and name in said, f"{name} is missing")
    _require(type(said[name]) is kind, f"{name} is of another type")
    return said[name]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unreadable(f"not a verdict that can be relied on: {otherwise}")

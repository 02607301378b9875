"""Pairs of models for the tests of single stages, made in one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from isomorph.parity.contract import prepare
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import About, Request, Response
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings


class Told:
    """A runner with another word about itself, and, where `change` is given, with other answers."""

    def __init__(self, inner: Any, about: About | None = None, change: Any = None) -> None:
        self._inner, self._about, self._change = inner, about, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def about(self) -> About:
        return self._about if self._about is not None else self._inner.about()

    def respond(self, request: Request) -> Response:
        response = self._inner.respond(request)
        return response if self._change is None else self._change(request, response)


def make_pair(
    original: torch.nn.Module, converted: Any, inputs: Any, about: dict[str, Any] | None = None, change: Any = None,
    **settings: Any,
) -> Pair:  # fmt: skip
    """A torch module and its conversion, or another torch module. about: fields in which the converted model's word
    about itself differs. change: what becomes of its responses (request, response) -> response."""
    given = Settings(**settings)
    found = prepare(ModelSpec(original, example=inputs), ModelSpec(converted), given, Ledger(), {})
    assert found is not None
    said = {key: value for key, value in (about or {}).items() if key != "precision"}
    told = replace(found.converted.about(), **(about or {}))
    new: Any = Told(found.converted, told, change)
    wide: Any = Told(found.converted64, replace(found.converted.about(), **said), change)
    return replace(
        found, converted=new, converted64=wide if told.float64 else None, backward=found.backward and told.gradients
    )


def kinds(ledger: Ledger) -> set[tuple[str, str]]:
    """(kind, quantity) of every mismatch."""
    return {(m.kind, m.quantity) for m in ledger.mismatches}

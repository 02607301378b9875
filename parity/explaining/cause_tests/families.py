"""Loads every family of alternatives."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from isomorph.parity.explaining import cause_tests

__all__ = ["load"]


@cache
def load() -> None:
    """Import each family once; they register their alternatives."""
    for found in pkgutil.iter_modules(cause_tests.__path__):
        if found.name not in ("base", "families"):
            importlib.import_module(f"{cause_tests.__name__}.{found.name}")

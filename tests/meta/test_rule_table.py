"""The rules: each has a case, each key is an overload of torch, each function takes what its schema gives."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from isomorph.convert.fx_body import DROPPED
from isomorph.convert.layout import PERMUTES, RESHAPES
from isomorph.convert.rules import registry
from scripts.package import ROOT

RULES = registry.load_rules()
KEYS = sorted({*RULES, *PERMUTES, *RESHAPES})


def cases() -> Iterator[Any]:
    for file in sorted((ROOT / "tests" / "rules").glob("cases_*.py")):
        yield from importlib.import_module(f"tests.rules.{file.stem}").CASES


def overload(key: str) -> Any:
    """torch's own object for "aten.add.Tensor" or "higher_order.cond"; None when torch has none."""
    namespace, _, rest = key.partition(".")
    name, _, variant = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    return getattr(packet, variant, None) if variant else packet


def test_every_rule_has_a_case() -> None:
    covered = {key for case in cases() for key in case.ops}
    assert sorted(set(KEYS) - covered) == []


def test_every_covered_op_has_a_rule() -> None:
    """A misspelt key in a case would cover nothing."""
    assert sorted({key for case in cases() for key in case.ops} - set(KEYS)) == []


def test_every_key_is_an_overload_of_torch() -> None:
    unknown = []
    for key in KEYS:
        try:
            found = overload(key)
        except (AttributeError, RuntimeError):
            found = None
        if found is None:
            unknown.append(key)
    assert unknown == []


@pytest.mark.parametrize("key", sorted(RULES))
def test_a_rule_takes_the_arguments_of_its_schema(key: str) -> None:
    schema = getattr(overload(key), "_schema", None)
    if schema is None:
        assert not key.startswith("aten."), f"{key} has no schema"
        return
    positional = [argument for argument in schema.arguments if not argument.kwarg_only]
    keyword = {
        argument.name: None for argument in schema.arguments if argument.kwarg_only and argument.name not in DROPPED
    }
    positional = [argument for argument in positional if argument.name not in DROPPED]
    try:
        inspect.signature(RULES[key].lower).bind("k", *positional, **keyword)
    except TypeError as error:
        pytest.fail(f"{key}: {error}\n  schema: {schema}\n  rule:   {inspect.signature(RULES[key].lower)}")


def test_every_family_is_listed() -> None:
    """A file of rules that is neither in FAMILIES nor imported by one that is would never register anything."""
    files = {file.stem for file in (ROOT / "convert" / "rules").glob("*.py")} - {"__init__"}
    assert sorted(name for name in files if f"{registry.__package__}.{name}" not in sys.modules) == []
    assert sorted(set(registry.FAMILIES) - files) == []


def test_a_second_rule_for_an_op_is_refused() -> None:
    key = next(iter(RULES))
    with pytest.raises(ValueError, match="has a rule already"):
        registry.rule(key)(lambda k: None)


def test_a_layer_form_names_arguments_of_its_function() -> None:
    with pytest.raises(ValueError, match="has no argument kernel"):
        registry.layer_form("aten.no_such_op.default", params=("weight", "kernel"))(lambda k, x, weight: None)
    assert "aten.no_such_op.default" not in registry.LAYER_FORMS

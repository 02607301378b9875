"""The table of ONNX rules against ONNX's own schemas: versions, attributes, defaults, and that no op is forgotten."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import onnx
import pytest
from onnx import helper

from isomorph.convert.onnx_in import registry

registry.load_rules()
RULES = registry.rules()
SCHEMAS: dict[tuple[str, str], dict[int, Any]] = defaultdict(dict)
for _schema in onnx.defs.get_all_schemas_with_history():
    SCHEMAS[_schema.domain, _schema.name][_schema.since_version] = _schema

# Ops of ai.onnx that have no rule, and why.
WITHOUT: dict[str, str] = {}
# Attributes that no rule need know, and why.
IGNORED = {
    "consumed_inputs": "a hint for reusing memory, of before opset 6",
    "sparse_value": "the reader writes it as an ordinary value",
}
# Defaults that are not ONNX's own text, and why.
DEFAULTS = {
    ("GRU", 1, "direction"): "ONNX's schema has a misprint: 'foward'",
    ("GridSample", 16, "mode"): "version 20 calls the same mode linear; the rule takes both names",
}


def label(rule: registry.Rule) -> str:
    return f"{rule.domain or 'ai.onnx'}.{rule.op}-{rule.since}"


def served(rule: registry.Rule) -> list[Any]:
    """The schemas that this rule serves: from its version on, until the next rule of the op."""
    following = min((r.since for r in RULES if (r.domain, r.op) == (rule.domain, rule.op) and r.since > rule.since),
                    default=1 << 30)  # fmt: skip
    return [s for v, s in SCHEMAS[rule.domain, rule.op].items() if rule.since <= v < following]


ONNX_RULES = [r for r in RULES if r.domain != "isomorph"]


@pytest.mark.parametrize("rule", ONNX_RULES, ids=label)
def test_a_rule_begins_at_a_version_of_its_schema(rule: registry.Rule) -> None:
    versions = sorted(SCHEMAS[rule.domain, rule.op])
    assert versions, f"ONNX has no op {rule.op}"
    assert rule.since in versions, f"{rule.op} has the versions {versions}"


@pytest.mark.parametrize("rule", ONNX_RULES, ids=label)
def test_a_rule_knows_every_attribute_and_no_other(rule: registry.Rule) -> None:
    known = {name for schema in served(rule) for name in schema.attributes}
    if rule.attributes is not None:
        assert rule.attributes - set(IGNORED) <= known
        assert known - set(IGNORED) <= rule.attributes


@pytest.mark.parametrize("rule", ONNX_RULES, ids=label)
def test_the_defaults_of_a_rule_are_onnx_own(rule: registry.Rule) -> None:
    parameters = inspect.signature(rule.function).parameters
    for schema in served(rule):
        for name, attribute in schema.attributes.items():
            parameter = parameters.get(name)
            if parameter is None or not attribute.default_value.name or (rule.op, rule.since, name) in DEFAULTS:
                continue
            wanted = helper.get_attribute_value(attribute.default_value)
            wanted = wanted.decode() if isinstance(wanted, bytes) else wanted
            given = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            if given is not None and given is not inspect.Parameter.empty:  # None: the rule asks for the version's
                assert given == pytest.approx(wanted), f"{name} is {wanted!r} in version {schema.since_version}"


def test_no_op_of_onnx_is_forgotten() -> None:
    have = {r.op for r in RULES if r.domain == ""}
    ops = {name for domain, name in SCHEMAS if domain == ""}
    functions = {name for (domain, name), versions in SCHEMAS.items() if domain == "" for s in versions.values()
                 if s.has_function or s.has_context_dependent_function}  # fmt: skip
    missing = sorted(ops - have - set(WITHOUT))
    assert missing == [], f"{len(missing)} have no rule, of them {sorted(functions & set(missing))} are functions"
    assert sorted(set(WITHOUT) & have) == [], "these have a rule now: take them out of the list"

"""The verdict on a hand-made pair: the honest twin passes, each planted bug is rejected with the right kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from isomorph.convert.errors import UsageError
from isomorph.parity.check import check
from isomorph.parity.verdict import SCHEMA, Verdict

from .twin import Net, TwinConversion, make_net

EXAMPLE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))

# bug -> (kind, quantity, mode) that must be among the mismatches; mode "" is the signature stage
BUGS = {
    "epsilon": ("value", "output", "eval"),
    "biased variance": ("value", "buffer", "train"),
    "swapped momentum": ("value", "buffer", "train"),
    "buffer not updated": ("value", "buffer", "train"),
    "running statistics": ("value", "output", "train"),
    "missing bias": ("value", "output", "eval"),
    "missing entry": ("missing", "signature", ""),
    "wrong value": ("value", "signature", ""),
    "transposed weight": ("value", "output", "eval"),
    "shifted": ("value", "output", "train"),  # in eval mode the mean over space hides it
    "dropout scale": ("value", "output", "train"),
    "dropout off": ("random", "signature", "train"),
    "site lost": ("random", "signature", "train"),
    "stop_gradient": ("value", "parameter gradient", "eval"),
    "gelu tanh": ("value", "output", "eval"),
    "leaky slope": ("value", "output", "eval"),
    "float32 slope": ("leak", "output", "eval"),
    "float32 inside": ("leak", "output", "eval"),
    "coarse": ("imprecise", "output", "eval"),
    "frozen": ("frozen", "signature", ""),
    "output order": ("shape", "output", "eval"),
    "missing output": ("structure", "signature", "eval"),
    "dtype": ("dtype", "output", "eval"),
    "batch baked": ("raised", "signature", "eval"),
}


@pytest.fixture(scope="module")
def net() -> Net:
    return make_net()


@pytest.fixture(scope="module")
def honest(net: Net) -> Verdict:
    return check(net, TwinConversion(net), EXAMPLE)


def kinds(verdict: Verdict) -> set[tuple[str, str, str]]:
    return {(m.kind, m.quantity, m.mode) for m in verdict.mismatches}


def test_honest_twin_passes_in_every_stage(honest: Verdict) -> None:
    assert honest.status == "PASS", honest.summary()
    assert {check.stage for check in honest.checks} == {"structure", "precision", "special", "randomised", "steps"}
    for stage in ("structure", "precision", "randomised"):
        for mode in ("eval", "train"):
            found = {c.quantity: c for c in honest.checks if c.stage == stage and c.mode == mode}
            assert set(found) == {"output", "input gradient", "parameter gradient", "buffer"}
            assert all(c.equal > 0 and c.failed == 0 for c in found.values()), (stage, mode, found)


def test_it_lists_what_it_compared(honest: Verdict, net: Net) -> None:
    coverage = honest.coverage
    assert coverage["parameters"]["compared"] == [name for name, _ in net.named_parameters()]
    assert coverage["inputs"] == ["x"]
    assert coverage["outputs"] == ["0", "1"]
    assert coverage["buffers"]["compared"] == ["bn.num_batches_tracked", "bn.running_mean", "bn.running_var"]
    assert all(len(sizes) >= 3 for sizes in coverage["dims"].values())
    assert {item["case"].distribution for item in coverage["cases"]} >= {"normal", "mixed", "grid", "large", "edge"}
    assert coverage["teeth"]
    assert all(tooth["caught"] for tooth in coverage["teeth"])


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_rejected_with_the_right_kind(net: Net, bug: str) -> None:
    verdict = check(net, TwinConversion(net, bug), EXAMPLE, examples=6)
    assert verdict.status == "FAIL", verdict.summary()
    assert BUGS[bug] in kinds(verdict), verdict.summary()


def test_a_parameter_that_only_the_converted_model_trains() -> None:
    net = make_net()
    net.conv.weight.requires_grad_(False)
    assert check(net, TwinConversion(net), EXAMPLE, level="quick").status == "PASS"
    verdict = check(net, TwinConversion(net, "thawed"), EXAMPLE, level="quick")
    assert ("frozen", "signature", "") in kinds(verdict)


@pytest.mark.parametrize("bug", ["", "gelu tanh", "dropout scale"])
def test_both_models_are_left_bit_identical(bug: str) -> None:
    net = make_net()
    net.train()
    conversion = TwinConversion(net, bug)
    before = [np.array(v) for v in conversion.model.variables]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(net, conversion, EXAMPLE, level="quick")
    assert torch.equal(torch.rand(3), expected)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(before, conversion.model.variables, strict=True))


def test_the_same_seed_gives_the_same_verdict(net: Net) -> None:
    first, second = (
        check(net, TwinConversion(net, "epsilon"), EXAMPLE, level="quick", seed=3).to_dict() for _ in range(2)
    )
    for verdict in (first, second):
        verdict["coverage"] = {k: v for k, v in verdict["coverage"].items() if k not in ("seconds", "timings")}
    assert first == second


def test_to_dict_is_json_and_versioned(honest: Verdict) -> None:
    data = json.loads(json.dumps(honest.to_dict(), allow_nan=False))
    assert data["schema"] == SCHEMA
    assert data["status"] == "PASS"
    assert data["checks"][0]["compared"] > 0
    assert data["environment"]["torch"]


def test_summary_is_a_few_plain_lines(honest: Verdict) -> None:
    lines = honest.summary().splitlines()
    assert len(lines) < 8
    assert lines[0].startswith("PASS: compared ")
    assert "of 8 parameters" in lines[0]
    assert any("allowed" in line for line in lines)
    assert any("torch's own" in line for line in lines)


def test_a_verdict_has_no_truth_value(honest: Verdict) -> None:
    with pytest.raises(TypeError, match="truth value"):
        bool(honest)


def test_zero_gradients_are_untested_not_equal(net: Net) -> None:
    verdict = check(net, TwinConversion(net), EXAMPLE, modes=("train",), examples=6)
    # a bias before a batch norm has no gradient but rounding
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.coverage["parameters"]["untested"] == ["conv.bias"]


def test_dtypes_and_modes_can_be_chosen(net: Net) -> None:
    structure = check(net, TwinConversion(net), EXAMPLE, modes=("eval",), dtype="float64", level="quick")
    precision = check(net, TwinConversion(net), EXAMPLE, modes=("eval",), dtype="own", level="quick", backward=False)
    assert {(c.stage, c.mode) for c in structure.checks} == {("structure", "eval")}
    assert {(c.stage, c.quantity) for c in precision.checks} == {("precision", "output"), ("precision", "buffer")}
    assert structure.status == precision.status == "PASS"


def test_wrong_arguments_are_usage_errors(net: Net) -> None:
    twin = TwinConversion(net)
    for options in ({"modes": "train"}, {"modes": ()}, {"dtype": "float8"}, {"level": "deep"}, {"examples": 0}):
        with pytest.raises(UsageError):
            check(net, twin, EXAMPLE, **options)
    with pytest.raises(UsageError):
        check(net, twin, inputs=3)


def test_an_original_that_refuses_every_input_is_an_error(net: Net) -> None:
    class Refusing(Net):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if x.abs().sum() != EXAMPLE.abs().sum():
                raise ValueError("not for me")
            return super().forward(x)

    refusing = Refusing()
    refusing.load_state_dict(net.state_dict())
    verdict = check(refusing, TwinConversion(net), EXAMPLE, level="quick")
    assert verdict.status == "ERROR"
    assert "not for me" in verdict.coverage["reason"]


def test_inputs_that_the_original_does_not_take_are_a_usage_error(net: Net) -> None:
    with pytest.raises(UsageError, match="too many positional"):
        check(net, TwinConversion(net), (EXAMPLE, EXAMPLE), level="quick")

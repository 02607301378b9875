"""The figures behind a verdict: errors per array, their distribution, the time of each stage, pictures of inputs."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from isomorph.parity import clock as clocks
from isomorph.parity import evidence as books
from isomorph.parity.check import check
from isomorph.parity.clock import Clock
from isomorph.parity.compare import Finding, compare_precision, compare_structure
from isomorph.parity.evidence import Book, owner_of
from isomorph.parity.explaining.summary import preview, summary
from isomorph.parity.judging.quantised import compare_to_budget
from isomorph.parity.ledger import Ledger
from isomorph.parity.spread import EDGES, Spread, spread_of
from isomorph.parity.tolerance import EPS64
from isomorph.parity.verdict import Case, Verdict

from .twin import Net, TwinConversion, make_net

EXAMPLE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def bins(counts: Any) -> dict[float, int]:
    """Lower edge -> elements, of the bins that hold any."""
    return {edge: int(count) for edge, count in zip(EDGES[:-1], counts, strict=True) if count}


# ------------------------------------------------------------------------------------------------------------ spread
def test_every_element_is_in_its_half_decade_or_exact() -> None:
    found = spread_of(np.array([[0.0, 2e-7, 4e-7], [2e-16, 2e-16, 0.5]]))
    assert bins(found.counts) == {-7.0: 1, -6.5: 1, -16.0: 2, -0.5: 1}
    assert found.exact == 1
    assert found.floor is None


def test_what_lies_beyond_the_edges_is_in_the_outer_bins() -> None:
    found = spread_of(np.array([1e-300, 1e-18, 100.0, 1e30, np.inf, np.nan]))
    assert bins(found.counts) == {EDGES[0]: 2, EDGES[-2]: 4}


def test_elements_that_are_not_compared_are_left_out() -> None:
    found = spread_of(np.array([0.0, 1e-3, 0.0]), np.array([1e-5, 0.0, 1e-5]), np.array([True, False, False]))
    assert (bins(found.counts), found.exact) == ({-3.0: 1}, 1)
    assert found.floor is not None
    assert (bins(found.floor), found.floor_exact) == ({-5.0: 1}, 1)


def test_spreads_add_up() -> None:
    total = Spread.nothing()
    total.add(spread_of(np.array([1e-3])))
    total.add(spread_of(np.array([1e-3, 0.0]), np.array([2e-9, 0.0])))
    assert (bins(total.counts), total.exact, total.floor_exact) == ({-3.0: 2}, 1, 1)
    assert total.floor is not None
    assert bins(total.floor) == {-9.0: 1}


# ---------------------------------------------------------------------------------------------------------- findings
def test_the_floor_of_a_precision_finding_is_the_original_s_own_error() -> None:
    reference = np.array([1.0, -2.0, 4.0, 0.5])
    finding = compare_precision(reference, reference * (1 + 3e-8), reference * (1 + 1e-7), "float32")
    assert finding.floor == pytest.approx(3e-8, rel=1e-6)
    assert finding.relative == pytest.approx(1e-7, rel=1e-6)
    assert finding.spread is not None
    assert finding.spread.floor is not None
    assert finding.spread.floor.sum() == finding.spread.counts.sum() == 4


def test_the_floor_of_a_structure_finding_is_its_conditioning_where_that_was_measured() -> None:
    reference = np.array([1.0, 1.0])
    assert compare_structure(reference, reference).floor is None
    assert compare_structure(reference, reference, np.array([1.0, 8.0])).floor == 8.0 * EPS64


def test_a_quantised_artifact_has_a_distribution_too() -> None:
    reference = np.array([1.0, -1.0, 1.0, -1.0])
    finding = compare_to_budget(reference, reference + 0.02, 0.1)
    assert finding.spread is not None
    assert bins(finding.spread.counts) == {-2.0: 4}


# -------------------------------------------------------------------------------------------------------------- book
def finding(error: float, tolerance: float = 1e-6, outcome: str = "equal", **more: Any) -> Finding:
    return Finding(outcome, relative=error, allowed=tolerance, spread=spread_of(np.array([error])), **more)


def test_the_worst_example_is_the_one_nearest_to_its_tolerance() -> None:
    book = Book()
    for item in (finding(1e-7, floor=1e-8), finding(9e-7, 1e-3, floor=2e-8), finding(0.5, outcome="inconclusive")):
        book.add("structure", "parameter gradient", "a.b.weight", "eval", "float64", item)
    (line,) = book.evidence()
    assert (line.error, line.tolerance, line.floor) == (1e-7, 1e-6, 1e-8)
    assert (line.compared, line.equal, line.failed, line.inconclusive, line.vacuous) == (3, 2, 0, 1, 0)
    assert line.module == "a.b"


def test_no_tolerance_is_worse_than_any() -> None:
    book = Book()
    for item in (finding(1.0, outcome="value"), finding(float("inf"), 0.0, "nonfinite"), finding(2.0, outcome="value")):
        book.add("structure", "output", "0", "eval", "float64", item)
    (line,) = book.evidence()
    assert (line.error, line.failed) == (float("inf"), 3)


def test_what_proves_nothing_is_in_no_distribution() -> None:
    book = Book()
    for outcome in ("equal", "value", "inconclusive", "vacuous"):
        book.add("structure", "output", "0", "eval", "float64", finding(1e-3, outcome=outcome))
    book.add("structure", "output", "1", "train", "float64", finding(1e-5))
    (spread,) = book.distributions()
    assert bins(spread.counts) == {-3.0: 2, -5.0: 1}
    assert spread.floor == ()


def test_the_ratio_is_the_median_over_examples() -> None:
    book = Book()
    for ratio in (1.0, 2.0, 50.0):
        book.add("precision", "output", "0", "eval", "float32", finding(1e-7, ratio=ratio))
    assert book.evidence()[0].ratio == 2.0


def test_of_too_many_arrays_the_worst_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MOST", 2)
    book = Book()
    for name, item in {"a": finding(1e-9), "b": finding(1e-7), "c": finding(1e-8, outcome="value")}.items():
        book.add("structure", "buffer", name, "eval", "float64", item)
    assert [line.name for line in book.evidence()] == ["b", "c"]
    assert book.left_out == 1


def test_owners() -> None:
    assert owner_of("parameter gradient", "layers.0.weight") == owner_of("buffer", "layers.0.mean") == "layers.0"
    assert owner_of("parameter", "block/fc/kernel") == "block.fc"
    assert owner_of("input gradient", "x.y") == owner_of("parameter", "scale") == owner_of("output", "0") == ""


def test_a_ledger_keeps_the_book() -> None:
    ledger = Ledger()
    ledger.record("structure", "output", "0", "eval", "float64", Case("normal", 1), finding(1e-9))
    assert ledger.book.evidence()[0].error == 1e-9


# ------------------------------------------------------------------------------------------------------------- clock
def test_a_stage_that_comes_again_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 3.0, 4.0, 4.0, 10.0])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(times))
    clock = Clock()
    for stage in ("eval mode", "eval mode", "shrinking", "eval mode"):
        clock.start(stage)
    assert clock.table() == {"eval mode": 8.0, "shrinking": 1.0}


# ----------------------------------------------------------------------------------------------------------- verdict
@pytest.fixture(scope="module")
def net() -> Net:
    return make_net()


@pytest.fixture(scope="module")
def honest(net: Net) -> Verdict:
    return check(net, TwinConversion(net), EXAMPLE, level="quick", steps=1)


def test_the_evidence_adds_up_to_the_checks(honest: Verdict) -> None:
    assert {c.stage for c in honest.checks} == {"structure", "precision", "steps"}
    for said in honest.checks:
        key = (said.stage, said.quantity, said.mode, said.dtype)
        lines = [e for e in honest.evidence if (e.stage, e.quantity, e.mode, e.dtype) == key]
        assert len(lines) == said.names
        for name in ("compared", "equal", "failed", "inconclusive", "vacuous"):
            assert sum(getattr(line, name) for line in lines) == getattr(said, name)
        assert max(line.error for line in lines) >= said.worst


def test_errors_at_working_precision_stand_beside_the_original_s_own(honest: Verdict) -> None:
    lines = [e for e in honest.evidence if e.stage == "precision" and e.quantity == "parameter gradient"]
    assert {line.module for line in lines} == {"conv", "bn", "square", "head"}
    judged = [line for line in lines if line.equal]  # a bias before a normalisation has no gradient in train mode
    assert len(judged) >= len(lines) - 1
    for line in judged:
        assert line.floor, line
        assert line.ratio, line
        assert 0 < line.error <= line.tolerance < 1e-3, line
    assert all(line.floor is None for line in honest.evidence if line.stage == "structure")  # not needed, not measured


def test_float64_errors_lie_decades_below_float32_ones(honest: Verdict) -> None:
    found = {(d.stage, d.dtype): d for d in honest.distributions if d.quantity == "output"}
    double, single = found["structure", "float64"], found["precision", "float32"]
    assert max(bins(double.counts)) < -12 < min(bins(single.counts)) < max(bins(single.counts)) < -4
    assert not double.floor
    assert sum(single.floor) + single.floor_exact == sum(single.counts) + single.exact


def test_the_time_of_each_stage_is_told(honest: Verdict) -> None:
    timings, seconds = honest.coverage["timings"], honest.coverage["seconds"]
    assert list(timings)[:3] == ["opening", "correspondence", "signature"]
    assert {"eval mode", "train mode", "optimizer steps", "self-test"} <= set(timings)
    assert 0.9 * seconds <= sum(timings.values()) <= seconds + 0.01


def test_all_of_it_is_json(honest: Verdict) -> None:
    said = json.loads(json.dumps(honest.to_dict(), allow_nan=False))
    assert len(said["evidence"]) == len(honest.evidence)
    assert len(said["distributions"][0]["counts"]) == len(said["distributions"][0]["edges"]) - 1
    assert said["modules"] == []


def test_a_bug_is_seen_in_the_evidence(net: Net) -> None:
    verdict = check(net, TwinConversion(net, "epsilon"), EXAMPLE, level="quick", dtype="float64", modes=["eval"])
    lines = {(e.quantity, e.name): e for e in verdict.evidence}
    assert lines["output", "0"].failed
    assert lines["output", "0"].error > lines["output", "0"].tolerance
    assert lines["output", "0"].floor is not None
    told = verdict.counterexample
    assert told is not None
    assert {"min", "max", "mean", "preview"} <= set(told.inputs["x"])


def test_steps_are_taken_as_asked(net: Net, honest: Verdict) -> None:
    assert honest.coverage["steps"]["steps"] == 1
    none = check(net, TwinConversion(net), EXAMPLE, level="quick", steps=0, modes=["train"], dtype="float64")
    assert "steps" not in none.coverage


# ------------------------------------------------------------------------------------------------------------ inputs
def test_the_figures_of_an_input_are_of_its_finite_elements() -> None:
    said = summary(np.array([1.0, -3.0, np.inf, np.nan], np.float32))
    assert (said["min"], said["max"], said["mean"], said["nonzero"]) == (-3.0, 1.0, -1.0, 4)
    assert said["preview"] is None
    nothing = summary(np.array([np.nan]))
    assert nothing["min"] is nothing["max"] is nothing["mean"] is None
    assert summary(np.array([True, False]))["mean"] == 0.5


def pixels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    said = preview(array)
    assert said is not None
    raw = np.frombuffer(base64.b64decode(said["pixels"]), np.uint8)
    return raw.reshape(said["height"], said["width"], said["channels"])


def test_an_image_is_drawn_from_low_to_high() -> None:
    image = np.zeros((2, 3, 4, 6), np.float32)
    image[0, 1, 2, 3], image[0, 2, 0, 0] = 2.0, -2.0
    image[1] = 7.0  # another one of the batch
    drawn = pixels(image)
    assert drawn.shape == (4, 6, 3)
    assert drawn[2, 3].tolist() == [128, 255, 128]
    assert drawn[0, 0].tolist() == [128, 128, 0]


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 1, 8, 8), (8, 8, 1)),
        ((1, 8, 9, 3), (8, 9, 3)),  # channels last
        ((2, 16, 12), (16, 12, 1)),
        ((2, 7, 16, 12), (16, 12, 1)),  # the first of many channels
        ((1, 3, 200, 100), (50, 50, 3)),
        ((1, 1, 256, 4), (64, 4, 1)),
    ],
)
def test_what_looks_like_an_image(shape: tuple[int, ...], drawn: tuple[int, ...]) -> None:
    assert pixels(np.random.default_rng(0).random(shape)).shape == drawn


@pytest.mark.parametrize("shape", [(8, 8), (2, 3, 3, 3), (1, 3, 300, 300), (2, 0, 8, 8), (), (1, 1, 2, 8)])
def test_what_does_not(shape: tuple[int, ...]) -> None:
    assert preview(np.zeros(shape)) is None


def test_blocks_are_averaged_and_a_flat_image_is_black() -> None:
    board = np.indices((128, 128)).sum(0) % 2
    assert set(np.unique(pixels(board[None]))) == {128}
    assert set(np.unique(pixels(np.full((1, 8, 8), 3.0)))) == {0}


def test_what_is_not_finite_is_drawn_as_low() -> None:
    image = np.ones((1, 4, 4))
    image[0, 0, 0], image[0, 1, 1] = np.nan, -1e308
    image[0, 2, 2] = 1e308
    drawn = pixels(image)[..., 0]
    assert (drawn[0, 0], drawn[1, 1], drawn[2, 2]) == (0, 0, 255)
    assert preview(np.full((1, 4, 4), np.nan)) is None

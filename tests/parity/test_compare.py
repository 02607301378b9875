"""The pure comparison: arrays in, a finding out."""

from __future__ import annotations

import numpy as np
import pytest

from isomorph.parity.compare import canonical, compare_precision, compare_signature, compare_structure

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 5))


def test_equal_arrays_are_equal() -> None:
    finding = compare_structure(X, X.copy())
    assert finding.outcome == "equal"
    assert finding.failing == 0
    assert finding.elements == 20


def test_rounding_is_equal_and_a_millionth_is_not() -> None:
    assert compare_structure(X, X * (1 + 1e-13)).outcome == "equal"
    finding = compare_structure(X, X * (1 + 1e-6))
    assert finding.outcome == "value"
    assert finding.failing == 20
    assert finding.relative == pytest.approx(1e-6, rel=1e-3)


def test_one_wrong_element_is_found_and_shown() -> None:
    wrong = X.copy()
    wrong[2, 3] += 0.5
    finding = compare_structure(X, wrong)
    assert (finding.outcome, finding.position, finding.failing) == ("value", (2, 3), 1)
    assert finding.got - finding.expected == pytest.approx(0.5)


def test_an_error_of_a_float32_ulp_is_a_leak() -> None:
    assert compare_structure(X, X.astype(np.float32).astype(np.float64)).outcome == "leak"
    assert compare_structure(X, X * (1 + 3 * 2.0**-23)).outcome == "value"


def test_ill_conditioning_is_inconclusive_and_never_evidence() -> None:
    slope = np.full(X.shape, 1e7)
    assert compare_structure(X, X * 1.0001, slope).outcome == "inconclusive"
    assert compare_structure(X, X * 1.1, slope).outcome == "inconclusive"
    assert compare_structure(X, X * (1 + 1e-13), slope).outcome == "equal"  # agreement far within it is evidence


def test_conditioning_of_some_elements_leaves_the_others_judged() -> None:
    slope = np.zeros(X.shape)
    slope[0] = 1e9
    wrong = X.copy()
    wrong[0] *= 1.001
    assert compare_structure(X, wrong, slope).outcome == "equal"
    wrong[1] *= 1.001
    assert compare_structure(X, wrong, slope).outcome == "value"


@pytest.mark.parametrize("empty", [np.zeros((0, 3)), np.zeros((2, 3)), np.full((2, 3), np.nan)])
def test_nothing_to_compare_is_vacuous(empty: np.ndarray) -> None:
    assert compare_structure(empty, empty.copy()).outcome == "vacuous"


def test_what_is_zero_up_to_rounding_is_vacuous() -> None:
    assert compare_structure(X * 1e-17, X * 2e-17, None, 1e-13).outcome == "vacuous"
    assert compare_structure(X * 1e-17, X, None, 1e-13).outcome == "value"


@pytest.mark.parametrize(
    ("left", "right"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1.0), (np.inf, np.nan), (1.0, np.inf)]
)
def test_nan_and_infinity_must_match_in_place(left: float, right: float) -> None:
    assert compare_structure(np.array([left, 2.0]), np.array([right, 2.0])).outcome == "nonfinite"
    assert compare_structure(np.array([left, 2.0]), np.array([left, 2.0])).outcome == "equal"
    assert compare_structure(np.array([left, 2.0]), np.array([left, 3.0])).outcome == "value"


def test_integers_and_booleans_must_be_equal() -> None:
    assert compare_structure(np.array([1, 2]), np.array([1, 2])).outcome == "equal"
    finding = compare_structure(np.array([1, 2, 3]), np.array([1, 5, 3]))
    assert (finding.outcome, finding.position, finding.expected, finding.got) == ("integer", (1,), 2.0, 5.0)
    assert compare_structure(np.array([True]), np.array([False])).outcome == "integer"


def test_shape_and_dtype() -> None:
    assert compare_structure(X, X.T).outcome == "shape"
    assert compare_structure(X, X.astype(np.int64)).outcome == "dtype"
    assert compare_signature((1,), "float32", (1,), "float32") is None
    assert compare_signature((1,), "float32", (1, 1), "float32").outcome == "shape"  # type: ignore[union-attr]
    assert compare_signature((1,), "float32", (1,), "float16").outcome == "dtype"  # type: ignore[union-attr]


def test_huge_and_tiny_values_do_not_overflow_the_scale() -> None:
    for factor in (1e200, 1e-200):
        assert compare_structure(X * factor, X * factor * (1 + 1e-13)).outcome == "equal"
        assert compare_structure(X * factor, X * factor * 1.001).outcome == "value"


def test_complex_is_compared_by_parts() -> None:
    z = X + 1j * X[::-1]
    assert canonical(z).shape == (4, 5, 2)
    assert compare_structure(z, z).outcome == "equal"
    assert compare_structure(z, z.conj()).outcome == "value"


class TestPrecision:
    reference = X.astype(np.float32).astype(np.float64)
    original = (reference * (1 + 2.0**-24)).astype(np.float32)

    def judge(self, got: np.ndarray, **options: object) -> str:
        finding = compare_precision(self.reference, self.original, got, "float32", **options)  # type: ignore[arg-type]
        return finding.outcome

    def test_rounding_like_the_original_is_equal(self) -> None:
        assert self.judge((self.reference * (1 - 2.0**-22)).astype(np.float32)) == "equal"

    def test_bfloat16_inside_is_imprecise_and_a_wrong_value_is_beyond(self) -> None:
        coarse = (self.reference.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        assert self.judge(coarse) in ("imprecise", "precision")
        assert self.judge((self.reference * 1.01).astype(np.float32)) == "precision"

    def test_each_floor_alone_excuses_what_it_measures(self) -> None:
        got = (self.reference * (1 + 1e-4)).astype(np.float32)
        assert self.judge(got) == "imprecise"
        assert self.judge(got, neighbours=(np.full(X.shape, 1e-5),)) == "equal"
        assert self.judge(got, slope=np.full(X.shape, 100.0)) == "equal"
        assert self.judge(got, coarse=np.full(X.shape, 1e-5)) == "equal"

    def test_norm_wise_forgives_one_element(self) -> None:
        got = self.original.copy()
        got[0, 0] += np.float32(1e-5)
        assert self.judge(got) == "imprecise"
        assert self.judge(got, normwise=True) == "equal"

    def test_finite_where_the_original_overflowed_is_accepted(self) -> None:
        own, got = self.original.copy(), self.original.copy()
        own[0, 0] = np.inf
        assert compare_precision(self.reference, own, got, "float32").outcome == "equal"
        assert compare_precision(self.reference, got, own, "float32").outcome == "nonfinite"
        nowhere = self.reference.copy()
        nowhere[0, 0] = np.inf
        assert compare_precision(nowhere, own, got, "float32").outcome == "nonfinite"


def test_a_leak_grows_with_the_conditioning_where_constants_are_known_to_be_rounded() -> None:
    """A slope of 100: what two ulps of float32 inside do there, and no more; without conditioning no more than ever."""
    slope = 100.0 * np.abs(X)
    assert compare_structure(X, X * (1 + 1e-5), slope, rounded=True).outcome == "leak"
    assert compare_structure(X, X * (1 + 1e-5), slope).outcome == "value"
    assert compare_structure(X, X * (1 + 1e-3), slope, rounded=True).outcome == "value"
    assert compare_structure(X, X * (1 + 1e-5), rounded=True).outcome == "value"

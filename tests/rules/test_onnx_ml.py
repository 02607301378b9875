"""Rules of ai.onnx.ml and of strings, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from isomorph.convert.errors import UnsupportedError
from isomorph.convert.onnx_in.rules.mapping import cast_values, vector_of, zip_map
from isomorph.convert.onnx_in.rules.support_vectors import coupled

from .onnx_node import agree, converted, model_of, run

ML = "ai.onnx.ml"
F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(F32)
X[0, 0] = np.nan
CLEAN = RNG.normal(size=(5, 3)).astype(F32)
WORDS = np.array([["a", "b"], ["c", "ü"]], dtype=object)
VOTES = [1.0, 2.0, -3.0, 4.0, 5.0, 0.5, -1.0, 0.25, 3.0, -2.0]
COEFFICIENTS = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, -2.0, 1.0, 0.1]


def tree_attributes(kind: str, votes: int, **more: Any) -> dict[str, Any]:
    """Two trees over three features with so many votes at each leaf; NaN goes to yes at one node."""
    return {
        "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
        "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0],
        "nodes_values": [0.2, -0.3, 0, 0, 0, 0.1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 3, 0, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [2, 4, 0, 0, 0, 2, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 0],
        f"{kind}_treeids": [0, 0, 0, 1, 1] * votes,
        f"{kind}_nodeids": [2, 3, 4, 1, 2] * votes,
        **more,
    }


def trees(ids: list[int], weights: list[float], kind: str = "class", **more: Any) -> dict[str, Any]:
    return tree_attributes(kind, len(ids) // 5, **{f"{kind}_ids": ids, f"{kind}_weights": weights}, **more)


# op, inputs, attributes, outputs, the version of the domain
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], int, int]] = [
    ("ArrayFeatureExtractor", (X, np.int64([[2, 0]])), {}, 1, 1),
    ("ArrayFeatureExtractor", (X[1], np.int64([2, 0])), {}, 1, 1),
    ("Binarizer", (CLEAN,), {"threshold": 0.1}, 1, 1),
    ("CategoryMapper", (WORDS,), {"cats_strings": ["a", "ü"], "cats_int64s": [7, 8], "default_int64": -5}, 1, 1),
    ("CategoryMapper", (np.int64([7, 9]),), {"cats_strings": ["a", "ü"], "cats_int64s": [7, 8]}, 1, 1),
    ("FeatureVectorizer", (CLEAN, CLEAN[:, :2].copy()), {"inputdimensions": [3, 2]}, 1, 1),
    ("Imputer", (X,), {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}, 1, 1),
    ("Imputer", (np.int64([[1, 2], [3, 1]]),), {"imputed_value_int64s": [9], "replaced_value_int64": 1}, 1, 1),
    ("LabelEncoder", (WORDS,), {"classes_strings": ["b", "a"]}, 1, 1),
    ("LabelEncoder", (np.int64([1, 0, 5]),), {"classes_strings": ["b", "a"]}, 1, 1),
    ("LabelEncoder", (WORDS,), {"keys_strings": ["a", "ü"], "values_floats": [0.5, 2.0]}, 1, 2),
    ("LabelEncoder", (np.int64([1, 0]),), {"keys_int64s": [1, 2], "values_strings": ["x", "y"]}, 1, 2),
    ("LabelEncoder", (X,), {"keys_floats": [float("nan"), 1.0], "values_floats": [7.0, 2.0]}, 1, 4),
    ("LinearRegressor", (CLEAN,), {"coefficients": COEFFICIENTS[:3], "intercepts": [0.5]}, 1, 1),
    ("LinearRegressor", (CLEAN,), {"coefficients": COEFFICIENTS, "intercepts": [1.0, 2.0, 3.0], "targets": 3}, 1, 1),
    ("Normalizer", (CLEAN,), {"norm": "MAX"}, 1, 1),
    ("Normalizer", (CLEAN,), {"norm": "L1"}, 1, 1),
    ("Normalizer", (CLEAN * [[0], [1], [1], [1], [1]],), {"norm": "L2"}, 1, 1),
    ("OneHotEncoder", (np.int64([[1, 5], [3, 1]]),), {"cats_int64s": [1, 3], "zeros": 1}, 1, 1),
    ("OneHotEncoder", (WORDS,), {"cats_strings": ["a", "b", "c"]}, 1, 1),
    ("Scaler", (CLEAN,), {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 1.0, 2.0]}, 1, 1),
    ("Scaler", (np.int64([[1, 2]]),), {"offset": [1.0], "scale": [0.5]}, 1, 1),
    *(
        ("LinearClassifier", (CLEAN,), {"coefficients": COEFFICIENTS, "intercepts": [0.1, 0.2, 0.3], **more}, 2, 1)
        for more in (
            {"classlabels_ints": [0, 1, 2]},
            {"classlabels_strings": ["x", "y", "z"], "post_transform": "SOFTMAX"},
            {"classlabels_ints": [4, 5, 6], "post_transform": "LOGISTIC"},
        )
    ),
    *(
        ("LinearClassifier", (CLEAN,), {"coefficients": COEFFICIENTS[:3], "intercepts": [0.1], **more}, 2, 1)
        for more in ({"classlabels_ints": [0, 1]}, {"classlabels_ints": [0, 1], "post_transform": "LOGISTIC"})
    ),
    *(
        (
            "SVMRegressor",
            (CLEAN,),
            {
                "coefficients": [1.0, -0.5],
                "support_vectors": COEFFICIENTS[:6],
                "n_supports": 2,
                "rho": [0.3],
                "kernel_type": kind,
                "kernel_params": [0.5, 0.25, 3.0],
                "one_class": one,
            },
            1,
            1,
        )
        for kind, one in (("LINEAR", 0), ("RBF", 0), ("POLY", 0), ("SIGMOID", 0), ("RBF", 1))
    ),
    *(
        (
            "TreeEnsembleRegressor",
            (X,),
            trees([0] * 5 + [1] * 5, VOTES, "target", n_targets=2, base_values=[0.5, 1.0], **more),
            1,
            version,
        )
        for version, more in (
            (1, {}),
            (3, {"aggregate_function": "AVERAGE"}),
            (3, {"aggregate_function": "MIN"}),
            (3, {"aggregate_function": "MAX"}),
            (3, {"post_transform": "SOFTMAX"}),
        )
    ),
    *(
        ("TreeEnsembleClassifier", (X,), {**trees([0, 1, 2, 1, 2], [1.0, 2.0, 3.0, 4.0, 5.0]), **more}, 2, 3)
        for more in (
            {"classlabels_int64s": [0, 1, 2]},
            {"classlabels_strings": ["x", "y", "z"], "post_transform": "SOFTMAX"},
            {"classlabels_int64s": [3, 1, 2], "base_values": [3.5, 0.0, 1.0], "post_transform": "LOGISTIC"},
        )
    ),
    *(
        ("TreeEnsembleClassifier", (X,), {**trees([only] * 5, weights), "classlabels_int64s": [0, 1], **more}, 2, 3)
        for only in (0, 1)
        for weights in ([0.1, 0.2, 0.3, 0.4, 0.5], [0.5, -1.0, 1.0, 0.25, -2.0])
        for more in ({}, {"post_transform": "LOGISTIC"}, {"post_transform": "SOFTMAX"})
    ),
]


def machine(classes: int, counts: list[int], probable: bool, **more: Any) -> tuple[Any, ...]:
    """A row of an SVMClassifier over three features; ONNX Runtime fits its probabilities to some 0.005."""
    pairs, vectors = classes * (classes - 1) // 2, sum(counts)
    rng = np.random.default_rng(classes)
    attributes = {
        "kernel_params": [0.5, 0.25, 2.0],
        "coefficients": rng.normal(size=(classes - 1) * vectors).tolist(),
        "support_vectors": rng.normal(size=3 * vectors).tolist(),
        "vectors_per_class": counts,
        "rho": (rng.normal(size=pairs) / 3).tolist(),
    }
    if probable:
        attributes |= {"prob_a": (-np.abs(rng.normal(size=pairs))).tolist(), "prob_b": [0.1] * pairs}
    return "SVMClassifier", (CLEAN,), {**attributes, **more}, 2, 1


LINEAR = {"rho": [0.25], "kernel_params": [0.0, 0.0, 0.0]}
THREE, TWO = {"classlabels_strings": ["x", "y", "z"]}, {"classlabels_ints": [10, 11]}
CASES += [
    *(machine(3, [2, 1, 2], False, kernel_type=kind, **THREE) for kind in ("LINEAR", "RBF", "POLY", "SIGMOID")),
    machine(3, [2, 1, 2], True, kernel_type="RBF", **THREE),
    machine(3, [2, 1, 2], False, kernel_type="RBF", post_transform="SOFTMAX", **THREE),
    *(machine(2, [2, 2], False, kernel_type="RBF", post_transform=p, **TWO) for p in ("NONE", "LOGISTIC", "SOFTMAX")),
    *(machine(2, [2, 2], True, kernel_type="RBF", post_transform=p, **TWO) for p in ("NONE", "SOFTMAX")),
    ("SVMClassifier", (CLEAN,), {"coefficients": COEFFICIENTS, "classlabels_ints": [0, 1, 2], **LINEAR}, 2, 1),
    ("SVMRegressor", (CLEAN,), {"coefficients": COEFFICIENTS[:3], **LINEAR}, 1, 1),
]


def runtime(model: Any, arrays: tuple[Any, ...]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, {f"x{i}": a for i, a in enumerate(arrays)})
    return found


@pytest.mark.parametrize("row", CASES, ids=[f"{row[0]}-{i}" for i, row in enumerate(CASES)])
def test_as_onnx_runtime_has_it(row: Any) -> None:
    op, arrays, attributes, outputs, version = row
    arrays = tuple(a if a.dtype != np.float64 else a.astype(F32) for a in arrays)
    gives = TensorProto.FLOAT if op == "Scaler" else None
    model = model_of(op, *arrays, domain=ML, opset=version, outputs=outputs, gives=gives, **attributes)
    for ours, theirs in zip(run(model, *arrays), runtime(model, arrays), strict=True):
        agree(ours, theirs, rtol=1e-5, atol=5e-3 if "prob_a" in attributes else 1e-6)


def test_probabilities_that_agree_pair_by_pair_are_found() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64, requires_grad=True)
    ratio = torch.stack([p[:, i] / (p[:, i] + p[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))], 1)
    torch.testing.assert_close(coupled(ratio, 3), p)
    assert torch.autograd.gradcheck(lambda r: coupled(r, 3), ratio.detach().requires_grad_())


def test_the_top_class_of_two_that_have_votes() -> None:
    """By the text of ONNX; ONNX Runtime 1.31 looks at the second class alone."""
    attributes = trees([0, 1, 0, 1, 0], [0.1, 0.2, 0.3, 0.4, 0.5])
    model = model_of(
        "TreeEnsembleClassifier", X, domain=ML, opset=3, outputs=2, classlabels_int64s=[4, 5], **attributes
    )
    labels, scores = run(model, X)
    agree(labels, np.int64([4, 5])[scores.argmax(1)])


def test_trees_that_are_a_loop_are_refused() -> None:
    attributes = trees([0, 1, 2, 1, 2], [1.0] * 5) | {"nodes_truenodeids": [1, 0, 0, 0, 0, 1, 0, 0]}
    model = model_of(
        "TreeEnsembleClassifier", X, domain=ML, opset=3, outputs=2, classlabels_int64s=[0, 1, 2], **attributes
    )
    with pytest.raises(UnsupportedError, match="do not form trees"):
        converted(model)


def test_trees_are_exported_with_a_free_batch() -> None:
    attributes = trees([0] * 5, VOTES[:5], "target", n_targets=1)
    model = model_of("TreeEnsembleRegressor", CLEAN, domain=ML, opset=3, dims={0: ("n", 3)}, **attributes)
    module = converted(model).eval()
    batch = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(module, (torch.tensor(CLEAN),), dynamic_shapes=({0: batch},)).module()
    wide = torch.tensor(np.concatenate([CLEAN, CLEAN + 1]))
    torch.testing.assert_close(program(wide), module(wide))


# -------------------------------------------------------------------------------------------------------- dictionaries
def test_dictionaries() -> None:
    """A classifier's ZipMap, and dictionaries to tensors."""
    scores = F32([[0.25, 0.75], [1.0, 0.0]])
    found = zip_map(torch.tensor(scores), classlabels_strings=("no", "yes"))
    assert [{k: float(v) for k, v in row.items()} for row in found] == [{"no": 0.25, "yes": 0.75}, {"no": 1, "yes": 0}]
    assert vector_of({"b": 2.0, "a": 1.0}, ("a", "c", "b")).tolist() == [[1, 0, 2]]
    assert vector_of({1: "x"}, (2, 1)).tolist() == [["", "x"]]
    assert cast_values({3: 1.5, 1: 2.5}, "TO_FLOAT", 0).tolist() == [[2.5, 1.5]]
    assert cast_values({3: 1.5, 1: 2.5}, "TO_INT64", 4).tolist() == [[0, 2, 0, 1]]
    assert cast_values({2: "b"}, "TO_STRING", 3).tolist() == [["", "", "b"]]


# -------------------------------------------------------------------------------------------------------------- strings
def test_strings() -> None:
    (joined,) = run(model_of("StringConcat", WORDS, WORDS[:, :1]), WORDS, WORDS[:, :1])
    assert joined.tolist() == [["aa", "ba"], ["cc", "üc"]]
    (same,) = run(model_of("Equal", WORDS, WORDS[:1], gives=TensorProto.BOOL), WORDS, WORDS[:1])
    assert same.tolist() == [[True, True], [False, False]]
    condition = np.array([True, False])
    (chosen,) = run(model_of("Where", condition, WORDS, WORDS[::-1]), condition, WORDS, WORDS[::-1].copy())
    assert chosen.tolist() == [["a", "ü"], ["c", "b"]]
    assert run(model_of("RegexFullMatch", WORDS, pattern="[a-c]\\z"), WORDS)[0].tolist() == [
        [True, True],
        [True, False],
    ]


def test_constant_strings_meet_those_of_a_run() -> None:
    model = model_of("StringConcat", WORDS, np.array("-", dtype=object), constants=(1,))
    assert run(model, WORDS, None)[0].tolist() == [["a-", "b-"], ["c-", "ü-"]]


def test_a_pattern_of_re2_that_python_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="is not one of Python's"):
        converted(model_of("RegexFullMatch", WORDS, pattern="\\pN+"))

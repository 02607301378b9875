"""Rules of ai.onnx.ml and of strings, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from .onnx_node import agree, converted, model_of, run

ML = "ai.onnx.ml"
F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(F32)
X[0, 0] = np.nan
CLEAN = RNG.normal(size=(5, 3)).astype(F32)
WORDS = np.array([["a", "b"], ["c", "ü"]], dtype=object)
COEFFICIENTS = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, -2.0, 1.0, 0.1]


def tree_attributes(kind: str, **more: Any) -> dict[str, Any]:
    """Two trees over three features with votes for as many targets as `ids` says; NaN goes to yes at one node."""
    return {
        "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
        "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0],
        "nodes_values": [0.2, -0.3, 0, 0, 0, 0.1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 3, 0, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [2, 4, 0, 0, 0, 2, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 0],
        f"{kind}_treeids": [0, 0, 0, 1, 1],
        f"{kind}_nodeids": [2, 3, 4, 1, 2],
        **more,
    }


def trees(ids: list[int], weights: list[float], kind: str = "class", **more: Any) -> dict[str, Any]:
    return tree_attributes(kind, **{f"{kind}_ids": ids, f"{kind}_weights": weights}, **more)


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
    ("LabelEncoder", (X,), {"keys_floats": [float("nan"), 1.0], "values_floats": [7.0, 2.0]}, 1, 2),
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
    ("SVMRegressor", (CLEAN,), {"coefficients": COEFFICIENTS[:3], "rho": [0.3]}, 1, 1),
    *(
        (
            "TreeEnsembleRegressor",
            (X,),
            trees([0, 1, 0, 1, 1], [1.0, 2.0, -3.0, 4.0, 5.0], "target", n_targets=2, base_values=[0.5, 1.0], **more),
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
        ("TreeEnsembleClassifier", (X,), {**trees([1] * 5, weights), "classlabels_int64s": [0, 1], **more}, 2, 3)
        for weights in ([0.1, 0.2, 0.3, 0.4, 0.5], [0.5, -1.0, 1.0, 0.25, -2.0])
        for more in ({}, {"post_transform": "LOGISTIC"})
    ),
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
        agree(ours, theirs, rtol=1e-5, atol=1e-6)

"""What the state dict of an imported model is called, who owns a weight, and what is a weight at all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.naming import Names, anonymous, split

from .onnx_in_models import drawn, model, node, reference

KERNEL = drawn(4, 4)
X = {"x": (3, 4)}


def state(*nodes: Any, metadata: dict[str, str] | None = None, trainable: str = "auto", **weights: Any) -> list[str]:
    made = {name.replace("__", "."): np.asarray(a) for name, a in weights.items()}
    return list(to_torch(model(nodes, X, ["y"], made, metadata=metadata), trainable=trainable).module.state_dict())


def linear(weight: str, name: str = "", x: str = "x", y: str = "y", bias: str | None = None) -> Any:
    return node("Gemm", [x, weight, *([bias] if bias else [])], [y], name=name, transB=1)


# ------------------------------------------------------------------------------------------------------- third parties
@pytest.mark.parametrize(
    ("weight", "name", "expected"),
    [
        ("model.fc.weight", "/fc/Gemm", "model.fc.weight"),
        ("/layer1/fc/weight", "", "layer1.fc.weight"),
        ("net/fc/kernel:0", "", "net.fc.weight"),
        ("onnx::Gemm_12", "/block/fc/Gemm", "block.fc.weight"),
        ("onnx::Gemm_12", "Gemm_3", "linear.weight"),
        ("val_7", "/0/Gemm", "0.weight"),
        ("W1", "/enc/fc/Gemm", "enc.fc.weight"),
        ("StatefulPartitionedCall/net/fc/kernel", "", "net.fc.weight"),
        ("layer.forward.weight", "", "layer.forward_.weight"),
        ("layer.lambda.weight", "", "layer.lambda_.weight"),
        ("1st layer.weight", "", "1st_layer.weight"),
    ],
)
def test_names_of_a_layer(weight: str, name: str, expected: str) -> None:
    nodes = [linear(weight, name)]
    conversion = to_torch(model(nodes, X, ["y"], {weight: KERNEL}))
    assert list(conversion.module.state_dict()) == [expected]
    assert [e.source for e in conversion.weights] == [weight]
    conversion.module(torch.zeros(3, 4))


def test_scopes_of_the_dynamo_exporter() -> None:
    made = linear("val_3")
    made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'blocks', 'blocks.0.proj', 'linear']")
    assert state(made, val_3=KERNEL) == ["blocks.0.proj.weight"]
    made.metadata_props[0].value = "[(]"  # a scope that cannot be read is none
    assert state(made, val_3=KERNEL) == ["linear.weight"]


def test_no_name_is_given_twice() -> None:
    nodes = [linear("a.weight", y="h"), linear("a/weight", x="h", y="i"), linear("onnx::1", "/a/Gemm", x="i")]
    arrays = {"a.weight": drawn(4, 4, seed=1), "a/weight": drawn(4, 4, seed=2), "onnx::1": drawn(4, 4, seed=3)}
    conversion = to_torch(model(nodes, X, ["y"], arrays))
    assert len(conversion.module.state_dict()) == 3
    for name, array in conversion.pull().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_parameter_and_a_module_of_one_name() -> None:
    nodes = [node("Mul", ["x", "scale"], ["h"]), linear("scale.fc.weight", x="h")]
    assert sorted(state(*nodes, scale=drawn(4), scale__fc__weight=KERNEL)) == ["scale.fc.weight", "scale_1"]


def test_free_names() -> None:
    names = Names()
    assert [names.free("a.b"), names.free("a.b"), names.free("a.b.c"), names.free("a")] == [
        "a.b",
        "a.b_1",
        "a.b_.c",
        "a_1",
    ]
    assert split("x//y.class:0") == ["x", "y", "class_"]
    assert [anonymous(n) for n in ("onnx::Add_3", "val_1", "17", "const_fold_opt__12", "weight", "fc.bias")] == [
        True
    ] * 4 + [False] * 2


def test_a_bias_that_the_layer_cannot_own_stays_beside_it() -> None:
    nodes = [
        node("MatMul", ["x", "fc.weight"], ["h"]),
        node("Relu", ["h"], ["i"]),
        node("Add", ["i", "fc.bias"], ["y"]),
    ]
    conversion = to_torch(model(nodes, X, ["y"], {"fc.weight": KERNEL, "fc.bias": drawn(4)}))
    assert sorted(conversion.module.state_dict()) == ["fc.bias", "fc.linear.weight"]


# --------------------------------------------------------------------------------------------------- shared, and shared
def test_one_layer_called_twice_is_one_module() -> None:
    nodes = [linear("fc.weight", y="h"), linear("fc.weight", x="h")]
    conversion = to_torch(model(nodes, X, ["y"], {"fc.weight": KERNEL}))
    assert list(conversion.module.state_dict()) == ["fc.weight"]
    assert conversion.module.code.count("self.fc(") == 2


def test_an_embedding_and_a_head_share_one_parameter() -> None:
    nodes = [node("Gather", ["emb.weight", "ids"], ["h"]), node("Transpose", ["emb.weight"], ["t"], perm=[1, 0]),
             node("MatMul", ["h", "t"], ["y"], name="/head/MatMul")]  # fmt: skip
    proto = model(nodes, {"ids": (2, 3)}, ["y"], {"emb.weight": drawn(7, 4)}, dtypes={"ids": "int64"})
    conversion = to_torch(proto)
    assert conversion.report["layers"] == {"Embedding": 1, "Linear": 1}
    assert conversion.module.head.weight is conversion.module.emb.weight
    assert {e.torch_name: e.tied_to for e in conversion.weights} == {"emb.weight": None, "head.weight": "emb.weight"}
    assert list(conversion.pull()) == ["emb.weight"]


def test_one_weight_in_two_layouts_is_stored_once() -> None:
    """The first layer's layout is kept, the second use computes its view of it."""
    nodes = [linear("w.weight", y="h"), node("MatMul", ["h", "w.weight"], ["y"])]
    conversion = to_torch(model(nodes, X, ["y"], {"w.weight": KERNEL}))
    assert list(conversion.module.state_dict()) == ["w.weight"]
    x = torch.from_numpy(drawn(3, 4))
    w = torch.from_numpy(KERNEL)
    torch.testing.assert_close(conversion.module(x), x @ w.T @ w)


def test_a_weight_that_a_layer_holds_in_pieces_can_still_be_read() -> None:
    weights = {"l.w": drawn(2, 12, 3), "l.r": drawn(2, 12, 4), "l.b": drawn(2, 24)}
    nodes = [node("GRU", ["x", *weights], ["y"], hidden_size=4, direction="bidirectional", linear_before_reset=1)]
    nodes += [node("ReduceSum", [name], [f"sum{i}"], keepdims=0) for i, name in enumerate(weights)]
    nodes += [node("Mul", ["l.w", "l.w"], ["square"])]
    proto = model(nodes, {"x": (5, 2, 3)}, ["y", "sum0", "sum1", "sum2", "square"], weights)
    conversion = to_torch(proto)
    assert conversion.report["layers"] == {"GRU": 1}
    x = drawn(5, 2, 3)
    for mine, theirs in zip(conversion.module(torch.from_numpy(x)), reference(proto, {"x": x}), strict=True):
        np.testing.assert_allclose(mine.detach(), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conversion.module(torch.from_numpy(x))[4].detach().numpy(), weights["l.w"] ** 2)


def test_branches_with_weights_of_one_name() -> None:
    def branch(name: str, seed: int) -> Any:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [3, 4])
        weight = numpy_helper.from_array(drawn(4, 4, seed=seed), "fc.weight")
        return helper.make_graph([node("MatMul", ["x", "fc.weight"], [f"{name}_out"])], name, [], [out], [weight])

    nodes = [node("If", ["which"], ["y"], then_branch=branch("then", 1), else_branch=branch("else", 2))]
    proto = model(nodes, {"x": (3, 4), "which": ()}, ["y"], {}, dtypes={"which": "bool"})
    conversion = to_torch(proto)
    assert len(conversion.module.state_dict()) == len(conversion.pull()) == 2
    for which in (True, False):
        feeds = {"x": drawn(3, 4), "which": np.array(which)}
        found = conversion.module(*map(torch.from_numpy, feeds.values()))
        np.testing.assert_allclose(found.detach(), reference(proto, feeds)[0], rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert sum(p.grad is not None for p in conversion.module.parameters()) == 1


# ------------------------------------------------------------------------------------------------ parameter or constant
def test_what_trains() -> None:
    nodes = [
        node("Clip", ["x", "low", "high"], ["a"]),
        node("Mul", ["a", "temperature"], ["b"]),
        node("Mul", ["b", "const__4"], ["c"]),
        node("Add", ["c", "shift"], ["y"]),
    ]
    arrays = {"low": np.float32(-1), "high": np.float32(1), "temperature": np.float32(0.5), "const__4": np.float32(3),
              "shift": drawn(4)}  # fmt: skip
    proto = model(nodes, X, ["y"], arrays)
    found = to_torch(proto)
    assert [(n, p.ndim) for n, p in found.module.named_parameters()] == [("temperature", 0), ("shift", 1)]
    everything = to_torch(proto, trainable="all")
    assert sorted(n for n, _ in everything.module.named_parameters()) == ["shift", "temperature", "weight"]
    frozen = to_torch(proto, trainable="none")
    assert {n: p.requires_grad for n, p in frozen.module.named_parameters()} == {"temperature": False, "shift": False}


def test_an_exporter_that_found_a_statistic_equal_to_a_weight() -> None:
    """They are told apart again: the weight trains, the statistic is a buffer of its own."""
    same = np.ones(4, np.float32)
    nodes = [
        node("Identity", ["n.weight"], ["v"]),
        node("BatchNormalization", ["x", "n.weight", "n.bias", "n.mean", "v"], ["y"]),
    ]
    weights = {"n.weight": same, "n.bias": drawn(4), "n.mean": drawn(4)}
    module = to_torch(model(nodes, X, ["y"], weights)).module
    module.train()(torch.from_numpy(drawn(3, 4))).sum().backward()
    assert module.n.weight.requires_grad
    assert not torch.equal(module.n.running_var, module.n.weight)
    torch.testing.assert_close(module.n.weight.detach(), torch.ones(4))


# ---------------------------------------------------------------------------------------------------------- provenance
def origin(source: str, variables: dict[str, Any], **more: Any) -> dict[str, str]:
    full = {name: {"kind": "parameter", "trainable": True, "dtype": "float32", "torch_name": None, "tied": [],
                   "transform": None} | held for name, held in variables.items()}  # fmt: skip
    return {"isomorph": json.dumps({"schema": 1, "source": source, "variables": full, **more})}


def test_names_and_layout_that_torch_had() -> None:
    transposed = [["transpose", [1, 0], []]]
    variables = {
        "model/fc/kernel": {"torch_name": "enc.0.weight", "transform": transposed, "tied": ["dec.weight"]},
        "model/unread": {"torch_name": "enc.unread", "transform": transposed},
        "model/seed": {"kind": "buffer"},
    }
    arrays = {"model/fc/kernel": KERNEL, "model/unread": drawn(2, 3), "model/seed": np.array([1, 2])}
    nodes = [node("MatMul", ["x", "model/fc/kernel"], ["y"])]
    conversion = to_torch(model(nodes, X, ["y"], arrays, metadata=origin("torch", variables)))
    found = conversion.module.state_dict()
    assert sorted(found) == ["dec.weight", "enc.0.weight", "enc.unread"]
    assert repr(getattr(conversion.module.enc, "0")) == "Linear(in_features=4, out_features=4, bias=False)"
    np.testing.assert_array_equal(found["enc.0.weight"], KERNEL.T)
    np.testing.assert_array_equal(found["enc.unread"], drawn(2, 3).T)
    assert conversion.module.dec.weight is getattr(conversion.module.enc, "0").weight


def test_names_that_are_words_of_python() -> None:
    variables = {
        "k": {"torch_name": "if.0.lambda.weight"},
        "s": {"torch_name": "class"},
        "t": {"torch_name": "code.is"},
    }
    nodes = [linear("k", y="h"), node("Mul", ["h", "s"], ["i"]), node("Add", ["i", "t"], ["y"])]
    arrays = {"k": KERNEL, "s": drawn(4), "t": drawn(4, seed=1)}
    module = to_torch(model(nodes, X, ["y"], arrays, metadata=origin("torch", variables))).module
    assert sorted(module.state_dict()) == ["class", "code.is", "if.0.lambda.weight"]
    x = torch.from_numpy(drawn(3, 4))
    torch.testing.assert_close(module(x), x @ torch.from_numpy(KERNEL).T * arrays["s"] + arrays["t"])


def test_a_weight_that_was_no_layers_in_torch_keeps_its_name() -> None:
    variables = {"k": {"torch_name": "projection", "transform": []}}
    nodes = [node("MatMul", ["x", "k"], ["y"])]
    conversion = to_torch(model(nodes, X, ["y"], {"k": KERNEL}, metadata=origin("torch", variables)))
    assert conversion.report["layers"] == {}
    assert list(conversion.module.state_dict()) == ["projection"]
    x = torch.from_numpy(drawn(3, 4))
    torch.testing.assert_close(conversion.module(x), x @ torch.from_numpy(KERNEL))


def test_names_of_keras() -> None:
    variables = {
        "net/fc/kernel": {},
        "net/fc/bias": {"trainable": False},
        "net/scale": {},
        "net/count": {"kind": "buffer"},
    }
    arrays = {"net/fc/kernel": KERNEL, "net/fc/bias": drawn(4), "net/scale": np.float32(2), "net/count": np.array(3)}
    nodes = [node("MatMul", ["x", "net/fc/kernel"], ["h"]), node("Add", ["h", "net/fc/bias"], ["i"]),
             node("Mul", ["i", "net/scale"], ["y"])]  # fmt: skip
    conversion = to_torch(model(nodes, X, ["y"], arrays, metadata=origin("keras", variables)))
    assert sorted(conversion.module.state_dict()) == ["net.count", "net.fc.bias", "net.fc.weight", "net.scale"]
    assert {n for n, p in conversion.module.named_parameters() if p.requires_grad} == {"net.fc.weight", "net.scale"}
    assert {e.source: e.torch_name for e in conversion.weights}["net/fc/kernel"] == "net.fc.weight"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema": 2}', '{"schema": 1, "source": "keras", "variables": {"w": {"kind": "x"}}}', "[" * 9999],
)
def test_provenance_that_is_none_is_noted(text: str) -> None:
    conversion = to_torch(model([linear("w.weight")], X, ["y"], {"w.weight": KERNEL}, metadata={"isomorph": text}))
    assert conversion.report["source"] == "onnx"
    assert "origin" in conversion.report["notes"][0]

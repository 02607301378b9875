"""The graph: its verifier, its printer, symbolic dims, and what its JSON form keeps."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isomorph.convert.ir import (
    ByMode,
    Graph,
    GraphError,
    Mutation,
    Node,
    Origin,
    Parameter,
    Sym,
    TensorType,
    Value,
    by_mode,
)
from isomorph.convert.ir_json import from_data, retype, to_data

FLOAT = TensorType((Sym("b"), 4), "float32")
HERE = Origin("relu_1", "body.act", "torch.nn.modules.activation.ReLU", "net.py", 12, (("body", 0), ("act", 0)))


def value(name: str, dtype: str = "float32", *shape: Any) -> Value:
    return Value(name, TensorType(shape or (Sym("b"), 4), dtype))


def chain(length: int) -> tuple[Graph, list[Value]]:
    """x -> v0 -> v1 ... by relu, each node with an origin that names it."""
    x = value("x")
    made = [value(f"v{i}") for i in range(length)]
    nodes = [
        Node("aten.relu.default", (operand,), {}, (out,), dataclasses.replace(HERE, line=i))
        for i, (operand, out) in enumerate(zip([x, *made], made, strict=False))
    ]
    return Graph([x], [made[-1]], nodes), made


# ------------------------------------------------------------------------------------------------------------- verifier
def test_a_use_before_definition_shows_the_node_its_neighbours_and_its_origin() -> None:
    graph, _ = chain(9)
    assert graph.verify() is graph
    stranger = value("stranger")
    graph.nodes[4] = graph.nodes[4].replace(args=(stranger,))
    with pytest.raises(GraphError) as refused:
        graph.verify()
    lines = str(refused.value).splitlines()
    assert lines[0] == "%stranger is used before it is defined"
    arrow = next(i for i, line in enumerate(lines) if line.startswith("->"))
    assert "%v4" in lines[arrow]
    assert lines[arrow + 1].strip() == "from body.act (ReLU) at net.py:4"
    assert [f"%v{i}:" in str(refused.value) for i in range(9)] == [1 <= i <= 7 for i in range(9)]


def test_the_order_of_nodes_counts() -> None:
    graph, _ = chain(3)
    graph.nodes.reverse()
    with pytest.raises(GraphError, match="%v1 is used before it is defined"):
        graph.verify()


@pytest.mark.parametrize("second", ["the value", "its name"])
def test_two_definitions_are_refused(second: str) -> None:
    graph, made = chain(3)
    again = made[0] if second == "the value" else value("v0")
    graph.nodes[2] = graph.nodes[2].replace(outputs=(again,))
    with pytest.raises(GraphError, match=r"(?s)%v0 is defined twice") as refused:
        graph.verify()
    assert "body.act (ReLU) at net.py:2" in str(refused.value)


def test_what_hangs_in_the_air_is_refused() -> None:
    graph, _ = chain(2)
    with pytest.raises(GraphError, match="result %ghost is never defined"):
        dataclasses.replace(graph, outputs=[value("ghost")]).verify()
    with pytest.raises(GraphError, match="mutation of 'gone'"):
        dataclasses.replace(graph, mutations=[Mutation("gone", graph.inputs[0])]).verify()
    weight = Parameter("fc.weight", value("w"), "parameter", True)
    with pytest.raises(GraphError, match=r"parameter 'fc.weight' is filed under 'fc.bias'"):
        dataclasses.replace(graph, parameters={"fc.bias": weight}).verify()
    bad = Graph([], [value("ghost")], [])
    graph.nodes.append(Node("higher_order.cond", (graph.inputs[0], bad, bad, []), {}, (value("c"),)))
    with pytest.raises(GraphError, match="result %ghost is never defined"):
        graph.verify()


# -------------------------------------------------------------------------------------------------------------- printer
def full_graph() -> Graph:
    """One of everything the printer and the JSON form know."""
    x, w, count = value("x"), value("w", "float32", 4, 4), value("count", "int64", 1)
    mask, y, new, branch = value("mask", "bool"), value("y"), value("new", "int64", 1), value("t")
    body = Graph([branch], [branch], [])
    nodes = [
        Node("aten.gt.Scalar", (x, float("-inf")), {}, (mask,), HERE),
        Node(
            "test.op",
            (x, [w, None, 2], Sym("2*b"), ByMode(True, False), "mean", 1e-5, 1 + 2j),
            {"dtype": "float32", "f": float("nan")},
            (y,),
        ),
        Node("higher_order.cond", (mask, body, body, [x]), {}, (value("z"),)),
        Node("aten.add.Scalar", (count, 1), {"alpha": 1}, (new,)),
    ]
    own = {p.name: p for p in (Parameter("fc.weight", w, "parameter", True), Parameter("n", count, "buffer"))}
    return Graph([x], [y, None, Sym("b"), 3], nodes, own, [Mutation("n", new, "train")], {"b": (2, None), "s": (1, 64)})


def test_the_text_form() -> None:
    assert str(full_graph().verify()).splitlines() == [
        "graph(%x: float32[b, 4])",
        "  where b in [2, inf], s in [1, 64]",
        "  own %w: float32[4, 4]  # parameter fc.weight, trainable",
        "  own %count: int64[1]  # buffer n",
        "  %mask: bool[b, 4] = aten.gt.Scalar(%x, -inf)",
        "  %y: float32[b, 4] = test.op(%x, [%w, None, 2], 2*b, <True | False>, 'mean', 1e-05, (1+2j), "
        "dtype='float32', f=nan)",
        "  %z: float32[b, 4] = higher_order.cond(%mask, {graph(%t: float32[b, 4]);   return [%t]}, "
        "{graph(%t: float32[b, 4]);   return [%t]}, [%x])",
        "  %new: int64[1] = aten.add.Scalar(%count, 1, alpha=1)",
        "  mutate n <- %new (train)",
        "  return [%y, None, b, 3]",
    ]


# ------------------------------------------------------------------------------------------------------------ rewriting
def test_rebuilt_follows_chains_everywhere() -> None:
    graph, made = chain(4)
    graph.outputs.append(made[1])
    kept = [graph.nodes[0], graph.nodes[3]]
    short = graph.rebuilt(kept, {made[2]: made[1], made[1]: made[0]}).verify()
    assert short.nodes[1].inputs == (made[0],)
    assert short.outputs == [made[3], made[0]]
    assert graph.nodes[3].inputs == (made[2],)  # the old graph is as it was


def test_users_and_producers() -> None:
    graph, made = chain(3)
    assert graph.users()[made[0]] == [graph.nodes[1]]
    assert graph.users()[made[2]] == []
    assert graph.producers()[made[1]] is graph.nodes[1]
    twice = Node("aten.mul.Tensor", (made[2], made[2]), {}, (value("sq"),))
    graph.nodes.append(twice)
    assert graph.users()[made[2]] == [twice]


def test_by_mode() -> None:
    assert (by_mode(ByMode(1, 2), True), by_mode(ByMode(1, 2), False), by_mode(7, True)) == (1, 2, 7)


# -------------------------------------------------------------------------------------------------------- symbolic dims
@pytest.mark.parametrize(
    ("text", "env", "result"),
    [
        ("2*s + 1", {"s": 5}, 11),
        ("(h - 1)//2 - -w", {"h": 8, "w": 1}, 4),
        ("Max(2, Min(s, 7))", {"s": 9}, 7),
        ("ceil(s / 2) + floor(s / 2)", {"s": 7}, 7),
        ("ceil(s / 2)", {"s": 7}, 4),
        ("where(s > 3, s % 3, s**2)", {"s": 8}, 2),
        ("int(sqrt(s))", {"s": 49}, 7),
        ("abs(a - b) == 3", {"a": 1, "b": 4}, True),
    ],
)
def test_a_dim_is_evaluated(text: str, env: dict[str, int], result: int) -> None:
    assert Sym(text).evaluate(env) == result
    assert Sym(text).names == env.keys()
    renamed = Sym(text).rename({n: f"{n}_2" for n in env})
    assert renamed.evaluate({f"{n}_2": v for n, v in env.items()}) == result


def test_a_missing_dim_is_named() -> None:
    with pytest.raises(KeyError, match="s"):
        Sym("b + s").evaluate({"b": 1})


@pytest.mark.parametrize(
    "text", ["__import__('os')", "s.bit_length()", "[s][0]", "(lambda: s)()", "s if s else 1", "s < 2 < 3", "open('f')"]
)
def test_a_dim_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(GraphError, match="outside the dim grammar"):
        Sym(text).evaluate({"s": 3})


# ----------------------------------------------------------------------------------------------------------------- JSON
def test_json_keeps_everything() -> None:
    graph = full_graph()
    data = json.loads(json.dumps(to_data(graph)))
    back = from_data(data)
    assert str(back) == str(graph)
    assert back.bounds == graph.bounds
    assert [n.origin.module_path for n in back.nodes] == [n.origin.module_path for n in graph.nodes]
    assert to_data(back) == to_data(graph)
    assert isinstance(back.nodes[1].args[2], Sym)
    assert isinstance(back.nodes[1].args[3], ByMode)


def test_damaged_json_is_refused() -> None:
    data = to_data(full_graph())
    data["nodes"].reverse()
    with pytest.raises((GraphError, KeyError)):
        from_data(data)


DIMS = st.one_of(st.integers(0, 9), st.sampled_from([Sym("b"), Sym("2*s"), Sym("(h - 1)//2")]))
TYPES = st.builds(
    TensorType,
    st.lists(DIMS, max_size=4).map(tuple),
    st.sampled_from(["float32", "bfloat16", "int64", "bool", "complex64"]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from([Sym("b"), Sym("s + 1")]),
    st.builds(ByMode, st.booleans(), st.integers(0, 3)),
)


@st.composite
def graphs(draw: Any, depth: int = 1) -> Graph:
    """Small valid graphs: every operand is an input or made earlier; a branch may be an argument."""
    known = [Value(f"x{i}", t) for i, t in enumerate(draw(st.lists(TYPES, min_size=1, max_size=3)))]
    inputs, nodes = list(known), []
    owned = Parameter(
        "w.0", Value("w", draw(TYPES)), draw(st.sampled_from(["parameter", "buffer"])), draw(st.booleans())
    )
    known.append(owned.value)
    for i in range(draw(st.integers(0, 5))):
        leaf = st.one_of(st.sampled_from(known), SCALARS, *([graphs(depth=depth - 1)] if depth else []))
        args = draw(st.lists(st.one_of(leaf, st.lists(leaf, max_size=3)), max_size=3))
        kwargs = draw(st.dictionaries(st.sampled_from(["dim", "alpha"]), leaf, max_size=2))
        outputs = tuple(Value(f"v{i}_{j}", t) for j, t in enumerate(draw(st.lists(TYPES, max_size=2))))
        nodes.append(Node(f"test.op{i}", tuple(args), kwargs, outputs, HERE))
        known += outputs
    mutations = [Mutation("w.0", draw(st.sampled_from(known)), draw(st.sampled_from(["train", "eval", "always"])))]
    return Graph(
        inputs,
        [draw(st.sampled_from(known)), draw(SCALARS)],
        nodes,
        {"w.0": owned},
        mutations,
        {"b": (0, draw(st.none() | st.integers(1, 9)))},
    )


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_json_round_trip(graph: Graph) -> None:
    back = from_data(json.loads(json.dumps(to_data(graph.verify()))))
    assert str(back) == str(graph)
    assert to_data(back) == to_data(graph)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_retype_changes_the_named_dtypes_alone_and_can_be_undone(graph: Graph) -> None:
    before = str(graph)
    there = retype(graph, {"float32": "float64"}).verify()
    assert str(graph) == before
    assert "float32" not in {v.type.dtype for v in there.values()}
    assert [v.type.dtype for v in graph.values() if v.type.dtype != "float32"] == [
        w.type.dtype for v, w in zip(graph.values(), there.values(), strict=True) if v.type.dtype != "float32"
    ]
    assert str(retype(there, {"float64": "float32"})) == before


def test_retype_reaches_arguments_and_branches() -> None:
    graph = retype(full_graph(), {"float32": "float64"})
    assert graph.nodes[1].kwargs["dtype"] == "float64"
    assert graph.nodes[2].args[1].inputs[0].type.dtype == "float64"
    assert graph.nodes[1].args[4] == "mean"


def test_the_graph_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; import isomorph.convert.ir, isomorph.convert.ir_json, isomorph.convert.errors; "
        "print([m for m in ('numpy', 'torch', 'keras', 'tensorflow', 'networkx') if m in sys.modules])"
    )
    env_path = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {env_path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"

"""ONNX rules of normalisation, dropout and recurrence: what the ONNX project's own tests leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from isomorph.convert.onnx_in.registry import find

from .onnx_checks import Row, build, derive, evaluate, export_freely, like_reference, like_runtime, row_id
from .onnx_node import agree, converted, run

F32 = np.float32
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(F32)


X = normal(3, 4, 5, 2)
STATISTICS = (normal(4), normal(4), normal(4), normal(4) ** 2)
NORMS: list[Row] = [
    ("BatchNormalization", 7, (X, *STATISTICS), {"epsilon": 0.01}),
    ("BatchNormalization", 9, (X[:, :, 0], *STATISTICS), {}),
    ("BatchNormalization", 14, (X[:, :, 0, 0], *STATISTICS), {}),
    ("BatchNormalization", 15, (X, *STATISTICS), {}),
    ("InstanceNormalization", 6, (X, normal(4), normal(4)), {"epsilon": 0.1}),
    ("InstanceNormalization", 22, (X[..., 0], normal(4), normal(4)), {}),
    ("LayerNormalization", 17, (X, normal(5, 2), normal(5, 2)), {"axis": 2}),
    ("LayerNormalization", 17, (X, normal(2)), {"epsilon": 0.1}),
    ("MeanVarianceNormalization", 9, (X,), {"axes": [1, 2]}),
    ("LpNormalization", 1, (X,), {"axis": 1, "p": 1}),
    ("LpNormalization", 1, (X,), {}),
    ("LRN", 1, (X,), {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 0.9}),
    ("LRN", 13, (X,), {"size": 5}),
]
# what ONNX Runtime does not have or refuses
OTHERS: list[Row] = [
    ("BatchNormalization", 6, (X, *STATISTICS), {"is_test": 1}),
    ("LayerNormalization", 17, (X, normal(5, 1), normal(2)), {"axis": 1}),  # weights that are broadcast
    ("GroupNormalization", 21, (X, normal(4), normal(4)), {"num_groups": 4, "epsilon": 0.1}),
    ("RMSNormalization", 23, (X, normal(5, 2)), {"axis": -2, "epsilon": 0.1}),
]


@pytest.mark.parametrize("row", NORMS, ids=row_id)
def test_like_onnx_runtime(row: Row) -> None:
    like_runtime(row)


@pytest.mark.parametrize("row", OTHERS, ids=row_id)
def test_like_the_reference(row: Row) -> None:
    like_reference(row)


@pytest.mark.parametrize("row", [*NORMS, *OTHERS], ids=row_id)
def test_right_derivatives_in_float64(row: Row) -> None:
    """For the statistics, too."""
    derive(row)


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        ("InstanceNormalization", (X, normal(4), normal(4)), {}),
        ("BatchNormalization", (X, *STATISTICS), {"is_test": 1}),
    ],
)
def test_the_first_version_is_as_the_sixth(op: str, arrays: Any, attributes: dict[str, Any]) -> None:
    first = run(build((op, 1, arrays, {**attributes, "consumed_inputs": [0] * len(arrays)})), *arrays)[0]
    np.testing.assert_array_equal(first, run(build((op, 6, arrays, attributes)), *arrays)[0])


def test_weights_for_each_group() -> None:
    """GroupNormalization-18, which ONNX has withdrawn: its checker lets no model of it pass."""
    rule = find("", "GroupNormalization", 18)
    assert rule is not None
    x, scale, b = (torch.tensor(a) for a in (X, normal(2), normal(2)))
    found = rule.function(x, scale, b, num_groups=2)
    wanted = (X.reshape(3, 2, -1) - X.reshape(3, 2, -1).mean(-1, keepdims=True)) / X.reshape(3, 2, -1).std(
        -1, keepdims=True
    )
    wanted = wanted * scale.numpy()[:, None] + b.numpy()[:, None]
    agree(found.numpy(), wanted.reshape(X.shape), 1e-4, 1e-5)


def test_an_even_local_response_reaches_further_ahead() -> None:
    x = np.eye(4, dtype=F32).reshape(4, 4, 1, 1)
    (found,) = run(build(("LRN", 13, (x,), {"size": 2, "alpha": 2.0, "beta": 1.0})), x)
    squares = np.eye(4) + np.eye(4, k=-1).T * 0
    for c in range(4):  # ONNX: from c - floor(1 / 2) to c + ceil(1 / 2)
        squares[:, c] = (np.eye(4) ** 2)[:, c : c + 2].sum(1)
    agree(found[..., 0, 0], (np.eye(4) / (1 + squares)).astype(F32))


def test_zeros_have_a_derivative_under_the_p_norm() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    converted(build(("LpNormalization", 22, (np.zeros((2, 3), F32),), {})))(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("version", "outputs"), [(1, 5), (6, 5), (7, 5), (9, 5), (14, 3), (15, 3)])
def test_batch_normalisation_that_trains(version: int, outputs: int) -> None:
    """The running variance is that of the population, and momentum weighs what was."""
    scale, b, mean, var = STATISTICS
    attributes: dict[str, Any] = {"momentum": 0.7}
    attributes |= {"training_mode": 1} if version >= 14 else {}
    attributes |= {"consumed_inputs": [0, 0, 0, 1, 1]} if version == 1 else {}
    row: Row = ("BatchNormalization", version, (X, *STATISTICS), attributes)
    found = run(build(row, outputs=outputs), *row[2])
    now_mean, now_var = X.mean((0, 2, 3)), X.var((0, 2, 3))
    y = (X - now_mean[:, None, None]) / np.sqrt(now_var + 1e-5)[:, None, None]
    wanted = [y * scale[:, None, None] + b[:, None, None], mean * 0.7 + now_mean * 0.3, var * 0.7 + now_var * 0.3]
    for ours, theirs in zip(found, [*wanted, now_mean, now_var][:outputs], strict=True):
        agree(ours, theirs.astype(F32), 1e-4, 1e-5)
    derive(row, outputs=outputs)


@pytest.mark.parametrize("narrow", [(0,), (0, 1, 2), (0, 3, 4), (1, 2)])
def test_weights_and_statistics_of_other_types(narrow: tuple[int, ...]) -> None:
    arrays = tuple(a.astype(np.float16) if i in narrow else a for i, a in enumerate((X, *STATISTICS)))
    row: Row = ("BatchNormalization", 15, arrays, {})
    (found,) = run(build(row), *arrays)
    (wanted,) = run(build(("BatchNormalization", 15, (X, *STATISTICS), {})), X, *STATISTICS)
    assert found.dtype == arrays[0].dtype
    np.testing.assert_allclose(found.astype(F32), wanted, rtol=2e-2, atol=1e-2)


def test_statistics_for_each_element() -> None:
    arrays = (X, *(normal(4, 5, 2) ** 2 for _ in range(4)))
    x, scale, b, mean, var = arrays
    (found,) = run(build(("BatchNormalization", 7, arrays, {"spatial": 0})), *arrays)
    agree(found, (x - mean) / np.sqrt(var + F32(1e-5)) * scale + b, 1e-4, 1e-5)


def test_the_statistics_of_a_layer_normalisation() -> None:
    row: Row = ("LayerNormalization", 17, (X, normal(2)), {})
    y, mean, inverse = run(build(row, outputs=3), *row[2])
    agree(mean, X.mean(-1, keepdims=True), 1e-5, 1e-6)
    agree(inverse, 1 / np.sqrt(X.var(-1, keepdims=True) + F32(1e-5)), 1e-5)
    agree(y, (X - mean) * inverse * row[2][1], 1e-5, 1e-6)
    derive(row, outputs=3)


@pytest.mark.parametrize("kind", [10, 16])
def test_narrow_types_are_summed_in_float32(kind: int) -> None:
    """4096 ones: their sum is beyond what bfloat16 counts to, and their squares' beyond float16."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x = (np.ones((1, 4, 4096)) * 20 + np.arange(4096) % 2).astype(dtype)
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    one, zero = np.ones(4, dtype), np.zeros(4, dtype)
    flat = np.ones(4096, dtype)
    rows: list[Row] = [
        ("LayerNormalization", 17, (x, flat, flat * 0), {}),
        ("InstanceNormalization", 22, (x, one, zero), {}),
        ("GroupNormalization", 21, (x, one, zero), {"num_groups": 4}),
    ]
    for row in rows:
        (found,) = run(build(row), *row[2])
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=2e-2)


# ------------------------------------------------------------------------------------------------------------ dropout
def test_dropout_passes_everything_on_unless_the_model_says_it_trains() -> None:
    for version in (1, 6, 7, 10):
        y, mask = run(build(("Dropout", version, (X,), {"ratio": 0.9}), outputs=2), X)
        np.testing.assert_array_equal(y, X)
        assert mask.all()
        assert mask.dtype == (bool if version >= 10 else F32)
    y, mask = run(build(("Dropout", 13, (X, np.array(0.9, F32), np.array(False)), {}), outputs=2, constants=(1, 2)), X)
    np.testing.assert_array_equal(y, X)
    assert mask.all()


def test_dropout_that_trains_keeps_the_mean_and_differs_from_call_to_call() -> None:
    x = np.ones((200, 200), F32)
    module = converted(build(("Dropout", 13, (x, np.array(0.25, F32), np.array(True)), {}), outputs=2))
    given = [torch.tensor(x, requires_grad=True), torch.tensor(0.25), torch.tensor(True)]
    y, mask = module(*given)
    assert abs(mask.float().mean().item() - 0.75) < 0.01
    assert torch.equal(y, torch.where(mask, torch.tensor(1 / 0.75), torch.tensor(0.0)))
    y.sum().backward()
    assert torch.equal(given[0].grad, y.detach())
    assert not torch.equal(module(*given)[1], mask)
    given[2] = torch.tensor(False)
    assert torch.equal(module(*given)[0], given[0])


# --------------------------------------------------------------------------------------------------------- recurrence
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = np.array([5, 2, 3], np.int32)


def recurrent(
    op: str, opset: int = 14, *, lengths: bool = False, states: bool = False, bias: bool = True, **attributes: Any
) -> Row:
    """5 steps, a batch of 3, 4 inputs, 2 units. With `states` an LSTM has peepholes, too."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * 2
    arrays = [normal(5, 3, 4), normal(directions, rows, 4), normal(directions, rows, 2)]
    arrays.append(normal(directions, 2 * rows) if bias else None)
    arrays.append(LENGTHS if lengths else None)
    arrays.append(normal(directions, 3, 2) if states else None)
    if op == "LSTM":
        arrays += [normal(directions, 3, 2), normal(directions, 6)] if states else [None, None]
    while arrays[-1] is None:
        arrays.pop()
    return op, opset, tuple(arrays), {"hidden_size": 2, **attributes}


ACTIVATIONS: dict[str, Any] = {
    "LSTM": {
        "activations": ["HardSigmoid", "ScaledTanh", "Elu"],
        "activation_alpha": [0.3, 1.1, 0.7],
        "activation_beta": [0.4, 0.9],
    },
    "GRU": {"activations": ["Affine", "LeakyRelu"], "activation_alpha": [0.4, 0.2], "activation_beta": [0.3]},
    "RNN": {"activations": ["Softsign"]},
}
DIRECTIONS = ("forward", "reverse", "bidirectional")
RECURRENT: list[Row] = [
    *(recurrent(op, direction=d) for op in GATES for d in DIRECTIONS),
    *(recurrent(op, direction=d, lengths=True, states=True) for op in GATES for d in DIRECTIONS),
    *(recurrent("GRU", direction=d, linear_before_reset=1) for d in DIRECTIONS),
    *(recurrent("GRU", linear_before_reset=1, lengths=on, states=on, clip=0.4) for on in (False, True)),
    *(recurrent(op, clip=0.3) for op in GATES),
    *(recurrent(op, 7, bias=False) for op in GATES),
    *(recurrent(op, **ACTIVATIONS[op]) for op in GATES),
    *(recurrent("RNN", activations=[name]) for name in ("Relu", "Sigmoid")),
    recurrent("RNN", activations=["ThresholdedRelu"], activation_alpha=[0.3]),
    recurrent("RNN", activations=["HardSigmoid", "Relu"], direction="bidirectional"),
    recurrent("LSTM", input_forget=1, states=True),
]


def recurrent_id(row: Row) -> str:
    return row_id(row) + ("-lens" if len(row[2]) > 4 and row[2][4] is not None else "")


@pytest.mark.parametrize("row", RECURRENT, ids=recurrent_id)
def test_recurrence_like_onnx_runtime(row: Row) -> None:
    like_runtime(row)


def test_softplus_does_not_overflow_where_onnx_runtime_does() -> None:
    op, opset, arrays, attributes = recurrent("RNN", activations=["Softplus"])
    small = tuple(a if a is None else a * F32(0.3) for a in arrays)
    like_runtime((op, opset, small, attributes))
    large = (arrays[0] * 100, *arrays[1:])
    assert all(np.isfinite(y).all() for y in run(build((op, opset, large, attributes)), *large))


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("version", [1, 3])
def test_the_first_versions_of_recurrence(op: str, version: int) -> None:
    if version == 3 and op != "GRU":
        return
    row = recurrent(op, version, output_sequence=1)
    newest = (op, 14, row[2], {"hidden_size": 2})
    for ours, theirs in zip(run(build(row), *row[2]), run(build(newest), *row[2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("row", [recurrent(op, direction=d) for op in GATES for d in DIRECTIONS], ids=row_id)
def test_batch_first_is_the_same_transposed(row: Row) -> None:
    op, opset, (x, *weights), attributes = row
    y, *states = run(build(row), *row[2])
    arrays = (x.swapaxes(0, 1).copy(), *weights)
    found = run(build((op, opset, arrays, {**attributes, "layout": 1})), *arrays)
    for ours, theirs in zip(found, [y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in states)], strict=True):
        agree(ours, theirs, 1e-5, 1e-6)


@pytest.mark.parametrize("op", list(GATES))
def test_the_kernel_and_the_steps_agree(op: str) -> None:
    """Lengths that leave nothing out make the loop do what torch's kernel does."""
    row = recurrent(op, direction="bidirectional", linear_before_reset=1) if op == "GRU" else recurrent(op)
    all_of = (*row[2], np.array([5, 5, 5], np.int32))
    looped = (*row[:2], all_of, row[3])
    assert "rnn_kernel(" in converted(build(row)).code
    assert "rnn_steps(" in converted(build(looped)).code
    for ours, theirs in zip(run(build(row), *row[2]), run(build(looped), *all_of), strict=True):
        agree(ours, theirs, 1e-5, 1e-6)


DERIVED = [r for r in RECURRENT if "clip" not in r[3] and "Relu" not in str(r[3])]


@pytest.mark.parametrize("row", DERIVED, ids=recurrent_id)
def test_recurrence_has_right_derivatives_in_float64(row: Row) -> None:
    derive(row)


@pytest.mark.parametrize(
    "row", [RECURRENT[0], RECURRENT[1], RECURRENT[5], RECURRENT[9], RECURRENT[12]], ids=recurrent_id
)
def test_recurrence_is_exported_with_a_free_batch(row: Row) -> None:
    """With a free length torch.export takes none of torch's own either: it unrolls the steps."""
    free = {0: (1,), 4: (0,), 5: (1,), 6: (1,)}
    states = [np.int32([1, 2, 3, 4, 5, 5]), normal(1, 6, 2), normal(1, 6, 2)]
    arrays = row[2]
    more = [normal(5, 6, 4), *arrays[1:4], *states, *arrays[7:]]
    export_freely(row, {i: d for i, d in free.items() if i < len(arrays)}, more[: len(arrays)])


EXPORTED: list[tuple[Row, tuple[int, ...]]] = [
    (("BatchNormalization", 15, (X, *STATISTICS), {}), (0, 2, 3)),
    (("BatchNormalization", 15, (X, *STATISTICS), {"training_mode": 1}), (0, 2, 3)),
    (("InstanceNormalization", 22, (X, normal(4), normal(4)), {}), (0, 2, 3)),
    (("LayerNormalization", 17, (X, normal(2), normal(2)), {}), (0, 1, 2)),
    (("GroupNormalization", 21, (X, normal(4), normal(4)), {"num_groups": 2}), (0, 2, 3)),
    (("RMSNormalization", 23, (X, normal(2)), {}), (0, 1, 2)),
    (("LRN", 13, (X,), {"size": 3}), (0, 2, 3)),
    (("LRN", 13, (X,), {"size": 2}), (0, 2, 3)),
]


@pytest.mark.parametrize(("row", "free"), EXPORTED, ids=[row_id(r) for r, _ in EXPORTED])
def test_norms_are_exported_with_free_batch_and_size(row: Row, free: tuple[int, ...]) -> None:
    sizes = [n + 2 if d in free and d < 3 else n for d, n in enumerate(X.shape)]
    free = tuple(d for d in free if d < 3)
    outputs = 3 if row[3].get("training_mode") else 1
    export_freely(row, {0: free}, (normal(*sizes), *row[2][1:]), outputs=outputs)


@pytest.mark.parametrize("row", [RECURRENT[0], RECURRENT[9], OTHERS[1], NORMS[12]], ids=recurrent_id)
def test_torch_compile_takes_them_whole(row: Row) -> None:
    module = converted(build(row))
    given = [torch.tensor(a) for a in row[2] if a is not None]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(*given), module(*given))


def test_a_vector_is_a_batch_of_one_channel() -> None:
    arrays = (normal(6), normal(1), normal(1), normal(1), normal(1) ** 2)
    x, scale, b, mean, var = arrays
    (found,) = evaluate(converted(build(("BatchNormalization", 15, arrays, {}))), arrays)
    agree(found, (x - mean) / np.sqrt(var + F32(1e-5)) * scale + b, 1e-5, 1e-6)

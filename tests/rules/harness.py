"""The core of the op tests: a torch function against its conversion, forward and backward, in both regimes.

A row is a `Case`: a torch function of tensors (or a module), its inputs, and which ATen overloads it covers. Each row
is
captured, interpreted with the rules (`Concrete`) and emitted as a Keras model (`Functional`), and both are compared
with torch:
shape, dtype, values and the gradient of every float input and parameter, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

Make = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One row: `function(*inputs)`; `module=True` when `function` makes an nn.Module. `dynamic` frees axis 0 and up."""

    name: str
    ops: tuple[str, ...]
    function: Callable[..., Any]
    inputs: Callable[[], Sequence[Any]]
    module: bool = False
    training: bool = False
    dynamic: Any = field(
        default=False, compare=False
    )  # False: static; True: axis 0 of each tensor; or a dict as to_keras takes
    grad: bool = True
    rtol: float = 1e-10
    xfail: str = ""


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Any) -> Any:
        return self.function(*xs)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal values, seeded."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ints(high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Integers in [0, high), seeded."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def params(cases: Sequence[Case]) -> list[Any]:
    """pytest parameters; a row with `xfail` is strict. A row that covers no op that an earlier one does not is slow."""
    names = [c.name for c in cases]
    assert len(set(names)) == len(names), f"two rows share a name: {sorted(n for n in names if names.count(n) > 1)}"
    seen: set[str] = set()
    found = []
    for c in cases:
        marks = [pytest.mark.xfail(reason=c.xfail, strict=True)] if c.xfail else []
        if seen.issuperset(c.ops):
            marks.append(pytest.mark.slow)
        seen.update(c.ops)
        found.append(pytest.param(c, id=c.name, marks=marks))
    return found


def build(case: Case) -> tuple[torch.nn.Module, list[Any]]:
    torch.manual_seed(0)
    module = case.function() if case.module else Call(case.function)
    module = module.double().train(case.training)
    return module, list(case.inputs())


def torch_side(
    module: torch.nn.Module, inputs: Sequence[Any]
) -> tuple[list[np.ndarray], list[Any], list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs, cotangents, gradients of float inputs, gradients of parameters."""
    import copy

    module = copy.deepcopy(module)
    xs = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    wrt = [x.requires_grad_(True) for x in xs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    alias = [x * 1 if isinstance(x, torch.Tensor) and x.requires_grad else x for x in xs]
    outs = [o for o in torch.utils._pytree.tree_leaves(module(*alias)) if isinstance(o, torch.Tensor)]
    g = torch.Generator().manual_seed(7)
    cot = [
        torch.randn(o.shape, generator=g, dtype=torch.float64).to(o.dtype)
        if o.is_floating_point() and o.requires_grad
        else None
        for o in outs
    ]
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    live = [(o, c) for o, c in zip(outs, cot, strict=True) if c is not None]
    grads: list[Any] = [None] * (len(wrt) + len(named))
    if live and (wrt or named):
        grads = list(
            torch.autograd.grad(
                [o for o, _ in live], wrt + [p for _, p in named], [c for _, c in live], allow_unused=True
            )
        )
    full = [
        np.zeros(w.shape) if v is None else v.numpy() for v, w in zip(grads, wrt + [p for _, p in named], strict=True)
    ]
    np_outs = [o.detach().numpy() for o in outs]
    return (
        np_outs,
        [None if c is None else c.numpy() for c in cot],
        full[: len(wrt)],
        dict(zip([n for n, _ in named], full[len(wrt) :], strict=True)),
    )


def agree(what: str, got: Any, want: np.ndarray, rtol: float) -> None:
    """Same shape, same dtype kind, values within rtol of the tensor's scale; NaN and infinities in place."""
    got = np.asarray(got)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, torch {want.shape}"
    if want.dtype.kind != "f":
        assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, torch {want.dtype}"
        assert np.array_equal(got, want), f"{what}: {np.sum(got != want)} of {want.size} elements differ"
        return
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, torch {want.dtype}"
    finite = np.isfinite(want)
    assert np.array_equal(np.isnan(got), np.isnan(want)), f"{what}: NaN positions differ"
    assert np.array_equal(got[~finite], want[~finite], equal_nan=True), f"{what}: infinities differ"
    scale = np.maximum(np.abs(want[finite]), np.sqrt(np.mean(np.square(want[finite])))) if finite.any() else np.ones(())
    error = np.abs(got[finite] - want[finite])
    assert np.all(error <= rtol * scale + 1e-300), (
        f"{what}: off by {np.max(error / np.maximum(scale, 1e-300)):.2e} of scale"
    )


@dataclass
class Prepared:
    """A row made ready: the module, what torch computes, and the captured graph, shared by both regimes."""

    case: Case
    module: torch.nn.Module
    inputs: list[Any]
    torch_side: Any
    captured: Any

    @property
    def shapes(self) -> Any:
        return None if self.case.dynamic is True else self.case.dynamic or {}


def prepare(case: Case) -> Prepared:
    """Build the row and capture it once."""
    from isomorph.convert.capture import capture
    from isomorph.convert.rules.registry import load_rules
    from isomorph.convert.support import is_supported

    load_rules()
    module, inputs = build(case)
    row = Prepared(case, module, inputs, torch_side(module, inputs), None)
    row.captured = capture(module, tuple(inputs), {}, row.shapes, training=case.training, has_rule=is_supported)
    return row


def run_concrete(case: Case, row: Prepared | None = None) -> None:
    """Interpret with the rules on TensorFlow, compare."""
    import tensorflow as tf

    from isomorph.convert.interpret import interpret
    from isomorph.convert.rules.registry import RULES as rules

    row = row or prepare(case)
    inputs, captured = row.inputs, row.captured
    outs, cot, input_grads, param_grads = row.torch_side
    used = {n.op for n in captured.graph.nodes}
    from isomorph.convert.layout import PERMUTES, RESHAPES

    absent = [o for o in case.ops if o not in used]
    assert not absent, f"the row says it covers {absent}, the graph has {sorted(used)}"
    missing = [o for o in used if o not in rules and o not in PERMUTES and o not in RESHAPES]
    assert not missing, f"no rule for {missing}"
    xs = [tf.convert_to_tensor(x.numpy()) for x in inputs if isinstance(x, torch.Tensor)]
    variables = {n: tf.Variable(captured.tensors[n].detach().numpy()) for n in captured.graph.parameters}
    with tf.GradientTape() as tape:
        floats = [x for x in xs if x.dtype.is_floating]
        for x in floats:
            tape.watch(x)
        got = interpret(captured.graph, xs, {n: tf.convert_to_tensor(v) for n, v in variables.items()}, case.training)
        got = [g for g in got if hasattr(g, "shape")]
        loss = (
            tf.add_n([tf.reduce_sum(g * c) for g, c in zip(got, cot, strict=True) if c is not None])
            if any(c is not None for c in cot)
            else None
        )
    for i, (g, want) in enumerate(zip(got, outs, strict=True)):
        agree(f"output {i}", g.numpy(), want, case.rtol)
    if not case.grad or loss is None:
        return
    names = [n for n in param_grads if n in variables]
    found = tape.gradient(
        loss, floats + [variables[n] for n in names], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    found = [tf.convert_to_tensor(f).numpy() for f in found]
    for i, want in enumerate(input_grads):
        agree(f"gradient of input {i}", found[i], want, case.rtol)
    for n, f in zip(names, found[len(input_grads) :], strict=True):
        agree(f"gradient of {n}", f, param_grads[n], case.rtol)


def run_emitted(case: Case, folder: Any = None, row: Prepared | None = None) -> Any:
    """Convert to a Keras model, compare with torch through its ports and weight map; with `folder`, save, load,
    compare."""
    import tensorflow as tf

    from isomorph.convert.api import from_captured, to_keras
    from isomorph.convert.conversion import load

    row = row or prepare(case)
    module, inputs = row.module, row.inputs
    outs, cot, input_grads, param_grads = row.torch_side
    if case.training:
        converted = to_keras(module, tuple(inputs), None, row.shapes)
        assert module.training
    else:
        converted = from_captured(row.captured, mode="eval")
    arrays = [x.numpy() for x in inputs if isinstance(x, torch.Tensor)]
    xs = [tf.convert_to_tensor(p.to_keras(a)) for p, a in zip(converted.inputs, arrays, strict=True)]
    with tf.GradientTape() as tape:
        floats = [x for x in xs if x.dtype.is_floating]
        for x in floats:
            tape.watch(x)
        got = converted.flatten_outputs(converted.model(xs if len(xs) > 1 else xs[0], training=case.training))
        ys = [tf.cast(tf.convert_to_tensor(g), g.dtype) for g in got]
        back = [p.permutation and np.argsort(p.permutation) for p in converted.outputs]
        ys = [y if b is None else tf.transpose(y, b) for y, b in zip(ys, back, strict=True)]
        loss = (
            tf.add_n([tf.reduce_sum(y * c) for y, c in zip(ys, cot, strict=True) if c is not None])
            if any(c is not None for c in cot)
            else None
        )
    for i, (y, want) in enumerate(zip(ys, outs, strict=True)):
        agree(f"output {i}", y.numpy(), want, case.rtol)
    if case.grad and loss is not None:
        entries = [e for e in converted.weights if e.torch_name in param_grads and e.tied_to is None]
        variables = [e.variable.value for e in entries]
        found = tape.gradient(loss, floats + variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found = [tf.convert_to_tensor(f).numpy() for f in found]
        ports = [p for p, x in zip(converted.inputs, xs, strict=True) if x.dtype.is_floating]
        for i, (port, want) in enumerate(zip(ports, input_grads, strict=True)):
            agree(f"gradient of input {i}", port.to_torch(found[i]), want, case.rtol)
        for e, f in zip(entries, found[len(floats) :], strict=True):
            agree(f"gradient of {e.torch_name}", e.to_torch(f), param_grads[e.torch_name], case.rtol)
    if folder is not None:
        converted.save(folder / "m.keras")
        again = load(folder / "m.keras")
        for i, (a, b) in enumerate(
            zip(
                got,
                again.flatten_outputs(again.model(xs if len(xs) > 1 else xs[0], training=case.training)),
                strict=True,
            )
        ):
            agree(f"reloaded output {i}", np.asarray(b), np.asarray(a), case.rtol)
    return converted

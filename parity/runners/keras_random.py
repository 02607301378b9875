"""Random numbers and indices inside a Keras model: seeding its generators, silencing its dropout, and seeing which
tables an input indexes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src import backend as internals  # where every layer and keras.ops look these functions up at call time
from keras.src.random.seed_generator import global_seed_generator

from isomorph.convert.errors import UnsupportedError
from isomorph.parity.tolerance import Array

__all__ = ["drops", "idle_draw", "index_bounds", "is_seed", "rates", "seeded", "telling_indices", "without_dropout"]

DROPS = ("dropout", "scaled_dot_product_attention", "rrelu", "lstm", "gru", "rnn_tanh", "rnn_relu")
NOISE = (keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.AlphaDropout)


def is_seed(variable: Any) -> bool:
    """Whether a Keras variable is the state of a random generator."""
    return str(variable.name) == "seed_generator_state"


@contextlib.contextmanager
def seeded(variables: Sequence[Any], seed: int) -> Iterator[None]:
    """Every generator's state is set from `seed`, a stream for each. Keras' global one is put back at the end; the
    caller puts back `variables`."""
    common = global_seed_generator().state
    before = np.array(keras.ops.convert_to_numpy(common))
    for stream, variable in enumerate([common, *(v for v in variables if is_seed(v))]):
        words = np.random.default_rng([seed, stream]).integers(0, 2**31 - 1)
        variable.assign(np.asarray([words, 0], before.dtype))
    try:
        with _torch_seed(seed):
            yield
    finally:
        common.assign(before)


@contextlib.contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """On the torch backend a layer without a seed draws from torch's own generator."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def drops(site: Any) -> bool:
    """Whether a random site of a Conversion is one that drops or adds noise in train mode only."""
    return any(word in str(site.op) for word in DROPS)


def idle_draw(site: Any) -> Array:
    """What makes a site pass its input on: a keep mask that cancels its factor 1 / (1 - rate)."""
    layer, op = site.layer, str(site.op)
    if "alpha" in op:
        raise UnsupportedError(f"{op} cannot be switched off in a converted model")
    rate = getattr(layer, "rate", getattr(layer, "dropout", None))
    for node in getattr(getattr(layer, "graph", None), "nodes", ()):
        if node.op == op and "rrelu" in op:
            return np.asarray(sum(map(float, node.args[1:3])) / 2, np.float64)
        if node.op == op:
            rate = getattr(argument := node.args[4 if "attention" in op else 1], "train", argument)
    return np.asarray(1.0 - rate if isinstance(rate, int | float) and rate < 1 else 1.0, np.float64)


@contextlib.contextmanager
def without_dropout() -> Iterator[None]:
    """While open, Keras' dropout and noise layers give back their input; all else follows `training`."""

    def same(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return inputs

    def kept(layer: Any, inputs: Any, training: bool | None = None) -> Any:
        return inputs

    dropout, calls = internals.random.dropout, [(kind, kind.call) for kind in NOISE]
    internals.random.dropout = same
    for kind in NOISE:
        kind.call = kept
    try:
        yield
    finally:
        internals.random.dropout = dropout
        for kind, call in calls:
            kind.call = call


def rates(model: Any) -> dict[str, float]:
    """Of every layer that drops or adds noise, by the names from the model inwards, joined by dots: its rate, or the
    standard deviation of its noise."""
    found: dict[str, float] = {}
    stack, seen = [("", model)], {id(model)}
    while stack:
        path, layer = stack.pop()
        for child in layer._layers:
            if id(child) in seen:
                continue
            seen.add(id(child))
            name = ".".join(filter(None, (path, str(child.name))))
            stack.append((name, child))
            if isinstance(child, (*NOISE, keras.layers.Dropout)):
                found[name] = float(child.stddev if isinstance(child, keras.layers.GaussianNoise) else child.rate)
    return found


@contextlib.contextmanager
def index_bounds(watched: Mapping[str, Array]) -> Iterator[dict[str, int]]:
    """While open, every lookup whose indices are one of these arrays is noted: name -> rows of the smallest table."""
    found: dict[str, int] = {}
    take = internals.numpy.take

    def seen(x: Any, indices: Any, axis: Any = None) -> Any:
        with contextlib.suppress(Exception):  # a symbolic or traced tensor has no values
            values = np.asarray(keras.ops.convert_to_numpy(indices)).ravel()
            for name, array in watched.items():
                if values.size and np.array_equal(values, array.ravel()):
                    rows = int(x.shape[axis or 0])
                    found[name] = min(rows, found.get(name, rows))
        return take(x, indices, axis=axis)

    internals.numpy.take = seen
    try:
        yield found
    finally:
        internals.numpy.take = take


def telling_indices(arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The example with zeros and ones in the place of its integers, another pattern for each input."""
    rng = np.random.default_rng(12)
    return tuple(rng.integers(0, 2, a.shape).astype(a.dtype) if a.dtype.kind in "iu" else a for a in arrays)

"""What travels to worker processes and back: every value, bit for bit, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isomorph.parity.explaining.flow import TracedCall
from isomorph.parity.runners import base, wire
from isomorph.parity.runners.base import Request

DTYPES = sorted(wire.PLAIN)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
layouts: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda a: a,
    lambda a: a.T,
    np.asfortranarray,
    lambda a: a[..., ::-1] if a.ndim else a,
    lambda a: a.astype(a.dtype.newbyteorder(">")),
]
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=9),
    st.builds(lambda a, layout: layout(a), arrays, st.sampled_from(layouts)),
    st.sampled_from([np.float32(1.5), np.int64(-3), np.bool_(True)]),
)  # fmt: skip
keys = st.one_of(st.text(max_size=3), st.integers(0, 9))


def nests(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=3)
    small = st.builds(
        lambda values, kind: kind(values), lists, st.sampled_from([tuple, list, lambda v: dict(enumerate(v))])
    )
    requests = st.builds(
        Request, st.tuples(arrays, arrays), st.sampled_from(["eval", "train"]), structure=inner,
        draws=st.tuples(st.builds(base.Recorded, st.text(max_size=3), arrays)),
        perturbation=st.builds(base.Perturbation, st.floats(0, 1), st.integers(0, 9)),
    )  # fmt: skip
    return st.one_of(small, st.dictionaries(keys, inner, max_size=3), requests)


def sent(value: Any) -> Any:
    frame = wire.encode(value)
    header, blob = wire.lengths(frame[: wire.PREFIX.size])
    rest = frame[wire.PREFIX.size :]
    assert len(rest) == header + blob
    return wire.decode(rest[:header], rest[header:])


def same(left: Any, right: Any) -> bool:
    """Equal types, structure and bits; byte order and layout of arrays aside."""
    if isinstance(left, np.ndarray | np.generic):
        left, native = np.array(left), left.dtype.newbyteorder("=")
        same_kind = isinstance(right, np.ndarray | np.generic) and right.dtype == native
        return same_kind and left.shape == np.shape(right) and left.astype(native).tobytes() == right.tobytes()
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return np.float64(left).tobytes() == np.float64(right).tobytes() or (left != left and right != right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if type(left).__name__ in wire.RECORDS:
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    return bool(left == right)


@given(st.recursive(leaves, nests, max_leaves=12))
@settings(max_examples=150, deadline=None)
def test_what_is_sent_arrives(value: Any) -> None:
    assert same(value, sent(value))


def test_every_record_of_the_protocol_travels() -> None:
    a = np.array([1.0, np.nan, -0.0])
    port = base.PortInfo("x", "float32", (2, "b", None), -1.0, None)
    records = [
        base.About("torch", (port,), sizes={"b": (1, None)}, missing={"gradients": "none"}, notes=("n",)),
        base.ModuleTrace("a.b", "Linear", 0, (a,), (a, a), (None, a), (a,)),
        TracedCall("a.b", "Linear", 0, (a,), (a,), parent=3, input_sources=((1, 2), ())),
        base.ParameterInfo("w", (2, 3), "float32", True, None),
        base.Response((a,), ("float32",), {"y": [0, None]}, {"x": a}, {"w": a}, {"b": a}, (a, None)),
    ]
    arrived = sent(records)
    assert all(same(one, other) for one, other in zip(records, arrived, strict=True))
    assert arrived[-1].outputs[0].flags.writeable
    public = {cls for cls in vars(base).values() if isinstance(cls, type) and cls.__module__ == base.__name__}
    data = {cls.__name__ for cls in public if not getattr(cls, "_is_protocol", False)}
    assert data <= set(wire.RECORDS)


class Linear: ...


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(TypeError, match="object of type Linear cannot be sent"):
        wire.encode({"a": Linear()})
    with pytest.raises(TypeError, match="dtype <U1 cannot be sent"):
        wire.encode(np.array("a"))
    with pytest.raises(wire.ProtocolError, match="not a frame: it starts with b'WARNING"):
        wire.lengths(b"WARNING: printed by a framework"[: wire.PREFIX.size])
    with pytest.raises(wire.ProtocolError, match="not a frame of this version"):
        wire.decode(b'["Telegram", {}]', b"")

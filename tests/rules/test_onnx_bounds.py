"""ONNX -> torch: slices, pads and expansions of any bounds, against numpy and the words of the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from isomorph.convert.onnx_in.rules import index, pad, shape

BOUND = st.one_of(st.integers(-9, 9), st.sampled_from([2**31 - 1, 2**63 - 1, -(2**31), -(2**63) + 1]))


@given(n=st.integers(0, 6), start=BOUND, end=BOUND, step=st.sampled_from([1, 2, 3, -1, -2, -7]))
def test_slices_of_any_bounds(n: int, start: int, end: int, step: int) -> None:
    """By the words of the specification: what is clamped to where."""
    first, last = (v + n if v < 0 else v for v in (start, end))
    low, high = (0, n) if step > 0 else (-1, n - 1)
    places = range(min(max(first, 0), high), min(max(last, low), high), step)
    found = index.slice_10(torch.arange(n), *(torch.tensor([v]) for v in (start, end, 0, step)))
    assert found.tolist() == [p for p in places if p < n]


WIDTH = st.integers(0, 9)


@given(n=st.integers(1, 5), before=WIDTH, after=WIDTH, mode=st.sampled_from(["reflect", "edge", "wrap"]))
def test_pads_of_any_width(n: int, before: int, after: int, mode: Any) -> None:
    """Wider than the tensor, too."""
    found = pad.extend(torch.arange(n), {0: (before, after)}, mode)
    assert found.tolist() == np.pad(np.arange(n), (before, after), mode).tolist()
    rows = pad.pad(torch.arange(n).expand(2, n), torch.tensor([before, after]), axes=torch.tensor([-1]), mode=mode)
    assert rows.tolist() == [found.tolist()] * 2


@given(x_dims=st.lists(st.sampled_from([1, 3]), max_size=3), dims=st.lists(st.sampled_from([1, 3]), max_size=3))
def test_expand_goes_both_ways(x_dims: list[int], dims: list[int]) -> None:
    wanted = np.broadcast_shapes(tuple(x_dims), tuple(dims))
    assert tuple(shape.expand(torch.zeros(x_dims), torch.tensor(dims, dtype=torch.int64)).shape) == wanted
    assert tuple(shape.broadcast(torch.zeros(x_dims), tuple(dims)).shape) == wanted

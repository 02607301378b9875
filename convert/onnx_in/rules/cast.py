"""Conversion between element types."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..operands import dtype_of, leaf
from ..registry import rule
from .dtypes import STRING, element_of, held, is_text
from .narrow import FLOAT8, INTEGERS, MINIFLOATS, codes, from_codes, kept_bits, round_to, to_e8m0, to_float8
from .text import plain, strings

__all__ = ["convert"]

NARROW = (21, 22, 25, 26)  # integers of 4 and 2 bits
E8M0 = 24


def convert(x: Any, to: int, source: int | None = None, saturate: bool = True, round_mode: str = "up") -> Any:
    """x as elements of the onnx.TensorProto.DataType `to`. source: its own, None if unknown."""
    if is_text(x) or source == STRING:
        return x if to == STRING else parsed(plain(x), to)
    if to == STRING:
        return printed(x)
    have, want = dtype_of(x), held(to)
    if to in MINIFLOATS:
        found = round_to(_computable(x), to)
        return found if have == want else found.to(want)
    if to == E8M0:
        return x if have == want else to_e8m0(x, round_mode, saturate)
    if want in FLOAT8:
        return x if have == want else to_float8(_computable(x), want, saturate)
    if to in NARROW:
        return x if source == to else kept_bits(x.to(torch.int64), to).to(want)
    return x if have == want and source not in MINIFLOATS else x.to(want)


def _computable(x: Any) -> Any:
    """Integers and floats of 8 bits as float32."""
    dtype = dtype_of(x)
    return x if dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) else x.to(torch.float32)


@rule("Cast")
def cast_1(x: Any, *, to: str, site: Any = None) -> Any:
    """The type by its name."""
    import onnx

    return convert(x, onnx.TensorProto.DataType.Value(to.upper()), None if site is None else element_of(site, 0))


@rule("Cast", since=6)
def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up", site: Any = None) -> Any:
    return convert(x, to, None if site is None else element_of(site, 0), bool(saturate), round_mode)


@rule("CastLike", since=15)
def cast_like(x: Any, target: Any, *, saturate: int = 1, round_mode: str = "up", site: Any = None) -> Any:
    to = None if site is None else element_of(site, 1) or site.results[0].element
    if to is None:
        return x.type_as(target)
    return convert(x, to, element_of(site, 0), bool(saturate), round_mode)


@rule("BitCast", since=26)
def bit_cast(x: Any, *, to: int, site: Any = None) -> Any:
    """The same bits read as another type of the same width."""
    source = None if site is None else element_of(site, 0)
    if source is not None and (source in NARROW or source in MINIFLOATS):
        return x if source == to else from_codes(codes(x, source), to)
    return x.view(held(to))


# -------------------------------------------------------------------------------------------------------------- strings
@leaf
def parsed(x: Any, to: int) -> torch.Tensor:
    """Strings read as numbers; "inf" and "nan" in any case."""
    array = strings(x)
    if to in INTEGERS or to in (12, 13):
        numbers = np.array([_integer(t) for t in array.flat], dtype=object)
        made = np.array([n % (1 << 64) for n in numbers], dtype=np.uint64).view(np.int64)
    else:
        made = np.array([float(t) for t in array.flat], dtype=np.float64)
    result: torch.Tensor = convert(torch.from_numpy(made.reshape(array.shape)), to)
    return result


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


@leaf
def printed(x: torch.Tensor) -> np.ndarray:
    """Numbers as strings: the shortest decimal that reads back as the same number."""
    x = x.detach().cpu()
    array = (x.float() if x.dtype.is_floating_point and x.dtype.itemsize < 4 else x).numpy()
    return strings(np.array([_text(n) for n in array.flat], dtype=object).reshape(array.shape))


def _text(number: Any) -> str:
    if isinstance(number, np.floating):
        if not np.isfinite(number):
            return "NaN" if np.isnan(number) else "INF" if number > 0 else "-INF"
        return str(number)
    return str(number)

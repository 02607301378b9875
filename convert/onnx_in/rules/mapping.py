"""Tables from keys to values and dictionaries (ai.onnx.ml)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..operands import leaf
from ..registry import rule
from .ml import DOMAIN
from .text import plain, strings

UNUSED = "_Unused"


@rule("LabelEncoder", domain=DOMAIN)
def label_encoder_1(
    x: Any, *, classes_strings: tuple[str, ...], default_int64: int = -1, default_string: str = UNUSED
) -> Any:
    """Strings to their places in the list, and places to strings."""
    return both_ways(x, tuple(range(len(classes_strings))), classes_strings, default_int64, default_string)


@rule("CategoryMapper", domain=DOMAIN)
def category_mapper(
    x: Any,
    *,
    cats_int64s: tuple[int, ...],
    cats_strings: tuple[str, ...],
    default_int64: int = -1,
    default_string: str = UNUSED,
) -> Any:
    return both_ways(x, cats_int64s, cats_strings, default_int64, default_string)


def both_ways(x: Any, numbers: tuple[int, ...], texts: tuple[str, ...], number: int, text: str) -> Any:
    return mapped_either_way(plain(x), dict(zip(numbers, texts, strict=True)), number, text)


@leaf
def mapped_either_way(x: Any, texts: dict[int, str], number: int, text: str) -> Any:
    """Integers to strings, or strings to integers."""
    if isinstance(x, torch.Tensor):
        return strings([texts.get(i, text) for i in x.reshape(-1).tolist()]).reshape(tuple(x.shape))
    numbers = {t: i for i, t in texts.items()}
    array = strings(x)
    return torch.tensor([numbers.get(t, number) for t in array.flat], dtype=torch.int64).reshape(array.shape)


@rule("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(
    x: Any,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = UNUSED,
    default_tensor: Any = None,
    keys_floats: tuple[float, ...] | None = None,
    keys_int64s: tuple[int, ...] | None = None,
    keys_strings: tuple[str, ...] | None = None,
    keys_tensor: Any = None,
    values_floats: tuple[float, ...] | None = None,
    values_int64s: tuple[int, ...] | None = None,
    values_strings: tuple[str, ...] | None = None,
    values_tensor: Any = None,
) -> Any:
    """Of keys that stand twice the last counts; NaN is the key of any NaN."""
    keys = next(k for k in (keys_tensor, keys_strings, keys_int64s, keys_floats) if k is not None)
    keys = listed(keys) if keys is keys_tensor else list(keys)
    dtype: torch.dtype | None = torch.int64 if values_int64s is not None else torch.float32
    if values_tensor is not None:
        dtype = values_tensor.dtype if isinstance(values_tensor, torch.Tensor) else None
        values = listed(values_tensor)
    else:
        values = list(next(v for v in (values_strings, values_int64s, values_floats) if v is not None))
        dtype = None if values_strings is not None else dtype
    default: Any = default_string
    if dtype is not None:
        default = default_float if dtype.is_floating_point else default_int64
    default = default if default_tensor is None else listed(default_tensor)[0]
    return mapped(plain(x), keys, values, default, dtype)


def listed(x: Any) -> list[Any]:
    """The elements of an attribute that is a tensor or an array of strings."""
    found: list[Any] = (x if isinstance(x, torch.Tensor) else strings(x)).reshape(-1).tolist()
    return found


@leaf
def mapped(x: Any, keys: Any, values: Any, default: Any, dtype: torch.dtype | None) -> Any:
    """Each element's value in a table, else the default: a tensor of the dtype, strings where it is None."""
    table = {_key(k): v for k, v in zip(keys, values, strict=True)}
    shape = tuple(x.shape) if isinstance(x, torch.Tensor) else strings(x).shape
    given = x.reshape(-1).tolist() if isinstance(x, torch.Tensor) else strings(x).reshape(-1).tolist()
    found = [table.get(_key(k), default) for k in given]
    if dtype is None:
        return strings(found).reshape(shape)
    device = x.device if isinstance(x, torch.Tensor) else None
    return torch.tensor(found, dtype=dtype, device=device).reshape(shape)


def _key(key: Any) -> Any:
    """NaN is not equal to itself."""
    return "nan" if isinstance(key, float) and math.isnan(key) else key


# --------------------------------------------------------------------------------------------------------- dictionaries
@rule("ZipMap", domain=DOMAIN)
def zip_map(x: Any, *, classlabels_int64s: tuple[int, ...] = (), classlabels_strings: tuple[str, ...] = ()) -> Any:
    return zipped(x, tuple(classlabels_strings or classlabels_int64s))


@leaf
def zipped(x: torch.Tensor, keys: tuple[Any, ...]) -> list[dict[Any, torch.Tensor]]:
    """A dictionary of 0-d tensors for each row; of a vector, one."""
    return [dict(zip(keys, row.unbind(), strict=True)) for row in (x if x.dim() > 1 else x.unsqueeze(0))]


@rule("DictVectorizer", domain=DOMAIN)
def dict_vectorizer(x: Any, *, int64_vocabulary: tuple[int, ...] = (), string_vocabulary: tuple[str, ...] = ()) -> Any:
    return vector_of(x, tuple(string_vocabulary or int64_vocabulary))


@leaf
def vector_of(x: dict[Any, Any], vocabulary: tuple[Any, ...]) -> Any:
    """A dictionary's values in the order of the vocabulary, of shape (1, words); 0 or "" for what it lacks."""
    if any(isinstance(v, str) for v in x.values()):
        return strings([x.get(k, "") for k in vocabulary])[None]
    values = [torch.as_tensor(x.get(k, 0)) for k in vocabulary]
    dtype = next((torch.as_tensor(v).dtype for v in x.values()), torch.float32)
    return torch.stack([v.to(dtype) for v in values])[None]


@rule("CastMap", domain=DOMAIN)
def cast_map(x: Any, *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1) -> Any:
    return cast_values(x, cast_to, max_map if map_form == "SPARSE" else 0)


@leaf
def cast_values(x: dict[int, Any], kind: str, length: int) -> Any:
    """A dictionary's values in the order of its keys, or each at its key in a row of `length`; of shape (1, values)."""
    pairs = sorted((int(k), v) for k, v in x.items())
    row = dict(pairs) if length else dict(enumerate(v for _, v in pairs))
    places = range(length or len(row))
    if kind == "TO_STRING":
        return strings([_plain(row.get(i, "")) for i in places])[None]
    number = float if kind == "TO_FLOAT" else int
    dtype = torch.float32 if kind == "TO_FLOAT" else torch.int64
    return torch.tensor([[number(float(row.get(i, 0))) for i in places]], dtype=dtype)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (torch.Tensor, np.generic)) else value

"""Values that stand in the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..registry import rule


@rule("Constant")
def constant(
    *,
    value: Any = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
    value_string: str | None = None,
    value_strings: tuple[str, ...] | None = None,
) -> Any:
    """A tensor; strings are numpy object arrays."""
    if value is not None:
        return value
    if value_string is not None or value_strings is not None:
        return np.array(value_string if value_strings is None else list(value_strings), dtype=object)
    number = next(n for n in (value_float, value_floats, value_int, value_ints) if n is not None)
    is_float = value_float is not None or value_floats is not None
    return torch.tensor(number, dtype=torch.float32 if is_float else torch.int64)

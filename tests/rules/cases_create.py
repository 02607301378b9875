"""Rows: tensors made from sizes and numbers."""

from __future__ import annotations

from typing import Any

import torch

from .harness import Case, rand
from .values import bools, call, each, grid, op, signed, undifferentiated

R, INT = rand(3, 4), signed(3, 4)


def made(key: str, *args: Any, tag: str = "", **kwargs: Any) -> Case:
    """A row for an op without tensor operands; the input only makes it a program."""
    name = key.replace(".default", "").replace(".", "_") + (f"_{tag}" if tag else "")
    return Case(name, (f"aten.{key}",), lambda x: (op(key)(*args, **kwargs), x * 2), lambda: [R])


def sized(name: str, key: str, function: Any, dynamic: Any = True) -> Case:
    """A row whose sizes come from the input."""
    return Case(name, (f"aten.{key}",), function, lambda: [R], dynamic=dynamic)


F64 = {"dtype": torch.float64}
CASES: list[Case] = [
    made("full.default", [2, 3], 0.3, **F64),
    made("full.default", [2, 3], 3, tag="int"),
    made("full.default", [], True, tag="bool"),
    sized("full_free", "full.default", lambda x: torch.full((x.shape[0], 3), 0.3, dtype=torch.float64) + x[:, :3]),
    made("scalar_tensor.default", 0.1, **F64),
    *[made(f"{n}.default", [2, 3], **F64) for n in ("zeros", "ones")],
    *[made(f"{n}.default", [2, 3], dtype=torch.int64, tag="int") for n in ("zeros", "ones")],
    sized("zeros_free", "zeros.default", lambda x: torch.zeros(x.shape[0], 4, dtype=torch.float64) + x),
    *[
        Case(n, (f"aten.{k}",), f, lambda: [R])
        for n, k, f in (
            (
                "empty",
                "empty.memory_format",
                lambda x: (torch.empty(2, 3, dtype=torch.float64) * 0).nan_to_num() + x[:2, :3],
            ),
            (
                "empty_strided",
                "empty_strided.default",
                lambda x: op("empty_strided.default")([3, 4], [4, 1], dtype=torch.float64).fill_(2.0) + x,
            ),
            (
                "empty_permuted",
                "empty_permuted.default",
                lambda x: op("empty_permuted.default")([3, 4], [0, 1], dtype=torch.float64).fill_(2.0) + x,
            ),
            ("empty_like", "empty_like.default", lambda x: torch.empty_like(x).fill_(2.0) + x),
            ("new_empty", "new_empty.default", lambda x: x.new_empty(3, 4).fill_(2.0) + x),
            (
                "new_empty_strided",
                "new_empty_strided.default",
                lambda x: op("new_empty_strided.default")(x, [3, 4], [4, 1]).fill_(2.0) + x,
            ),
        )
    ],
    *each("zeros_like ones_like", R, dynamic=True),
    *each("zeros_like ones_like", INT, dtype=torch.float64, tag="dtype"),
    call("full_like.default", R, 0.1, dynamic=True),
    call("full_like.default", INT, 0.1, dtype=torch.float64, tag="dtype"),
    call("full_like.default", bools(3, 4), True, tag="bool"),
    *[call(f"{n}.default", R, [2, 5]) for n in ("new_zeros", "new_ones")],
    call("new_full.default", INT, [2, 5], 7),
    sized("new_ones_free", "new_ones.default", lambda x: x.new_ones(x.shape[0], 2)),
    made("arange.default", 5),
    made("arange.default", 5, **F64, tag="float"),
    made("arange.start", 2, 7),
    made("arange.start_step", 7, 2, -2),
    made("arange.start_step", 0.1, 1.0, 0.3, **F64, tag="float"),
    made("arange.start_step", 0.1, 1.0, 0.3, tag="float32"),
    sized("arange_free", "arange.default", lambda x: torch.arange(x.shape[0])[:, None] + x),
    made("linspace.default", 0.1, 1.7, 7, **F64),
    made("linspace.default", 0.1, 1.7, 1, **F64, tag="one"),
    made("linspace.default", 0.1, 1.7, 6, tag="float32"),
    made("linspace.default", 0, 10, 5, dtype=torch.int64, tag="int"),
    made("logspace.default", -1.0, 1.0, 5, **F64),
    *[
        undifferentiated(f"{n}.Tensor_Tensor", torch.tensor(0.5).double(), torch.tensor(2.0).double(), 5, **F64)
        for n in ("linspace", "logspace")
    ],
    *[
        undifferentiated(f"{n}.Tensor_Scalar", torch.tensor(0.5).double(), 2.0, 5, **F64)
        for n in ("linspace", "logspace")
    ],
    *[
        undifferentiated(f"{n}.Scalar_Tensor", 0.5, torch.tensor(2.0).double(), 5, **F64)
        for n in ("linspace", "logspace")
    ],
    made("eye.default", 3, **F64),
    made("eye.m", 2, 4),
    sized("eye_free", "eye.default", lambda x: torch.eye(x.shape[0], dtype=torch.float64) @ x),
    *each("tril triu", grid(2, 4, 5), dynamic=True),
    *each("tril triu", grid(4, 5), 2, tag="above"),
    *each("tril triu", grid(4, 5), -1, tag="below"),
    *each("tril triu", grid(4, 5), 1, tag="free", dynamic=True),
    *each("tril triu", bools(4, 5), tag="bool"),
    *each("tril triu", signed(4, 5), tag="int"),
    *[made(f"{n}_indices.default", 4, 5, 1) for n in ("tril", "triu")],
]

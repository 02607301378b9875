"""Rows: matrix products."""

from __future__ import annotations

import torch

from .harness import Case, rand

CASES = [
    Case("linear", ("aten.linear.default",), lambda: torch.nn.Linear(4, 3), lambda: [rand(2, 5, 4)], module=True),
    Case("relu", ("aten.relu.default",), torch.relu, lambda: [rand(2, 5, 4)]),
    Case("permute_view", ("aten.transpose.int",), lambda x: torch.relu(x.transpose(1, 2).flatten(1)), lambda: [rand(2, 5, 4)], dynamic=True),
]

"""Equal elements: where torch leaves open which comes first, no choice is held against the other model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isomorph.parity.check import check
from isomorph.parity.modes.order_mode import FirstOfEqual

TIES = torch.tensor([[2.0, 1.0, 2.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])


class Picks(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def last_of_equal(x: Tensor) -> tuple[Tensor, Tensor]:
    """The three largest, in another order among equals: the last first."""
    values, places = torch.sort(x.flip(-1), dim=-1, descending=True, stable=True)
    return values[..., :3], x.shape[-1] - 1 - places[..., :3]


@pytest.mark.parametrize("unstable", [torch.topk, torch.Tensor.topk], ids=["function", "method"])
def test_the_first_of_equal_elements_is_taken(unstable: Callable[..., tuple[Tensor, Tensor]]) -> None:
    with FirstOfEqual():
        values, places = unstable(TIES, 3)
        smallest = torch.topk(TIES, 2, largest=False)[1]
        third = torch.kthvalue(TIES, 3, -1, keepdim=True)[1]
        order = torch.argsort(TIES, dim=-1)
    assert values.tolist() == [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]
    assert places.tolist() == [[0, 2, 4], [0, 1, 2]]
    assert smallest.tolist() == [[5, 1], [0, 1]]
    assert third.tolist() == [[3], [2]]
    assert order.tolist() == [[5, 1, 3, 0, 2, 4], [0, 1, 2, 3, 4, 5]]


def test_a_number_has_no_order() -> None:
    with FirstOfEqual():
        assert torch.topk(torch.tensor(3.0), 1)[1].tolist() == 0


def first_of_equal(x: Tensor) -> tuple[Tensor, Tensor]:
    values, places = torch.sort(x, dim=-1, descending=True, stable=True)
    return values[..., :3], places[..., :3]


def test_another_choice_among_equals_is_no_difference() -> None:
    verdict = check(
        Picks(lambda x: tuple(torch.topk(x, 3))), Picks(first_of_equal), TIES, level="quick", strict=True, examples=24
    )
    assert verdict.status == "PASS", verdict.summary()


def test_where_torch_promises_an_order_the_choice_counts() -> None:
    verdict = check(Picks(first_of_equal), Picks(last_of_equal), TIES, level="quick", strict=True, examples=24)
    assert verdict.status == "FAIL"
    assert {m.kind for m in verdict.mismatches} <= {"kink", "integer"}


def test_a_wrong_choice_among_unequals_is_a_difference() -> None:
    smallest = Picks(lambda x: tuple(torch.topk(x, 3, largest=False)))
    assert check(Picks(lambda x: tuple(torch.topk(x, 3))), smallest, TIES, level="quick").status == "FAIL"

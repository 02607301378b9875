"""What the inner runs test: pairs of models that are made in no time, and what such a run says of its checks."""

from __future__ import annotations

from typing import Any

import pytest

# double, twice: functions that agree; wrong: one that does not.
FUNCTIONS = """
import numpy as np
import pytest

X = np.ones((2, 3), "float32")

def double(x): return x * 2
def twice(x): return x + x
def wrong(x): return x * np.float32(2.5)

"""
# net(): a torch module; net(1.5): another one.
HEAD = (
    FUNCTIONS
    + """
import torch

def net(factor=1.0):
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.add_module("first", torch.nn.Linear(3, 4))
    module.add_module("act", torch.nn.ReLU())
    module.add_module("last", torch.nn.Linear(4, 2))
    with torch.no_grad():
        module.last.weight.mul_(factor)
    return module

"""
)


def checked(pytester: pytest.Pytester, *args: str) -> list[dict[str, Any]]:
    """Run pytest here and return the results, as the reports carry them."""
    run = pytester.inline_run(*args)
    reports = run.getreports("pytest_runtest_logreport")
    return [result for report in reports for result in getattr(report, "isomorph_results", [])]


def makes(pytester: pytest.Pytester, body: str, head: str = HEAD) -> None:
    """A test file of the head and these tests."""
    pytester.makepyfile(test_inner=head + body)

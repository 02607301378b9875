"""Every fixture model converts, and the verdict is PASS: outputs, gradients, buffers, in eval and in train mode."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.hf import HF
from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.errors import CaptureError
from isomorph.parity.check import check

FAST = {"resnet_basic", "gpt", "efficientnet", "shared_layers", "lstm_state", "cond", "dataclass_output"}

# What stays open, each with its reason: strict, so that a row that passes must go.
OPEN: dict[str, str] = {}


def rows() -> list[Any]:
    found = []
    for name, fixture in [*ZOO.items(), *HF.items()]:
        marks = [] if name in FAST else [pytest.mark.slow]
        if name in HF:
            marks.append(pytest.mark.hf)
        if name in OPEN:
            marks.append(pytest.mark.xfail(reason=OPEN[name], strict=True))
        found.append(pytest.param(fixture, id=name, marks=marks))
    return found


@pytest.mark.parametrize("fixture", rows())
def test_converts_and_passes(fixture: Any) -> None:
    module, args, kwargs = fixture.build().eval(), fixture.args(), fixture.kwargs()
    if "eval" in fixture.refuses:
        with pytest.raises(CaptureError):
            to_keras(module, args, kwargs, fixture.dynamic)
        return
    converted = to_keras(module, args, kwargs, fixture.dynamic)
    verdict = check(module, converted, (args, kwargs), level="quick")
    assert verdict.status == "PASS", verdict.summary()
    assert converted.pull().keys() == module.state_dict().keys()
    free = sum(isinstance(d, str) for p in converted.inputs for d in p.dims)
    if fixture.dynamic is None:
        assert all(isinstance(p.dims[0], str) for p in converted.inputs if p.dims), "a batch was fixed to the example's"
    else:
        assert free == sum(d is not None for axes in fixture.dynamic.values() for d in axes)

"""The default verdict of a conversion on nets where rounding decides which of equals is taken, or NaN is ordered."""

from __future__ import annotations

import pytest

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.parity.check import check

HARD = {
    "vgg": "max pooling over rows that are equal but for rounding",
    "arithmetic": "a comparison and a floor that stand on their edge for tiny inputs",
    "max_unpool": "indices of maxima among equals",
    "ordering": "sorting with NaN",
    "deeplab": "resampling with NaN",
    "noises": "random draws in both modes",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_an_honest_conversion_passes_at_full_level(name: str) -> None:
    fixture = ZOO[name]
    module, args, kwargs = fixture.build().eval(), fixture.args(), fixture.kwargs()
    verdict = check(module, to_keras(module, args, kwargs, dynamic_shapes=fixture.dynamic))
    assert verdict.status == "PASS", verdict.summary()

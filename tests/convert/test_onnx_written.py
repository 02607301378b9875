"""What a float32 of the file was before it was rounded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isomorph.convert.onnx_in.written import written, written_all

AUTHORS = [0.001, 1e-5, 1 / 6, 1 / 127.5, 1 / 255, 0.044715, math.sqrt(2 / math.pi), math.pi / 3, math.log(2), 0.2, 3.0]


@pytest.mark.parametrize("number", AUTHORS)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_author_wrote_is_found(number: float, sign: int) -> None:
    assert written(sign * float(np.float32(number))) == sign * number


@pytest.mark.parametrize("number", [1 / math.sqrt(2), 1 / math.sqrt(24), math.sqrt(3)])
def test_a_root_is_found_to_the_last_digit(number: float) -> None:
    assert written(float(np.float32(number))) == pytest.approx(number, rel=4e-16)


@given(st.floats(width=32))
def test_it_rounds_to_the_number_of_the_file(number: float) -> None:
    found = written(number)
    assert np.float32(found).tobytes() == np.float32(number).tobytes()
    assert math.copysign(1, found) == math.copysign(1, number)


def test_a_long_list_is_data() -> None:
    data = tuple(float(np.float32(0.1)) for _ in range(100))
    assert written_all(data) == data
    assert written_all(data[:3]) == (0.1, 0.1, 0.1)

"""Element types of 8 bits and less: rounding to them, and their bits. Types that torch lacks are held in wider ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..operands import leaf

__all__ = ["FLOAT8", "INTEGERS", "MINIFLOATS", "Minifloat", "codes", "from_codes", "round_to", "to_e8m0", "to_float8"]

# onnx.TensorProto.DataType -> (bits, signed) of integers; torch's own ones have 8 bits and more
INTEGERS = {
    2: (8, False),
    3: (8, True),
    4: (16, False),
    5: (16, True),
    6: (32, True),
    7: (64, True),
    21: (4, False),
    22: (4, True),
    25: (2, False),
    26: (2, True),
}
# where |x| begins to overflow when rounded, the largest value, bits of the mantissa, exponent of the smallest normal
FLOAT8 = {
    torch.float8_e4m3fn: (464.0, 448.0, 3, -6),
    torch.float8_e4m3fnuz: (248.0, 240.0, 3, -7),
    torch.float8_e5m2: (61440.0, 57344.0, 2, -14),
    torch.float8_e5m2fnuz: (61440.0, 57344.0, 2, -15),
}


@dataclass(frozen=True)
class Minifloat:
    """A float without infinities and NaN: bits of the mantissa, the exponent of the smallest normal, the largest."""

    bits: int
    mantissa: int
    smallest: int
    largest: float


MINIFLOATS = {
    23: Minifloat(4, 1, 0, 6.0),  # float4e2m1
    27: Minifloat(6, 3, 0, 7.5),  # float6e2m3
    28: Minifloat(6, 2, -2, 28.0),  # float6e3m2
}


def bounds(element: int) -> tuple[int, int]:
    """The smallest and the largest integer of a type."""
    bits, signed = INTEGERS[element]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def kept_bits(x: torch.Tensor, element: int) -> torch.Tensor:
    """Integers cut to the lowest bits, as 4 and 2 bits have them, in the type of x."""
    bits, signed = INTEGERS[element]
    low = x & ((1 << bits) - 1)
    half = 1 << bits - 1
    return (low ^ half) - half if signed else low


@leaf
def round_to(x: torch.Tensor, element: int) -> torch.Tensor:
    """Floats rounded (halves to even) to the values of a type of 4 or 6 bits; beyond the largest: the largest. NaN,
    which these types lack, becomes -0."""
    kind = MINIFLOATS[element]
    found = rounded(x.clamp(-kind.largest, kind.largest), kind.mantissa, kind.smallest)
    return torch.where(torch.isnan(x), -0.0, found)


def rounded(x: torch.Tensor, mantissa: int, smallest: int) -> torch.Tensor:
    """Finite floats with so many bits of the mantissa, halves to even; below 2 ** smallest with fewer."""
    exponent = torch.frexp(x.detach()).exponent - 1
    quantum = torch.ldexp(torch.ones_like(x), exponent.clamp(min=smallest) - mantissa)
    return torch.round(x / quantum) * quantum


@leaf
def to_float8(x: torch.Tensor, dtype: torch.dtype, saturate: bool) -> torch.Tensor:
    """Floats as a float of 8 bits. What overflows becomes the largest value, or, without saturate, infinity (NaN where
    the type has none)."""
    overflow, largest, mantissa, smallest = FLOAT8[dtype]
    if x.dtype == torch.float64:  # torch goes through float32 and so rounds twice
        x = torch.where(torch.isfinite(x), rounded(x, mantissa, smallest), x)
    if saturate:
        return x.clamp(-largest, largest).to(dtype)
    beyond = x.abs() >= overflow if dtype != torch.float8_e4m3fn else x.abs() > overflow
    infinite = torch.inf if dtype == torch.float8_e5m2 else torch.nan
    return torch.where(beyond, torch.copysign(torch.full_like(x, infinite), x), x).to(dtype)


@leaf
def to_e8m0(x: torch.Tensor, round_mode: str, saturate: bool) -> torch.Tensor:
    """Floats as powers of two, float8_e8m0fnu. round_mode: up, down, or nearest with ties up."""
    mantissa, exponent = torch.frexp(x.float().abs())  # mantissa in [0.5, 1)
    up = {"up": mantissa > 0.5, "down": torch.zeros_like(mantissa, dtype=torch.bool), "nearest": mantissa >= 0.75}
    code = exponent - 1 + up[round_mode].to(exponent.dtype) + 127
    code = torch.where(x == 0, -1, torch.where(torch.isinf(x), 255, code))
    code = code.clamp(0, 254) if saturate else torch.where((code < 0) | (code > 254), 255, code)
    return torch.where(torch.isnan(x), 255, code).to(torch.uint8).view(torch.float8_e8m0fnu)


@leaf
def codes(x: torch.Tensor, element: int) -> torch.Tensor:
    """The bits of a type of less than 8 bits, as uint8."""
    if element in MINIFLOATS:
        table = values(element, x)
        return (
            ((x.unsqueeze(-1) == table) & (torch.signbit(x).unsqueeze(-1) == torch.signbit(table)))
            .to(torch.uint8)
            .argmax(-1)
            .to(torch.uint8)
        )
    return (x & ((1 << INTEGERS[element][0]) - 1)).to(torch.uint8)


@leaf
def from_codes(code: torch.Tensor, element: int) -> torch.Tensor:
    """The reverse of `codes`: in the type that holds these elements."""
    if element in MINIFLOATS:
        return values(element, torch.zeros((), device=code.device))[code.to(torch.int64)]
    signed = INTEGERS[element][1]
    return kept_bits(code.to(torch.int16), element).to(torch.int8 if signed else torch.uint8)


def values(element: int, like: torch.Tensor) -> torch.Tensor:
    """Every value of a float of less than 8 bits, in the order of its bits."""
    kind = MINIFLOATS[element]
    magnitude = torch.arange(1 << kind.bits - 1, device=like.device)
    exponent, fraction = magnitude >> kind.mantissa, magnitude & ((1 << kind.mantissa) - 1)
    whole = torch.where(exponent > 0, fraction + (1 << kind.mantissa), fraction).to(like.dtype)
    positive = torch.ldexp(whole, exponent.clamp(min=1) - 1 + kind.smallest - kind.mantissa)
    return torch.cat([positive, -positive])

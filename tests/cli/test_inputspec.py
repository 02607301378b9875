"""The grammar of --input: what it accepts, and what it says about what it does not."""

from __future__ import annotations

import pytest

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import NamedDim, example_sizes, parse, parse_all

GOOD = {
    "x=float32[b,3,224,224]": (("x",), "float32", (NamedDim("b"), 3, 224, 224), None),
    "ids=int64[b,s]": (("ids",), "int64", (NamedDim("b"), NamedDim("s")), None),
    "x=float32[b,3,h=64..512,w]": (("x",), "float32", (NamedDim("b"), 3, NamedDim("h", 64, 512), NamedDim("w")), None),
    "x=float16[h=64..]": (("x",), "float16", (NamedDim("h", 64, None),), None),
    "step=int64[]": (("step",), "int64", (), None),
    "ids=int64[b]:0..999": (("ids",), "int64", (NamedDim("b"),), (0, 999)),
    "d=int32[4]:-3..3": (("d",), "int32", (4,), (-3, 3)),
    "batch.image=bool[2,8]": (("batch", "image"), "bool", (2, 8), None),
    "xs.0=uint8[2]": (("xs", 0), "uint8", (2,), None),
    " x = float64 [ b , 3 ] ": (("x",), "float64", (NamedDim("b"), 3), None),
    "x=float32[0]": (("x",), "float32", (0,), None),
}

BAD = {
    "": "not of the form",
    "x": "not of the form",
    "x=float32": "not of the form",
    "x=float32[b,3": "not of the form",
    "x=float32(b,3)": "not of the form",
    "=float32[b]": "the name before '=' is missing",
    "1x=float32[b]": "'1x' is not a name",
    "x y=float32[b]": "'x y' is not a name",
    "x=float31[b]": "did you mean float32?",
    "x=complex64[b]": "unknown dtype 'complex64'",
    "x=[b]": "unknown dtype ''",
    "x=float32[b,,3]": "between the commas is empty",
    "x=float32[b,3,]": "between the commas is empty",
    "x=float32[b,-3]": "'-3' is no axis",
    "x=float32[b,2.5]": "'2.5' is no axis",
    "x=float32[b,2*s]": "'2*s' is no axis",
    "x=float32[h=512..64]": "holds no size of 2 or more",
    "x=float32[h=0..4]": "starts below 1",
    "x=float32[h=1..1]": "holds no size of 2 or more",
    "x=float32[h=64]": "'h=64' is no axis",
    "x=bool[b]:0..1": "a value range is for numbers",
    "x=float32[b]:0..1e999": "is not finite",
    "x=float32[b]:1..0.5": "is empty",
    "x=int64[b]:9..0": "is empty",
    "x=int64[b]0..9": "not understood",
    "x=int64[b][s]": "'[s]' after the dims is not understood",
}


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    spec = parse(text)
    assert (spec.path, spec.dtype, spec.dims, spec.bounds) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_bad(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    message = str(caught.value)
    assert BAD[text] in message
    assert repr(text) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_one_name_twice() -> None:
    with pytest.raises(UsageError, match="'x' and 'x' describe the same argument"):
        parse_all(["x=float32[b]", "x=float32[b]"])
    with pytest.raises(UsageError, match=r"'x' and 'x\.a' describe the same argument"):
        parse_all(["x=float32[b]", "x.a=float32[b]"])


def test_one_axis_with_two_ranges() -> None:
    parse_all(["x=float32[b=2..8]", "y=float32[b]", "z=float32[b=2..8]"])
    with pytest.raises(UsageError, match=r"axis 'b' has two ranges, 2\.\.8 and 2\.\.9"):
        parse_all(["x=float32[b=2..8]", "y=float32[b=2..9]"])


def test_example_sizes_are_distinct_and_in_range() -> None:
    sizes = example_sizes(parse_all(["x=float32[b,2,5,h=64..512,w=64..512]", "ids=int64[b,s]", "n=int64[k=3..3]"]))
    assert list(sizes) == ["b", "h", "w", "s", "k"]
    assert len(set(sizes.values())) == 5
    assert sizes["h"] == 64
    assert sizes["w"] == 128, "a network that halves its input often wants multiples"
    assert sizes["k"] == 3
    assert not {sizes["b"], sizes["s"]} & {2, 5}, "a fixed size is not taken for an axis"


def test_example_sizes_run_out() -> None:
    with pytest.raises(UsageError, match="leaves no size of its own"):
        example_sizes(parse_all(["x=float32[a=2..3,b=2..3,c=2..3]"]))
    wide = example_sizes(parse_all(["x=float32[" + ",".join(f"d{i}" for i in range(60)) + "]"]))
    assert len(set(wide.values())) == 60

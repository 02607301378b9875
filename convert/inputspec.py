"""The grammar of `--input`: NAME=DTYPE[DIMS], optionally followed by :LO..HI for the range of its values.

    ids=int64[b,s]              two named, dynamic axes
    x=float32[b,3,224,224]      one named axis, three fixed ones
    x=float32[b,3,h=64..512,w]  the example's height is drawn from 64 to 512; "h=64.." leaves the upper end open
    step=int64[]                a scalar
    ids=int64[b,s]:0..999       integers from 0 to 999 (both included)
    x=float32[b,3,8,8]:0..1     floats from 0 to 1, as a scaled image has; also -1.5..1e3
    batch.image=float32[b,3,8,8]  the entry "image" of the dict (or, with a number, of the tuple) argument `batch`

Names bind to the parameters of the module's `forward`. A named axis is dynamic; one name is one size everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from .errors import UsageError

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
GRAMMAR = 'NAME=DTYPE[DIMS], for example "x=float32[b,3,224,224]" or "ids=int64[b,s]"'

_NAME = r"[A-Za-z_]\w*"
_SPEC = re.compile(r"(?P<name>[^=\[\]]*)=(?P<dtype>[^\[\]=]*)\[(?P<dims>[^\[\]]*)\](?P<rest>.*)", re.DOTALL)
_PATH = re.compile(rf"{_NAME}(\.\w+)*")
_RANGE = re.compile(r":(-?\d+)\.\.(-?\d+)")
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_FLOAT_RANGE = re.compile(rf":({_NUMBER})\.\.({_NUMBER})")
_DIM = re.compile(rf"(?P<name>{_NAME})(=(?P<lo>\d+)\.\.(?P<hi>\d*))?")

# Example sizes of named axes: distinct primes, so that two axes are never taken for one and no size divides another.
_EXAMPLE_SIZES = (2, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


@dataclass(frozen=True)
class NamedDim:
    """A dynamic axis: its name and the sizes allowed, `hi` None for no upper end."""

    name: str
    lo: int = 2
    hi: int | None = None


@dataclass(frozen=True)
class InputSpec:
    """One `--input`. `path` is the forward parameter's name, then dict keys or tuple positions."""

    path: tuple[str | int, ...]
    dtype: str
    dims: tuple[int | NamedDim, ...]
    bounds: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))


def parse(text: str) -> InputSpec:
    """Read one spec; UsageError says which part does not fit the grammar."""

    def wrong(problem: str) -> UsageError:
        return UsageError(f"--input {text!r}: {problem}; the form is {GRAMMAR}")

    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise wrong("not of the form NAME=DTYPE[DIMS]")
    name, dtype, rest = match["name"].strip(), match["dtype"].strip(), match["rest"].strip()
    if not name:
        raise wrong("the name before '=' is missing")
    if not _PATH.fullmatch(name):
        raise wrong(f"{name!r} is not a name")
    if dtype not in DTYPES:
        close = get_close_matches(dtype, DTYPES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(DTYPES)}"
        raise wrong(f"unknown dtype {dtype!r} ({hint})")
    path = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    return InputSpec(path, dtype, _dims(match["dims"], wrong), _bounds(rest, dtype, wrong))


def _dims(text: str, wrong: Callable[[str], UsageError]) -> tuple[int | NamedDim, ...]:
    dims: list[int | NamedDim] = []
    for part in (p.strip() for p in text.split(",")) if text.strip() else ():
        if not part:
            raise wrong("an axis between the commas is empty")
        if part.isdigit():
            dims.append(int(part))
            continue
        match = _DIM.fullmatch(part)
        if match is None:
            raise wrong(f"{part!r} is no axis: write a size (224), a name (b) or a name with its range (h=64..512)")
        lo, hi = int(match["lo"] or 2), int(match["hi"]) if match["hi"] else None
        if lo < 1:
            raise wrong(f"the axis {part!r} starts below 1")
        if hi is not None and hi < max(lo, 2):
            raise wrong(f"the range of {part!r} holds no size of 2 or more")
        dims.append(NamedDim(match["name"], lo, hi))
    return tuple(dims)


def _bounds(text: str, dtype: str, wrong: Callable[[str], UsageError]) -> tuple[float, float] | None:
    if not text:
        return None
    whole = dtype in INTEGERS
    match = (_RANGE if whole else _FLOAT_RANGE).fullmatch(text)
    if match is None:
        raise wrong(f"{text!r} after the dims is not understood")
    if not whole and dtype not in FLOATS:
        raise wrong(f"a value range is for numbers, not {dtype}")
    lo, hi = (int(match[1]), int(match[2])) if whole else (float(match[1]), float(match[2]))
    if not math.isfinite(lo) or not math.isfinite(hi):
        raise wrong(f"the value range {text[1:]} is not finite")
    if lo > hi:
        raise wrong(f"the value range {text[1:]} is empty")
    return lo, hi


def parse_all(texts: Iterable[str | InputSpec]) -> tuple[InputSpec, ...]:
    """Read several specs; a name given twice, or an axis with two different ranges, is a UsageError."""
    specs = tuple(t if isinstance(t, InputSpec) else parse(t) for t in texts)
    for i, spec in enumerate(specs):
        for other in specs[:i]:
            shorter = min(len(spec.path), len(other.path))
            if spec.path[:shorter] == other.path[:shorter]:
                raise UsageError(f"--input: {other.name!r} and {spec.name!r} describe the same argument")
    named_dims(specs)
    return specs


def named_dims(specs: Sequence[InputSpec]) -> dict[str, NamedDim]:
    """Every named axis with its range, which one mention is enough to give."""
    result: dict[str, NamedDim] = {}
    default = (2, None)
    for dim in (d for spec in specs for d in spec.dims if isinstance(d, NamedDim)):
        old = result.setdefault(dim.name, dim)
        if (dim.lo, dim.hi) == default or old == dim:
            continue
        if (old.lo, old.hi) != default:
            raise UsageError(f"--input: axis {dim.name!r} has two ranges, {_span(old)} and {_span(dim)}; give it once")
        result[dim.name] = dim
    return result


def _span(dim: NamedDim) -> str:
    return f"{dim.lo}..{'' if dim.hi is None else dim.hi}"


def example_sizes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """A size for each named axis: at least 2 (torch.export treats 0 and 1 as constants), inside its range,
    distinct from the others and, where the range allows it, from every fixed size."""
    dims = named_dims(specs)
    fixed = {d for spec in specs for d in spec.dims if isinstance(d, int)}
    sizes: dict[str, int] = {}
    # The narrow ranges choose first, so that a free axis does not take the only size they have.
    for dim in sorted(dims.values(), key=lambda d: (d.hi is None, (d.hi or 0) - d.lo)):
        taken = set(sizes.values())
        candidates = [size for size in _candidates(dim) if size not in taken]
        if not candidates:
            raise UsageError(f"--input: the range {_span(dim)} of axis {dim.name!r} leaves no size of its own")
        sizes[dim.name] = next((size for size in candidates if size not in fixed), candidates[0])
    return {name: sizes[name] for name in dims}


def _candidates(dim: NamedDim) -> list[int]:
    """Sizes to try in order. With a range: multiples of its lower end first, as networks that halve an image
    several times accept few others; then every size."""
    lo, hi = max(dim.lo, 2), dim.hi
    if (dim.lo, dim.hi) == (2, None):
        return [*_EXAMPLE_SIZES, *range(48, 200)]
    top = lo + 64 if hi is None else min(hi, lo + 64)
    multiples = [lo * k for k in range(1, 65) if hi is None or lo * k <= hi]
    return multiples + [size for size in range(lo, top + 1) if size not in multiples]

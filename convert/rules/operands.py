"""What several families need to know about their operands: numbers, torch order, safe roots, random shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops
from keras.backend import standardize_dtype

from ..builder import Dynamic, Unknown
from ..ir import ByMode

Tensor = Any


def is_tensor(x: Any) -> bool:
    """Whether `x` is a tensor (of a backend or symbolic) and not a Python number."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def number(x: Any) -> Any:
    """A scalar or tensor operand. A size that is not known yet raises Dynamic: Keras would take it for an object."""
    if isinstance(x, (Unknown, ByMode)):
        raise Dynamic("an operand that is only known at call time")
    return x


def alike(x: Any, y: Any) -> tuple[Any, Any]:
    """Both as tensors: some ops of Keras make a float32 tensor of a Python number."""
    if not is_tensor(x):
        return ops.full_like(y, number(x)), y
    return x, y if is_tensor(y) else ops.full_like(x, number(y))


def is_float(k: Any, x: Any) -> bool:
    """Whether `x` is a floating tensor."""
    return str(k.dtype(x)).startswith(("float", "bfloat"))


# ------------------------------------------------------------------------------------------------------ arithmetic
# keras.ops compute complex128 in complex64; Python's operators keep it. Complex tensors occur at call time only.
def is_complex(*xs: Any) -> bool:
    """Whether a tensor among them is complex."""
    return any(is_tensor(x) and str(standardize_dtype(x.dtype)).startswith("complex") for x in xs)


def times(x: Any, y: Any) -> Any:
    """x * y, broadcast; without the op where y is the number one."""
    if not is_tensor(y) and y == 1:
        return x
    if is_complex(x, y) or not (is_tensor(x) or is_tensor(y)):  # numbers: in Python's float64
        return x * y
    return ops.multiply(x, y)


def minus(x: Any, y: Any) -> Tensor:
    """x - y, broadcast."""
    return x - y if is_complex(x, y) else ops.subtract(x, y)


def over(x: Any, y: Any) -> Tensor:
    """x / y, broadcast."""
    return x / y if is_complex(x, y) else ops.divide(x, y)


def joined(re: Tensor, im: Tensor) -> Tensor:
    """re + i im; keras.ops.view_as_complex falls back to complex64."""
    dtype = "complex64" if standardize_dtype(re.dtype) == "float32" else "complex128"
    return ops.cast(re, dtype) + ops.cast(im, dtype) * 1j


def by_parts(function: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """A function that moves or chooses elements, of the real and of the imaginary parts."""
    if not is_complex(*xs):
        return function(*xs)
    return joined(function(*(ops.real(x) for x in xs)), function(*(_imag(x) for x in xs)))


def _imag(x: Any) -> Tensor:
    return ops.imag(x) if is_complex(x) else ops.zeros_like(x)


def plus(x: Tensor, y: Any) -> Tensor:
    """x + y, broadcast. Keras' TensorFlow `add` takes a second operand with one long axis for a bias of the last axis
    or of axis 1, wherever that axis stands, and overlooks axes of size zero: (n, 1) + (1, n) gives (1, n), and
    (b, n) + (b, 1) goes wrong where b = n. Where either order is in doubt it is x - (-y), which has the same bits."""
    if is_complex(x, y):
        return x + y
    if not is_tensor(x) or not is_tensor(y) or _not_misread(tuple(x.shape), tuple(y.shape)):
        return ops.add(x, y)
    return ops.add(y, x) if _not_misread(tuple(y.shape), tuple(x.shape)) else ops.subtract(x, ops.negative(y))


def _not_misread(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> bool:
    """Whether `add` of shapes a and b is right for all values of the unknown sizes (None)."""
    several = None not in b and sum(d != 1 for d in b) != 1
    last = 0 < len(b) <= len(a) and a[-1] == b[-1] and (len(b) == 1 or b[-1] not in (None, 1))
    return 0 not in (*a, *b) and (a == b or several or last)


def torch_order(k: Any, x: Any) -> Any:
    """An operand of a MAPPED or ELEMENTWISE rule, transposed to torch axis order (for flattened indices)."""
    if not k.perm or tuple(k.perm) == tuple(range(len(k.perm))):
        return x
    return ops.transpose(x, [k.perm.index(a) for a in range(len(k.perm))])


def rule_order(k: Any, x: Any) -> Any:
    """The reverse of `torch_order`: a tensor in torch axis order as the rule's operands lie."""
    if not k.perm or tuple(k.perm) == tuple(range(len(k.perm))):
        return x
    return ops.transpose(x, tuple(k.perm))


def torch_sizes(k: Any, x: Any) -> list[Any]:
    """The sizes of an operand in torch axis order."""
    shape = k.shape(x)
    return [shape[k.perm.index(a)] if k.perm else shape[a] for a in range(len(shape))]


def product(sizes: Sequence[Any]) -> Any:
    """The product of sizes; an unknown one raises Dynamic."""
    total: Any = 1
    for s in sizes:
        total = total * s
    return total


def root(x: Any) -> Any:
    """sqrt(x) whose gradient at zero is zero, as torch defines it for norm and std; NaN stays NaN."""
    zero = ops.equal(x, 0)
    return ops.where(zero, ops.zeros_like(x), ops.sqrt(ops.where(zero, ops.ones_like(x), x)))

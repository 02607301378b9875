"""What a rule meets, in its two regimes: recorded (`Operand`, a torch.fx proxy) and computed (torch.Tensor).

x: Operand | torch.Tensor      torch functions, methods and operators work on both
sizes: Sizes                   a small tensor whose elements are known as Python numbers or as sizes of an input; a rule
                               never meets one, unless it takes it through `ints`
ints(x)                        axes, shapes, pads ...: a tuple, or, where it is only known at run time, a proxy of one
constant_of, shape_of, rank_of, dtype_of    what is known of an operand before it runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import fx

__all__ = [
    "Info",
    "Operand",
    "Recorder",
    "Sizes",
    "constant_of",
    "dtype_of",
    "floats",
    "info_of",
    "ints",
    "leaf",
    "number",
    "rank_of",
    "recorder_of",
    "shape_of",
    "sizes_of",
    "tensor_of",
    "torch_dtype",
]

Dim = int | str | None
F = TypeVar("F", bound=Callable[..., Any])

# onnx.TensorProto.DataType -> torch. Types that torch lacks (int4, float4) are held as the next wider one.
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
    21: torch.uint8,  # uint4
    22: torch.int8,  # int4
    23: torch.float32,  # float4e2m1
    24: torch.float8_e8m0fnu,
    25: torch.uint8,  # uint2
    26: torch.int8,  # int2
    27: torch.float32,  # float6
    28: torch.float32,
}


def torch_dtype(element: int) -> torch.dtype:
    """The torch dtype that holds an onnx.TensorProto.DataType. KeyError: strings and unknown ones."""
    return DTYPES[element]


@dataclass(frozen=True)
class Info:
    """What is known of an operand while lowering.

    element: onnx.TensorProto.DataType, None if unknown (or no tensor). shape: None if the rank is unknown; a dim is an
    int, a name or None. constant: its value, if it is one that does not change (never a trainable parameter). sizes:
    what `Sizes` it was made of.
    """

    element: int | None = None
    shape: tuple[Dim, ...] | None = None
    constant: torch.Tensor | None = None
    sizes: Sizes | None = None


class Operand(fx.Proxy):
    """A value of the program that is recorded. All of torch works on it; `info_of` says what is known of it."""


class Recorder(fx.Tracer):
    """Records what rules do into a torch.fx graph.

    hold: how a tensor that a rule makes out of nothing becomes a constant of the module.
    """

    def __init__(self, graph: fx.Graph, hold: Callable[[torch.Tensor], Operand]) -> None:
        super().__init__()
        self.graph = graph
        self.root = torch.nn.Module()
        self.hold = hold

    def proxy(self, node: fx.Node) -> Operand:
        return Operand(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Sizes):
            a = a.value if a.array.ndim == 0 else a.items
        elif isinstance(a, torch.Tensor):
            a = self.hold(a)
        elif isinstance(a, np.generic):
            a = a.item()
        return super().create_arg(a)


@dataclass(frozen=True, eq=False)
class Sizes:
    """A small tensor whose elements are known before it runs, as Python numbers or proxies of one.

    array: of dtype object, in the tensor's shape. element: its onnx.TensorProto.DataType.
    """

    array: np.ndarray
    element: int = 7

    @staticmethod
    def of(items: Iterable[Any], element: int = 7) -> Sizes:
        """The 1-D one of these elements."""
        items = tuple(items)
        array = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):  # numpy would ask a proxy for its length
            array[i] = item
        return Sizes(array, element)

    @staticmethod
    def scalar(item: Any, element: int = 7) -> Sizes:
        return Sizes(Sizes.of((item,)).array.reshape(()), element)

    @property
    def items(self) -> tuple[Any, ...]:
        """The elements in order."""
        return tuple(self.array.reshape(-1))

    @property
    def value(self) -> Any:
        """As Python has it: one number, or lists in lists."""
        return self.array.tolist()

    @property
    def known(self) -> bool:
        """Whether all elements are plain numbers."""
        return all(isinstance(i, (int, float)) for i in self.items)

    @property
    def info(self) -> Info:
        constant = torch.tensor(self.value, dtype=DTYPES[self.element]) if self.known else None
        return Info(self.element, self.array.shape, constant, self)


def leaf(function: F) -> F:
    """A function of run time: called on operands it is recorded as one call, called on tensors it computes.

    It must be importable by its module and name, for the generated code refers to it so.
    """

    @wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = recorder_of((args, kwargs))
        if recorder is None:
            return function(*args, **kwargs)
        return recorder.create_proxy("call_function", recorded, args, kwargs)

    return recorded  # type: ignore[return-value]


def recorder_of(values: Any) -> Recorder | None:
    """The recorder of the first operand among nested values; None where all are tensors and numbers."""
    if isinstance(values, fx.Proxy):
        return values.tracer  # type: ignore[return-value]
    if isinstance(values, Sizes):
        values = values.items
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, torch.Tensor, np.ndarray)):
        return next((found for v in values if (found := recorder_of(v)) is not None), None)
    return None


# ----------------------------------------------------------------------------------------------------- what is known
def info_of(x: Any) -> Info:
    """What is known of an operand; of a tensor, everything but the element type."""
    if isinstance(x, torch.Tensor):
        return Info(None, tuple(x.shape), x)
    if isinstance(x, Sizes):
        return x.info
    if isinstance(x, fx.Proxy):
        found: Info = x.node.meta.get("onnx", Info())
        dims = x.node.meta.get("dims") if found.shape is None else None
        return found if dims is None else replace(found, shape=tuple(d if isinstance(d, int) else None for d in dims))
    return Info()


def constant_of(x: Any) -> torch.Tensor | None:
    """The value of an operand that never changes, else None."""
    return info_of(x).constant


def shape_of(x: Any) -> tuple[Dim, ...] | None:
    """The dims as far as known; None where the rank is unknown."""
    return info_of(x).shape


def rank_of(x: Any) -> int | None:
    shape = shape_of(x)
    return None if shape is None else len(shape)


def dtype_of(x: Any) -> torch.dtype | None:
    """The torch dtype, None where unknown."""
    if isinstance(x, torch.Tensor):
        return x.dtype
    info = info_of(x)
    if info.constant is not None:
        return info.constant.dtype
    return None if info.element is None else DTYPES.get(info.element)


def sizes_of(x: Any) -> Sizes | None:
    """The integers an operand was made of, if they are known by now as numbers or sizes."""
    return info_of(x).sizes


# ----------------------------------------------------------------------------------------- operands as Python numbers
def ints(x: Any) -> Any:
    """The integers of a 1-D (or 0-d) operand, as a tuple; None stays None. Known at run time only: a proxy of one."""
    if x is None:
        return None
    if isinstance(x, (tuple, list)):
        return tuple(x)
    sizes = sizes_of(x)
    if sizes is not None:
        return sizes.items
    value = constant_of(x)
    return to_ints(x) if value is None else tuple(int(i) for i in value.reshape(-1).tolist())


def floats(x: Any) -> Any:
    """The numbers of a 1-D (or 0-d) operand as a tuple of floats, like `ints`."""
    if x is None:
        return None
    sizes = sizes_of(x)
    if sizes is not None:
        return sizes.items
    value = constant_of(x)
    return to_floats(x) if value is None else tuple(float(i) for i in value.reshape(-1).double().tolist())


def number(x: Any) -> Any:
    """The one element of an operand as a Python number (or a proxy of it); None stays None."""
    if x is None:
        return None
    sizes = sizes_of(x)
    if sizes is not None:
        return sizes.items[0]
    value = constant_of(x)
    return to_number(x) if value is None else value.reshape(-1)[0].item()


@leaf
def to_ints(x: torch.Tensor) -> tuple[int, ...]:
    """The elements as Python integers, in order."""
    return tuple(x.reshape(-1).tolist())


@leaf
def to_floats(x: torch.Tensor) -> tuple[float, ...]:
    """The elements as Python floats, in order."""
    return tuple(x.reshape(-1).double().tolist())


@leaf
def to_number(x: torch.Tensor) -> Any:
    """The one element as a Python number."""
    return x.reshape(-1)[0].item()


WIDER = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}
WIDER |= dict.fromkeys(("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"), "float32")


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A numpy array as a tensor of its own memory; the types numpy lacks come through ml_dtypes."""
    array = np.asarray(array)
    name = array.dtype.name
    if name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"):
        raw = np.ascontiguousarray(array).view(np.uint16 if name == "bfloat16" else np.uint8)
        return torch.from_numpy(raw.copy()).view(getattr(torch, name)).reshape(array.shape)
    wider = WIDER.get(name)
    return torch.from_numpy(np.array(array if wider is None else array.astype(wider), order="C")).reshape(array.shape)

"""Dispatch modes around the original: every random draw recorded or replayed, and a program run in true float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from isomorph.parity.runners.base import Recorded
from isomorph.parity.tolerance import Array

__all__ = [
    "Float64Mode",
    "IndexBounds",
    "RandomReplayError",
    "RandomTape",
    "WithoutDropout",
    "eager_control_flow",
    "torch_dtype_limits_of",
]

LOW = (torch.float32, torch.float16, torch.bfloat16)
_RAISED = {"complex64": torch.complex128, "complex32": torch.complex128}


class RandomReplayError(RuntimeError):
    """The program draws other numbers, in another order or shape, than when it was recorded."""


class RandomTape(TorchDispatchMode):
    """Records every random draw at the ATen level, in program order; or replays recorded ones in that order.

    On CPU dropout appears as `aten.bernoulli_.float` on a fresh tensor. An op counts as a draw if ATen tags it
    nondeterministic_seeded and it does not merely carry a dropout rate of zero.
    """

    supports_higher_order_operators = True

    def __init__(self, replay: Sequence[Recorded] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[Recorded] = []
        self._replay = replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags or "attention" in str(func):
            return result  # attention draws only through dropout, which on CPU is decomposed into bernoulli_
        drawn = self._drawn(func, args, result)
        if drawn is None:
            return result
        if self._replay is None:
            self.draws.append(Recorded(str(func), _numpy(drawn)))
            return result
        return self._put(func, args, drawn, result, self._replay)

    def _drawn(self, func: Any, args: Any, result: Any) -> torch.Tensor | None:
        """The tensor that holds the draw."""
        name = str(func)
        if "native_dropout" in name:
            drawn = result[1] if args[2] is not False else None
        elif "rrelu" in name:
            drawn = args[1] if len(args) > 4 and args[4] else None
        else:
            drawn = result[0] if isinstance(result, tuple | list) else result
        return drawn if isinstance(drawn, torch.Tensor) else None

    @staticmethod
    def _kind(op: str) -> str:
        """Dropout is one kernel on CUDA, a drawn mask on the CPU, a site of a converted model: the same draw."""
        return "aten.bernoulli_.float" if op in ("aten.native_dropout.default", "aten.dropout.default") else op

    def _put(self, func: Any, args: Any, drawn: torch.Tensor, result: Any, replay: Sequence[Recorded]) -> Any:
        index = len(self.draws)
        if index >= len(replay):
            raise RandomReplayError(f"draw {index} ({func}) was not recorded: {len(replay)} draws were")
        draw = replay[index]
        if self._kind(draw.op) != self._kind(str(func)) or draw.values.shape != tuple(drawn.shape):
            raise RandomReplayError(
                f"draw {index} is {func} {list(drawn.shape)}; recorded was {draw.op} {list(draw.values.shape)}"
            )
        self.draws.append(draw)
        drawn.copy_(torch.from_numpy(np.array(draw.values)))
        name = str(func)
        if "native_dropout" in name:
            keep = 1.0 - float(args[1])
            result[0].copy_(args[0] * drawn / keep if keep else torch.zeros_like(args[0]))
        elif "rrelu" in name:
            result = result if isinstance(result, tuple | list) else (result,)
            result[0].copy_(torch.where(args[0] <= 0, args[0] * drawn, args[0]))
            return result if len(result) > 1 else result[0]
        return result


class Float64Mode(TorchDispatchMode):
    """Runs a float32 program as the same program in float64.

    Explicit low-precision dtype arguments (`.float()`, `sum(dtype=...)`, factories) become float64; factories that rely
    on the default dtype are run again with float64; integer arithmetic whose result is a default float is done in
    float64. A float32 constant keeps its rounded value: the constant, not its decimal text, is the program.
    """

    supports_higher_order_operators = True

    def __init__(self, own: torch.dtype = torch.float32) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)
        # `x[i] = 0.2` makes a number into a tensor of x's dtype before it comes here; the program's is the narrow one
        if str(func) == "aten.lift_fresh.default":
            args = (self._rounded(args[0]),)
        elif str(func) == "aten.fill_.Tensor":
            args = (args[0], self._rounded(args[1]))
        if kwargs.get("dtype") in LOW:
            kwargs["dtype"] = torch.float64
        elif kwargs.get("dtype") is not None and str(kwargs["dtype"]).rpartition(".")[2] in _RAISED:
            kwargs["dtype"] = torch.complex128
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in LOW else a for a in args)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.dtype in LOW:
            return self._raise(func, args, kwargs, result)
        if isinstance(result, tuple | list):
            return type(result)(
                item.double() if isinstance(item, torch.Tensor) and item.dtype in LOW else item for item in result
            )
        return result

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self._own).double() if value.dtype == torch.float64 and value.dim() == 0 else value

    def _raise(self, func: Any, args: Any, kwargs: dict[str, Any], result: torch.Tensor) -> torch.Tensor:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        takes_dtype = any(argument.name == "dtype" for argument in func._schema.arguments)
        if takes_dtype and kwargs.get("dtype") is None and not any(t.is_floating_point() for t in tensors):
            with contextlib.suppress(RuntimeError):
                return func(*args, **{**kwargs, "dtype": torch.float64})  # type: ignore[no-any-return]
        if tensors and torch.Tag.pointwise in func.tags and not any(t.is_floating_point() for t in tensors):
            raised = [a.double() if isinstance(a, torch.Tensor) and a.dtype != torch.bool else a for a in args]
            again = func(*raised, **kwargs)
            if again.dtype == torch.float64:
                return again  # type: ignore[no-any-return]
        return result.double()


@contextlib.contextmanager
def torch_dtype_limits_of(dtype: torch.dtype) -> Iterator[None]:
    """While open, `torch.finfo(torch.float64)` answers for `dtype`: an epsilon or a smallest value that a program takes
    from its own dtype is a constant of that program, also when it is run in float64."""
    original = torch.finfo

    def finfo(type: torch.dtype | None = None) -> Any:
        wanted = torch.get_default_dtype() if type is None else type
        return original(dtype if wanted == torch.float64 else wanted)

    torch.finfo = finfo  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        torch.finfo = original  # type: ignore[misc]


class IndexBounds(TorchDispatchMode):
    """Watches which integer inputs index an embedding table, and how many rows it has.

    inputs: name -> tensor. After the run `bounds` is name -> the smallest number of rows seen. Views share an input's
    storage; copies and casts of it are followed.
    """

    supports_higher_order_operators = True
    _COPIES = ("aten._to_copy", "aten.clone", "aten.contiguous", "aten.copy")

    def __init__(self, inputs: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bounds: dict[str, int] = {}
        self._names = {
            t.untyped_storage().data_ptr(): n for n, t in inputs.items() if t.numel() and not t.is_floating_point()
        }
        self._alive: list[torch.Tensor] = []  # a freed storage's address may be used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if name.startswith("aten.embedding.") and (source := self._name(args[1])) is not None:
            self.bounds[source] = min(self.bounds.get(source, 2**62), int(args[0].shape[0]))
        elif name.startswith(self._COPIES) and (source := self._name(args[0])) is not None:
            self._alive.append(result)
            self._names[result.untyped_storage().data_ptr()] = source
        return result

    def _name(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor) or value.is_floating_point():
            return None
        return self._names.get(value.untyped_storage().data_ptr())


@contextlib.contextmanager
def eager_control_flow() -> Iterator[None]:
    """While open, `torch.cond` calls the branch it chooses, instead of compiling both: the same function, and one that
    can be differentiated under a dispatch mode."""
    original = torch.cond

    def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
        return true_fn(*operands) if bool(pred) else false_fn(*operands)

    torch.cond = cond
    try:
        yield
    finally:
        torch.cond = original


def _numpy(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy())


class ContiguousBackward(TorchDispatchMode):
    """Hands contiguous operands to every backward kernel.

    The mathematics is the same; where the result is not, the kernel is wrong for one layout. Known: torch 2.13 on the
    CPU,
    batch_norm in eval mode, a batch of one and a channels-last gradient.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "backward" in func.name():
            args = tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
        return func(*args, **(kwargs or {}))


class WithoutDropout(TorchFunctionMode):
    """Layers that drop or add noise act as in eval mode; everything else, BatchNorm above all, stays in train mode.

    Recognised are torch's own functions: the dropout family, rrelu, and the rates inside attention and recurrent
    layers.
    """

    _RATES: Mapping[str, tuple[str, int]] = {  # function -> (keyword, position) of the rate
        **dict.fromkeys(
            (
                "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "alpha_dropout_",
                "feature_dropout", "feature_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_",
                "native_dropout",
            ),
            ("p", 1),
        ),
        "scaled_dot_product_attention": ("dropout_p", 4), "multi_head_attention_forward": ("dropout_p", 10),
        "lstm": ("dropout", 5), "gru": ("dropout", 5), "rnn_tanh": ("dropout", 5), "rnn_relu": ("dropout", 5),
    }  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in self._RATES:
            keyword, position = self._RATES[name]
            packed = name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and len(args) == 9 and isinstance(args[3], list)
            position += packed  # _VF.lstm(data, batch_sizes, hx, params, ...)
            if len(args) > position:
                args = (*args[:position], 0.0, *args[position + 1 :])
            elif keyword in kwargs or keyword == "p":
                kwargs[keyword] = 0.0
        elif name in ("rrelu", "rrelu_"):
            place = 3 if len(args) > 3 else None
            args = args if place is None else (*args[:3], False, *args[4:])
            kwargs = kwargs if place is not None else {**kwargs, "training": False}
        return func(*args, **kwargs)

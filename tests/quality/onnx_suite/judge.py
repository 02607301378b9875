"""One case judged: loaded, run, compared in number, shape, dtype and value, and whether autograd passes through it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

from isomorph.convert.errors import one_line
from tests.quality.onnx_suite.cases import Case

__all__ = ["Load", "Outcome", "default_load", "judge"]

Load = Callable[[Any], Callable[..., Any]]  # a ModelProto to what takes torch tensors in the inputs' order

SECONDS = 30
# numpy's name of an element type that torch has and numpy itself lacks -> the integers of the same size
BITS = {"bfloat16": np.uint16}
BITS |= dict.fromkeys(
    ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), np.dtype(np.uint8).type
)
# what torch cannot hold travels as the next wider type
WIDER = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8", "float4_e2m1fn": "float32"}
BFLOAT16_RTOL = 2**-6  # two units in the last place, as in the suite's own runner


@dataclass(frozen=True)
class Outcome:
    """`result`: pass, load, run, number, shape, dtype, value or time. `gradient`: None unless the case passed and has
    floating inputs and outputs; else whether autograd reaches one of the inputs."""

    result: str
    text: str = ""
    gradient: bool | None = None
    error: BaseException | None = None

    @property
    def passed(self) -> bool:
        return self.result == "pass"


def default_load(model: Any) -> Callable[..., Any]:
    from isomorph.convert.onnx_in.api import to_torch

    module: Callable[..., Any] = to_torch(model).module
    return module


def judge(case: Case, load: Load = default_load) -> Outcome:
    """The outcome of a case; whatever is raised becomes one."""
    stage = "load"
    torch.manual_seed(0)  # what is drawn at random fails always or never
    try:
        with _time_limit(SECONDS):
            run = load(case.model)
            if isinstance(run, torch.nn.Module):
                run.eval()  # a node that trains says so by its own attribute
            stage = "run"
            for given, wanted in case.data:
                with torch.no_grad():
                    found = _outputs(run(*map(as_torch, given)))
                if len(found) != len(wanted):
                    return Outcome("number", f"{len(found)} outputs, not {len(wanted)}")
                for position, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
                    if bad := _differ(as_numpy(ours), theirs, case):
                        return Outcome(bad[0], f"output {position}: {bad[1]}")
            stage = "gradient"
            try:
                return Outcome("pass", gradient=_gradient(run, *case.data[0]))
            except Exception as error:  # its values are right; that it cannot be differentiated is its own fact
                return Outcome("pass", f"gradient: {one_line(error)}", False, error)
    except TimeoutError as error:
        return Outcome("time", f"{stage}: {error}", error=error)
    except Exception as error:  # what was asked: does it work
        return Outcome(stage, one_line(error), error=error)


def as_torch(value: Any) -> Any:
    """A case's value as the module takes it: a tensor, an object array of strings, a list of those, None."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [as_torch(each) for each in value]
    array = np.asarray(value)
    if array.dtype.kind in "OSUT":
        return array.astype(object)
    name = array.dtype.name
    if name in BITS:
        return torch.from_numpy(np.array(array).view(BITS[name])).view(getattr(torch, name)).reshape(array.shape)
    return torch.from_numpy(np.array(array.astype(WIDER.get(name, name)), order="C")).reshape(array.shape)


def as_numpy(value: Any) -> Any:
    """The reverse of `as_torch`."""
    if isinstance(value, (list, tuple)):
        return [as_numpy(each) for each in value]
    if not isinstance(value, torch.Tensor):
        return value
    tensor, name = value.detach().cpu(), str(value.dtype).removeprefix("torch.")
    if name not in BITS:
        return tensor.resolve_conj().resolve_neg().numpy()
    bits = tensor.contiguous().view(getattr(torch, np.dtype(BITS[name]).name)).numpy()
    return bits.view(getattr(ml_dtypes, name))


def _outputs(result: Any) -> list[Any]:
    """Several outputs are a tuple; a list is one output, a sequence."""
    return list(result) if isinstance(result, tuple) else [result]


def _differ(ours: Any, theirs: Any, case: Case) -> tuple[str, str] | None:
    """The kind of difference and what it is; None where there is none."""
    if theirs is None or ours is None:
        return None if theirs is ours else ("value", f"{type(ours).__name__}, not {type(theirs).__name__}")
    if isinstance(theirs, (list, tuple)):
        if not isinstance(ours, list) or len(ours) != len(theirs):
            return "shape", f"{len(ours) if isinstance(ours, list) else 'no'} elements of a sequence, not {len(theirs)}"
        return next((bad for pair in zip(ours, theirs, strict=True) if (bad := _differ(*pair, case))), None)
    if not isinstance(ours, np.ndarray):
        return "dtype", f"{type(ours).__name__}, no tensor"
    theirs = np.asarray(theirs)
    if ours.shape != theirs.shape:
        return "shape", f"{list(ours.shape)}, not {list(theirs.shape)}"
    if theirs.dtype.kind in "OSUT":
        same = ours.dtype.kind in "OSUT" and [_text(t) for t in ours.flat] == [_text(t) for t in theirs.flat]
        return None if same else ("value", "other strings")
    if ours.dtype.name != WIDER.get(theirs.dtype.name, theirs.dtype.name):
        return "dtype", f"{ours.dtype.name}, not {theirs.dtype.name}"
    rtol = max(case.rtol, BFLOAT16_RTOL) if ours.dtype.name == "bfloat16" else case.rtol
    if theirs.dtype.kind not in "biufc" or theirs.dtype.name in WIDER or theirs.dtype.name in BITS:
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    try:
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=case.atol, verbose=False)
    except AssertionError as error:
        return "value", " ".join(str(error).split()).removeprefix("Not equal to tolerance ")[:200]
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _gradient(run: Callable[..., Any], given: list[Any], wanted: list[Any]) -> bool | None:
    """Whether the derivative of the sum of the floating outputs reaches a floating input; None without either."""
    inputs = [as_torch(value) for value in given]
    # a sequence's tensors count as inputs of their own
    leaves = [t for value in inputs for t in (value if isinstance(value, list) else [value]) if _floats(t)]
    if not leaves or not any(_floats(as_torch(t)) for v in wanted for t in (v if isinstance(v, list) else [v])):
        return None
    for leaf in leaves:
        leaf.requires_grad_(True)
    found = [t for value in _outputs(run(*inputs)) for t in (value if isinstance(value, list) else [value])]
    attached = [t for t in found if _floats(t) and t.requires_grad]
    if not attached:
        return False
    total = sum(t.to(torch.float64).sum() for t in attached)
    return any(g is not None for g in torch.autograd.grad(total, leaves, allow_unused=True))


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point and value.dtype.itemsize > 1


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def expired(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""The original: a torch module, run as it is or as the same program in float64. Works on a private copy."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from isomorph.convert.errors import UsageError
from isomorph.parity.drawing.strategies import round_to
from isomorph.parity.modes.order_mode import FirstOfEqual
from isomorph.parity.modes.random_mode import (
    ContiguousBackward,
    Float64Mode,
    IndexBounds,
    RandomTape,
    WithoutDropout,
    eager_control_flow,
    torch_dtype_limits_of,
)
from isomorph.parity.modes.rounding_mode import RoundingMode
from isomorph.parity.runners.base import (
    About,
    ModuleTrace,
    ParameterInfo,
    Perturbation,
    PortInfo,
    Request,
    Response,
)
from isomorph.parity.runners.device import require_torch, torch_facts, torch_settings
from isomorph.parity.tolerance import Array

__all__ = ["Call", "TorchRunner", "example_leaves", "flatten_output"]


class Call:
    """How flat inputs become the arguments of `forward`: by the structure of an example (args, kwargs).

    Tensors (and numpy arrays) of the example are the inputs, in pytree order; everything else stays as it is there.
    """

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> None:
        self._leaves, self._spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
        self.slots = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor | np.ndarray)]
        self.examples = tuple(torch.as_tensor(self._leaves[i]) for i in self.slots)

    def __call__(self, module: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Any:
        leaves = list(self._leaves)
        for slot, tensor in zip(self.slots, inputs, strict=True):
            leaves[slot] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return module(*args, **kwargs)

    def names(self, module: torch.nn.Module) -> tuple[str, ...]:
        """A name for each input: the parameter of `forward` that takes it, with the path inside it if it nests."""
        names: dict[int, str] = {}
        for name, value in self.bound(module).items():
            for path, leaf in pytree.tree_leaves_with_path(value):
                names[leaf] = name + "".join(str(key) for key in path)
        return tuple(names.get(slot, f"input_{index}") for index, slot in enumerate(self.slots))

    def bound(self, module: torch.nn.Module) -> dict[str, Any]:
        """Parameter of `forward` -> what it gets, with the leaves numbered; `slots` are the numbers of the inputs.
        TypeError: `forward` does not take the example."""
        filled = pytree.tree_unflatten(list(range(len(self._leaves))), self._spec)
        return dict(inspect.signature(module.forward).bind(*filled[0], **filled[1]).arguments)


def example_leaves(inputs: Any) -> Call:
    """A `Call` from what a user may give: one tensor, a tuple of arguments, a dict of keyword arguments, or (args,
    kwargs)."""
    if isinstance(inputs, torch.Tensor | np.ndarray):
        return Call((inputs,))
    if isinstance(inputs, Mapping):
        return Call((), inputs)
    if (
        isinstance(inputs, tuple)
        and len(inputs) == 2
        and isinstance(inputs[0], tuple | list)
        and isinstance(inputs[1], dict)
    ):
        return Call(inputs[0], inputs[1])
    if isinstance(inputs, tuple | list):
        return Call(inputs)
    raise UsageError(f"inputs must be a tensor, a tuple, a dict or (args, kwargs), not {type(inputs).__name__}")


class TorchRunner:
    """A torch module behind the `Runner` protocol.

    module: is copied. call: how flat inputs become arguments. names: the inputs' names, in flat order. dtype: "own" or
    "float64". device: "cpu", "cuda" or "cuda:N"; the copy is moved there. about: what else is known of the model
    (format, inputs, sizes, modes, notes). UsageError: torch does not see the device.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        call: Call,
        names: Sequence[str],
        dtype: str = "own",
        device: str = "cpu",
        about: About | None = None,
    ) -> None:
        require_torch(device)
        self.dtype, self.device = dtype, device
        self.own = own_dtype(module)
        self._about = about
        self._module = copy_module(module)
        _map_tensors(self._module.to(device), lambda tensor: tensor.to(device))
        self._recurrent = any(isinstance(child, torch.nn.RNNBase) for child in module.modules())
        self._call, self._names = call, tuple(names)
        self._input_dtypes = tuple(tensor.dtype for tensor in call.examples)
        if dtype == "float64":
            _to_double(self._module)
        self._tensors = {**dict(_named(self._module, "parameters")), **dict(_named(self._module, "buffers"))}
        self._modes = {child: child.training for child in self._module.modules()}
        self._versions: dict[str, int] = {}
        self._saved = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}

    def to_float64(self) -> TorchRunner:
        """See `Runner`."""
        self._set_mode(self._modes[self._module])  # the twin takes over the modes that the module came in
        twin = TorchRunner(self._module, self._call, self._names, "float64", self.device, self._about)
        twin.own = self.own
        return twin

    def about(self) -> About:
        """See `Runner`; inputs of which nothing else is known have the shapes of the example."""
        ports = tuple(
            PortInfo(name, dtype_name(example.dtype), tuple(example.shape))
            for name, example in zip(self._names, self._call.examples, strict=True)
        )
        return dataclasses.replace(
            self._about or About("torch", ports),
            replays=True,
            precision="float64" if self.dtype == "float64" else self.own,
            device=self.device,
            environment=torch_facts(self.device),
        )

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """See `Runner`."""
        from isomorph.parity.runners.torch_trace import trace_torch

        return tuple(trace_torch(self, request))

    def close(self) -> None:
        """See `Runner`; nothing is held."""

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return self._infos("parameters")

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return self._infos("buffers")

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        return {name: to_numpy(tensor) for name, tensor in self._saved.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`."""
        owners = {name: id(tensor) for name, tensor in self._tensors.items()}
        changed = {owners[name]: array for name, array in state.items()}
        for name, array in ((n, changed[i]) for n, i in owners.items() if i in changed):  # tied names too
            self._saved[name] = torch.from_numpy(np.array(array)).to(self._saved[name])
        self._restore()

    def index_bounds(self) -> dict[str, int]:
        """Input name -> rows of the smallest embedding table it indexes, seen on the example."""
        tensors = [tensor.detach().clone().to(self.device) for tensor in self._call.examples]
        watch = IndexBounds(dict(zip(self._names, tensors, strict=True)))
        self._set_mode(False)
        with torch.no_grad(), watch, _settings(self):
            self._call(self._module, [self._cast(t) for t in tensors])
        self._restore()
        return watch.bounds

    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises whatever the module raises."""
        self._set_mode(request.mode == "train")
        tape, moved = RandomTape(request.draws), request.perturbation
        rounding: Any = contextlib.nullcontext()
        settled: Any = FirstOfEqual() if request.contiguous else contextlib.nullcontext()
        if moved is not None and moved.inside:
            rounding = RoundingMode(moved.delta, moved.seed)
        if request.flush_denormals:
            torch.set_flush_denormal(True)
        try:
            gpus = [torch.device(self.device)] if self.device != "cpu" else []
            with torch.random.fork_rng(devices=gpus), torch.set_grad_enabled(request.backward), _settings(self):
                torch.manual_seed(request.seed)
                leaves = self._inputs(request)
                with settled, rounding, tape, contextlib.nullcontext() if request.dropout else WithoutDropout():
                    # a clone, so that a module that works in place does not write into a leaf
                    result = self._call(self._module, [leaf.clone() if leaf.requires_grad else leaf for leaf in leaves])
                if request.draws is not None and len(tape.draws) != len(request.draws):
                    raise UsageError(f"the original drew {len(request.draws)} times, then {len(tape.draws)} times")
                structure, outputs = flatten_output(result)
                after = {name: to_numpy(t) for name, t in _named(self._module, "buffers")}
                with rounding, ContiguousBackward() if request.contiguous else contextlib.nullcontext():
                    cotangents, inputs, parameters = self._pull_back(request, leaves, outputs)
        finally:
            if request.flush_denormals:
                torch.set_flush_denormal(False)
            self._restore(request.perturbation is not None)
        return Response(
            tuple(to_numpy(t) for t in outputs), tuple(dtype_name(t.dtype) for t in outputs), structure,
            inputs, parameters, after, cotangents, tuple(tape.draws),
        )  # fmt: skip

    def _set_mode(self, training: bool) -> None:
        """Submodules that the user put into another mode keep it, while the module is in the mode that it came in."""
        if training == self._modes[self._module]:
            for child, mode in self._modes.items():
                child.training = mode
        else:
            self._module.train(training)

    def _inputs(self, request: Request) -> list[torch.Tensor]:
        tensors = []
        for array, dtype in zip(request.inputs, self._input_dtypes, strict=True):
            tensors.append(self._cast(torch.from_numpy(np.array(array)).to(self.device, dtype)))
        if request.perturbation is not None:
            self._perturb(request.perturbation, tensors)
        if request.backward:
            tensors = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
        return tensors

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.dtype != "float64":
            return tensor
        return (
            tensor.double()
            if tensor.is_floating_point()
            else tensor.to(torch.complex128)
            if tensor.is_complex()
            else tensor
        )

    def _perturb(self, wanted: Perturbation, tensors: list[torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(wanted.seed)

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point():
                return tensor
            sign = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            return tensor * (1 + wanted.delta * sign)

        with torch.no_grad():
            if wanted.inputs:
                tensors[:] = [moved(t) for t in tensors]
            if wanted.parameters:
                for parameter in self._module.parameters():
                    parameter.data = moved(parameter.data)

    def _pull_back(
        self, request: Request, leaves: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> tuple[tuple[Array | None, ...], dict[str, Array], dict[str, Array]]:
        if not request.backward:
            return (), {}, {}
        sources = {name: leaf for name, leaf in zip(self._names, leaves, strict=True) if leaf.requires_grad}
        parameters = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        wrt = [*sources.values(), *parameters.values()]
        cotangents = request.cotangents
        if cotangents is None:
            cotangents = self._draw_cotangents(request, outputs, wrt)
        gradients = _gradients(outputs, cotangents, wrt)
        arrays = [to_numpy(torch.zeros_like(w) if g is None else g) for g, w in zip(gradients, wrt, strict=True)]
        count = len(sources)
        return (
            cotangents,
            dict(zip(sources, arrays[:count], strict=True)),
            dict(zip(parameters, arrays[count:], strict=True)),
        )

    def _draw_cotangents(
        self, request: Request, outputs: Sequence[torch.Tensor], wrt: Sequence[torch.Tensor]
    ) -> tuple[Array | None, ...]:
        """Normal cotangents; None for an output without a gradient, or with one that torch has not implemented."""
        cotangents: list[Array | None] = []
        for index, output in enumerate(outputs):
            rng = np.random.default_rng([request.seed, 1000 + index])
            real = output.requires_grad and output.is_floating_point()
            cotangents.append(
                round_to(np.asarray(rng.standard_normal(tuple(output.shape))), self.own) if real else None
            )
        missing = None
        for index, cotangent in enumerate(cotangents):
            if cotangent is None:
                continue
            try:
                _gradients([outputs[index]], [cotangent], wrt)
            except RuntimeError as error:
                cotangents[index], missing = None, error
        if missing is not None and not any(cotangent is not None for cotangent in cotangents):
            raise missing
        return tuple(cotangents)

    def _restore(self, all_parameters: bool = True) -> None:
        """Every buffer, and the parameters that were written to (or all), get their saved values back."""
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                written = tensor._version != self._versions.get(name)
                if all_parameters or written or not isinstance(tensor, torch.nn.Parameter):
                    tensor.data = self._saved[name].clone()
                    self._versions[name] = tensor._version
            for name, _ in list(_named(self._module, "buffers")):  # a forward may have put another tensor in its place
                owner, _, leaf = name.rpartition(".")
                self._module.get_submodule(owner)._buffers[leaf] = self._tensors[name]

    def _infos(self, kind: str) -> dict[str, ParameterInfo]:
        first: dict[int, str] = {}
        infos = {}
        for name, tensor in _named(self._module, kind):
            tied = first.setdefault(id(tensor), name)
            infos[name] = ParameterInfo(
                name,
                tuple(tensor.shape),
                dtype_name(tensor.dtype),
                tensor.requires_grad,
                tied if tied != name else None,
            )
        return infos


def _gradients(
    outputs: Sequence[torch.Tensor], cotangents: Sequence[Array | None], wrt: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """The vector-Jacobian product; None for what the outputs do not depend on. The graph is kept."""
    pairs = [
        (y, c)
        for y, c in zip(outputs, cotangents, strict=False)
        if c is not None and y.requires_grad and tuple(y.shape) == c.shape
    ]
    if not pairs or not wrt:
        return [None] * len(wrt)
    given = [torch.from_numpy(np.array(c)).to(y) for y, c in pairs]
    return torch.autograd.grad([y for y, _ in pairs], wrt, given, allow_unused=True, retain_graph=True)


def flatten_output(result: Any) -> tuple[Any, list[torch.Tensor]]:
    """The nesting (None, index, list, dict) and the flat tensors of what `forward` returned.

    Tuples are lists; mappings, named tuples and dataclasses (without their None fields) are dicts, in their own order.
    Numbers become 0-d tensors; other leaves are left out (None).
    """
    tensors: list[torch.Tensor] = []

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return len(tensors) - 1
        if isinstance(value, bool | int | float):
            return walk(torch.tensor(value))
        if isinstance(value, Mapping):
            return {str(key): walk(item) for key, item in value.items()}
        if hasattr(value, "_fields"):
            return {name: walk(getattr(value, name)) for name in value._fields}
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {name: walk(item) for name, item in pairs if item is not None}
        return None

    return walk(result), tensors


def to_numpy(tensor: torch.Tensor) -> Array:
    """A copy; narrow floats as float32."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.array(tensor.numpy())


def dtype_name(dtype: torch.dtype) -> str:
    """The name without its module: "float32" for torch.float32."""
    return str(dtype).rpartition(".")[2]


def own_dtype(module: torch.nn.Module) -> str:
    """The floating dtype that most of a module's parameters (else buffers) have; float32 if it has none."""
    counts: dict[str, int] = {}
    tensors: list[torch.Tensor] = [*module.parameters()]
    for tensor in tensors or module.buffers():
        if tensor.is_floating_point():
            counts[dtype_name(tensor.dtype)] = counts.get(dtype_name(tensor.dtype), 0) + tensor.numel()
    return max(counts, key=lambda name: counts[name]) if counts else "float32"


def copy_module(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy. Tensors that a hook computed (old-style weight norm) are detached in the copy; the next run
    recomputes them."""
    hidden: dict[int, Any] = {}
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                hidden[id(value)] = value.detach().clone()
    return copy.deepcopy(module, hidden)


def _named(module: torch.nn.Module, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters or buffers by every name they have."""
    yield from (module.named_parameters if kind == "parameters" else module.named_buffers)(remove_duplicate=False)


def _to_double(module: torch.nn.Module) -> None:
    """Parameters, buffers, and plain tensor attributes."""
    _map_tensors(module.double(), lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def _map_tensors(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Plain tensor attributes of every submodule, also those in lists, tuples and dicts."""

    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
            return change(value)
        return value

    for child in module.modules():
        for name, value in list(vars(child).items()):
            if name.startswith("_") or isinstance(value, torch.nn.Module):
                continue
            if isinstance(value, torch.Tensor):
                vars(child)[name] = changed(value)
            elif type(value) in (list, tuple, dict):
                vars(child)[name] = pytree.tree_map(changed, value)


@contextlib.contextmanager
def _settings(runner: TorchRunner) -> Iterator[None]:
    with eager_control_flow(), torch_settings(runner.device, runner._recurrent):
        if runner.dtype != "float64":
            yield
            return
        own = getattr(torch, runner.own)
        with torch_dtype_limits_of(own), Float64Mode(own):
            yield

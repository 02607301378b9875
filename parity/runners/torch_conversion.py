"""A `TorchConversion` as a runner: its module, on its own ports, with the record of what it was made from."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from isomorph.convert.onnx_in import torch_layers
from isomorph.parity.matching.recorded import from_conversion
from isomorph.parity.runners.arrays import inputs_for, inputs_that_run
from isomorph.parity.runners.base import About, PortInfo, Request, Response
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.runners.torch_runner import Call, TorchRunner
from isomorph.parity.tolerance import Array

__all__ = ["ConvertedModule", "call_of", "open_torch_conversion"]

# layers of the importer that draw in train mode, and are none of torch.nn
NOISE = (
    torch_layers.GaussianNoise,
    torch_layers.GaussianDropout,
    torch_layers.SharedDropout,
    torch_layers.SharedAlphaDropout,
)


class ConvertedModule(TorchRunner):
    """A module that was made from an ONNX or Keras model. Its layers that add noise are silenced like dropout."""

    def respond(self, request: Request) -> Response:
        """See `Runner`."""
        self._quiet = not request.dropout
        try:
            return super().respond(request)
        finally:
            self._quiet = False

    def _set_mode(self, training: bool) -> None:
        super()._set_mode(training)
        if training and self._quiet:
            for child in self._module.modules():
                if isinstance(child, NOISE):
                    child.eval()

    _quiet = False

    def rates(self) -> dict[str, float]:
        """Module path -> the rate of dropout, or the standard deviation of noise."""
        found = {}
        for name, child in self._module.named_modules():
            if isinstance(child, (torch.nn.modules.dropout._DropoutNd, *NOISE)):
                rate = getattr(child, "p", getattr(child, "stddev", None))
                if isinstance(rate, int | float):
                    found[name] = float(rate)
        return found

    def to_float64(self) -> ConvertedModule:
        """See `Runner`."""
        self._set_mode(self._modes[self._module])
        twin = ConvertedModule(self._module, self._call, self._names, "float64", self.device, self._about)
        twin.own = self.own
        return twin


def open_torch_conversion(spec: ModelSpec) -> Opened:
    """A TorchConversion: its ports say its inputs; an example or `--input` texts are put to them.

    UsageError: they do not fit the ports, or the device is not there.
    """
    conversion = spec.target
    ports = tuple(PortInfo(port.name, port.dtype, tuple(port.dims)) for port in conversion.inputs)
    inputs = inputs_for(spec, ports)
    outputs = tuple(PortInfo(port.name, port.dtype, tuple(port.dims)) for port in conversion.outputs)
    names = [port.name for port in ports]
    about = About("torch", inputs.ports, outputs, sizes=inputs.sizes)

    def runner(arrays: tuple[Array, ...], module: Any = conversion.module) -> ConvertedModule:
        call = Call([_tensor(array, port.dtype) for array, port in zip(arrays, ports, strict=True)])
        return ConvertedModule(module, call, names, device=spec.device, about=about)

    first = runner(inputs.arrays)
    inputs = inputs_that_run(spec, inputs, lambda arrays: first.respond(Request(arrays, "eval", backward=False)))
    return Opened(runner(inputs.arrays), inputs.arrays, inputs.values, from_conversion(conversion))


def _tensor(array: Array, dtype: str) -> torch.Tensor:
    return torch.from_numpy(array.copy()).to(getattr(torch, dtype))


def call_of(conversion: Any, specs: Sequence[Any]) -> tuple[tuple[torch.Tensor, ...], dict[str, dict[int, str]]]:
    """Arguments that the module of a TorchConversion accepts, with its free axes, as `to_keras` takes them. specs:
    `--input`, in its own axis order."""
    arrays = open_torch_conversion(ModelSpec(conversion, tuple(specs))).example or ()
    args = tuple(_tensor(array, port.dtype) for array, port in zip(arrays, conversion.inputs, strict=True))
    names = list(inspect.signature(conversion.module.forward).parameters)
    shapes = {
        name: {axis: dim for axis, dim in enumerate(port.dims) if isinstance(dim, str) and dim.isidentifier()}
        for name, port in zip(names, conversion.inputs, strict=False)
    }
    return args, shapes

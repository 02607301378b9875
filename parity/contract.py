"""From what a user hands over to what is run: the two runners and the contract of their inputs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch

from isomorph.convert.errors import UsageError
from isomorph.parity import strategies
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Runner
from isomorph.parity.runners.keras_runner import KerasRunner
from isomorph.parity.runners.torch_runner import Call, TorchRunner, dtype_name, example_leaves, own_dtype, to_numpy
from isomorph.parity.strategies import Contract
from isomorph.parity.verdict import Case

__all__ = ["Prepared", "environment", "prepare"]

PACKAGES = ("torch", "keras", "tensorflow", "jax", "numpy")


@dataclass(frozen=True)
class Prepared:
    """Both runners in the model's own dtype, and what to ask them."""

    original: TorchRunner
    converted: Runner
    contract: Contract
    own_dtype: str
    random_sites: int


def prepare(original: Any, converted: Any, inputs: Any, ledger: Ledger) -> Prepared | None:
    """Runners and contract of a torch module and a Conversion; None, with a mismatch in the ledger, if inputs differ.

    The example comes from `inputs`, else from the conversion's own (`converted.example`: (args, kwargs)), else from its
    ports. The converted model may be a second torch module: then `inputs` are needed, and their shapes are fixed.
    """
    if isinstance(converted, torch.nn.Module):
        return _two_modules(original, converted, inputs)
    ports = tuple(converted.inputs)
    given = inputs if inputs is not None else getattr(converted, "example", None)
    call = example_leaves(given) if given is not None else Call(_invented(ports))
    if len(call.examples) != len(ports):
        message = f"the original takes {len(call.examples)} arrays, the converted model {len(ports)}"
        ledger.reject("structure", "signature", "inputs", message)
        return None
    names = tuple(port.name for port in ports)
    runner = TorchRunner(original, call, names)
    bounds = runner.index_bounds()
    specs = []
    for port, example in zip(ports, call.examples, strict=True):
        dtype = dtype_name(example.dtype)
        if port.dtype != dtype:
            ledger.reject("dtype", "signature", f"input {port.name}", f"expected dtype {dtype}, got {port.dtype}")
        if len(port.dims) != example.ndim:
            message = f"expected {example.ndim} axes, got {len(port.dims)}"
            ledger.reject("shape", "signature", f"input {port.name}", message)
            return None
        dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in port.dims)
        specs.append(strategies.spec_of(port.name, dtype, dims, to_numpy(example), bounds.get(port.name)))
    sizes = strategies.solve_sizes(specs)
    contract = Contract(tuple(specs), sizes, getattr(converted, "bounds", None))
    return Prepared(
        runner, KerasRunner(converted), contract, own_dtype(original), len(tuple(converted.random_sites))
    )  # fmt: skip


def _two_modules(original: torch.nn.Module, converted: torch.nn.Module, inputs: Any) -> Prepared:
    if inputs is None:
        raise UsageError("two torch modules can only be compared on example inputs: give inputs=")
    call = example_leaves(inputs)
    names = call.names(original)
    runner = TorchRunner(original, call, names)
    bounds = runner.index_bounds()
    specs = tuple(
        strategies.spec_of(name, dtype_name(tensor.dtype), tuple(tensor.shape), to_numpy(tensor), bounds.get(name))
        for name, tensor in zip(names, call.examples, strict=True)
    )
    return Prepared(runner, TorchRunner(converted, call, names), Contract(specs), own_dtype(original), 0)


def environment() -> dict[str, str]:
    """Versions and the settings that change numbers."""
    import keras

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        **versions,
        "python": platform.python_version(),
        "keras_backend": keras.backend.backend(),
        "machine": platform.machine(),
        "tf_onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "tf32": str(torch.backends.cuda.matmul.allow_tf32),
    }


def _invented(ports: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Inputs of the ports' shapes and dtypes: normal floats, zeros for integers, True for bools."""
    specs = [
        strategies.InputSpec(p.name, p.dtype, tuple(d if isinstance(d, int) else str(d) for d in p.dims)) for p in ports
    ]
    contract = Contract(tuple(specs), strategies.solve_sizes(specs))
    case = Case("normal", 0, contract.sizes)
    tensors = []
    for spec in specs:
        shape, dtype = contract.shape(spec, case), getattr(torch, spec.dtype)
        if dtype.is_floating_point or dtype.is_complex:
            tensors.append(torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).to(dtype))
        else:
            tensors.append(torch.ones(shape, dtype=dtype) if dtype == torch.bool else torch.zeros(shape, dtype=dtype))
    return tuple(tensors)

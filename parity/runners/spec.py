"""What a model to be compared is, before it is opened. Standard library only: it travels to worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isomorph.convert.errors import IsomorphError
from isomorph.parity.runners.base import Runner
from isomorph.parity.tolerance import Array

__all__ = ["ModelSpec", "Opened", "WorkerError"]


class WorkerError(IsomorphError):
    """A worker process died, hung past its limit or ran out of memory. The verdict is ERROR, with its last output."""

    exit_code = 4


@dataclass(frozen=True)
class ModelSpec:
    """Where a model is, and how it is to be run.

    target: the text of the command line (a path, or "module:callable"), or an object of this process: a torch module,
    a Conversion, a Keras model, a function from arrays to arrays. inputs: `--input` texts. example: inputs the model
    accepts, as a caller gave them. device: "cpu", "cuda" or "cuda:N". backend: Keras' backend; another one than this
    process has needs a worker. python: another interpreter for the worker. isolate: a worker in any case. timeout: the
    seconds one request may take in a worker. memory: the bytes of address space a worker may have. recorded: what a
    conversion recorded of the two models (`matching.recorded.Recorded`), where the model does not bring it itself.
    """

    target: Any
    inputs: tuple[str, ...] = ()
    example: Any = None
    weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    backend: str | None = None
    python: str | None = None
    isolate: bool = False
    timeout: float = 600.0
    memory: int | None = None
    recorded: Any = None


@dataclass(frozen=True)
class Opened:
    """A model that can be asked. example: inputs it accepts, flat, in its own order and layout; None where none is
    known. values: input name -> inclusive bounds of its values that the user declared. recorded: what the conversion
    that made it recorded (`matching.recorded.Recorded`)."""

    runner: Runner
    example: tuple[Array, ...] | None = None
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    recorded: Any = None

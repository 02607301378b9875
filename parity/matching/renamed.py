"""A runner under other names for its inputs. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, Request, Response, Runner
from isomorph.parity.tolerance import Array

__all__ = ["Renamed"]


class Renamed:
    """A runner with a recorded map, whose ports are named otherwise than the original's inputs. names: its own name for
    an input -> the original's."""

    def __init__(self, runner: Runner, names: Mapping[str, str]) -> None:
        self.runner, self._names = runner, dict(names)
        self.dtype = runner.dtype

    def about(self) -> About:
        """See `Runner`."""
        about = self.runner.about()
        return replace(about, inputs=tuple(replace(p, name=self._names.get(p.name, p.name)) for p in about.inputs))

    def index_bounds(self) -> dict[str, int]:
        """See `Runner`."""
        return {self._names.get(name, name): rows for name, rows in self.runner.index_bounds().items()}

    def respond(self, request: Request) -> Response:
        """See `Runner`."""
        got = self.runner.respond(request)
        return replace(got, input_gradients={self._names.get(n, n): g for n, g in got.input_gradients.items()})

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return self.runner.parameters()

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return self.runner.buffers()

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        return self.runner.state()

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`."""
        self.runner.load(state)

    def to_float64(self) -> Runner:
        """See `Runner`."""
        return Renamed(self.runner.to_float64(), self._names)

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """See `Runner`."""
        return self.runner.trace(request)

    def close(self) -> None:
        """See `Runner`."""
        self.runner.close()

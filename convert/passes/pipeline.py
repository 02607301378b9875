"""The passes in order, with the reason for each place. A pass is a frozen dataclass that takes a graph and gives a
graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..ir import Graph
from .absorb_batch_counters import AbsorbBatchCounters
from .batch_spatial import BatchSpatial
from .drop_dead import DropDead
from .drop_noops import DropNoops
from .expose_statistics import ExposeStatistics
from .fold_constants import FoldConstants
from .guard_relu import GuardRelu
from .scalar_fills import ScalarFills


class Pass(Protocol):
    """`run` returns a new graph; new constants go into `tensors`."""

    def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph: ...


PIPELINE: tuple[Pass, ...] = (
    AbsorbBatchCounters(),  # first: it knows num_batches_tracked by torch's own pattern
    DropNoops(),  # before folding: fewer nodes to look at, and clones hide constants
    ScalarFills(),  # before folding, which would bake the rounded constant in
    FoldConstants(),  # before DropDead: what it folded leaves dead makers behind
    GuardRelu(),  # any time after DropNoops, which brings relu and its readers together
    BatchSpatial(),  # any time before layout, which expects spatial ops with a batch axis
    DropDead(),  # after the passes that leave unused nodes
    ExposeStatistics(),  # last: it has to see where the finished graph will be cut
)


def run_passes(
    graph: Graph, tensors: dict[str, Any], passes: tuple[Pass, ...] = PIPELINE, dump: Mapping[str, str] | None = None
) -> Graph:
    """The graph after all passes, verified after each. ISOMORPH_DUMP=DIR writes the text after each step there."""
    folder = (dump or os.environ).get("ISOMORPH_DUMP")
    _write(folder, 0, "capture", graph)
    for number, step in enumerate(passes, 1):
        graph = step.run(graph, tensors).verify()
        _write(folder, number, type(step).__module__.rpartition(".")[2], graph)
    return graph


def _write(folder: str | None, number: int, name: str, graph: Graph) -> None:
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{number:02d}_{name}.txt").write_text(f"{graph}\n")

"""The way from one format to another. Formats are nodes, converters edges; the way is the cheapest chain of them.
Loads the standard library only; networkx when a way is looked for.

    torch --to_keras--> keras --to_onnx--> onnx --to_torch--> torch
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import UsageError

__all__ = [
    "CONVERTERS",
    "FORMATS",
    "Converter",
    "Format",
    "Route",
    "find",
    "is_code",
    "routes",
    "source_format",
    "target_format",
]


@dataclass(frozen=True)
class Format:
    """reads: suffixes of files that are a SOURCE of this format. writes: suffixes that `isomorph convert` writes."""

    name: str
    what: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Converter:
    """One step. cost: each step may lose something, so that fewer are better. home: the function that does it. keeps:
    what arrives as it was. options: those of `isomorph convert` that it takes. needs: packages of the extra "onnx"."""

    source: str
    target: str
    cost: float
    home: str
    keeps: tuple[str, ...]
    options: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """A chain of converters."""

    source: str
    target: str
    legs: tuple[Converter, ...]

    @property
    def cost(self) -> float:
        return sum(leg.cost for leg in self.legs)

    @property
    def formats(self) -> tuple[str, ...]:
        """From the source's to the target's."""
        return (self.source, *(leg.target for leg in self.legs))

    @property
    def keeps(self) -> tuple[str, ...]:
        """What every step keeps."""
        return tuple(what for what in self.legs[0].keeps if all(what in leg.keeps for leg in self.legs))

    @property
    def options(self) -> dict[str, Converter]:
        """Each option that means something on this way, and the step that it is for: the last one that takes it; of
        the dtype the first one, as all that follows has it too. The opset is that of the file that is written, and
        `weights` are for the code of a torch source."""
        taken = {option: leg for leg in self.legs for option in leg.options}
        casts = [leg for leg in self.legs if "dtype" in leg.options]
        if casts:
            taken["dtype"] = casts[0]
        if self.target != "onnx":
            taken.pop("opset", None)
        if self.source != "torch":
            taken.pop("weights", None)
        return taken


FORMATS: Mapping[str, Format] = {
    f.name: f
    for f in (
        Format("keras", "Keras", (".keras", ".h5"), (".keras",)),
        Format("onnx", "ONNX", (".onnx",), (".onnx",)),
        Format("torch", "PyTorch", (".pt2",), (".pt2", ".safetensors")),
    )
}
SCHEMES = ("hf", "timm", "torchvision")  # of sources that are torch modules
_TRAINS = ("names", "weights", "gradients", "batch statistics", "dropout")
CONVERTERS = (
    Converter(
        "torch", "keras", 1.0, "isomorph.convert.api:to_keras", (*_TRAINS, "free axes"),
        ("weights", "layout", "mode", "dtype", "batchnorm"),
    ),
    Converter(
        "keras", "onnx", 1.0, "isomorph.convert.onnx_out.api:to_onnx", (*_TRAINS, "free axes"), ("opset",),
        ("tf2onnx", "onnxruntime"),
    ),
    Converter(
        "onnx", "torch", 1.0, "isomorph.convert.onnx_in.api:to_torch", (*_TRAINS, "free axes"),
        ("layout", "trainable", "dtype"),
    ),
)  # fmt: skip


@functools.cache
def _graph() -> Any:
    import networkx

    graph = networkx.DiGraph()
    graph.add_nodes_from(FORMATS)
    for converter in CONVERTERS:
        graph.add_edge(converter.source, converter.target, weight=converter.cost, converter=converter)
    return graph


def find(source: str, target: str) -> Route:
    """The cheapest way. UsageError: there is none, or the source is of that format already."""
    import networkx

    if source == target and source in FORMATS:
        raise UsageError(f"SOURCE is a {FORMATS[source].what} model already; nothing to convert")
    try:
        nodes = networkx.shortest_path(_graph(), source, target, weight="weight")
    except (networkx.NetworkXNoPath, networkx.NodeNotFound) as error:
        raise UsageError(f"there is no way from {source} to {target}; known are {', '.join(FORMATS)}") from error
    legs = tuple(_graph().edges[pair]["converter"] for pair in pairwise(nodes))
    return Route(source, target, legs)


def routes() -> list[Route]:
    """The way from every format to every other one, the cheapest first."""
    found = [find(a, b) for a in FORMATS for b in FORMATS if a != b]
    return sorted(found, key=lambda route: route.cost)


def source_format(text: str) -> str:
    """The format of a SOURCE by its form. Code, and what else names a module, counts as torch."""
    suffix = Path(text).suffix.lower()
    return next((name for name, form in FORMATS.items() if suffix in form.reads), "torch")


def is_code(text: str) -> bool:
    """Whether a SOURCE is pkg.module:callable or path/to/file.py:callable."""
    scheme, colon, name = text.partition(":")
    return bool(colon and name) and scheme not in SCHEMES and source_format(text) == "torch"


def target_format(to: str | None, output: Path) -> str:
    """The format to write: as asked, else by the file's name. UsageError: the name is not one of that format."""
    suffix = output.suffix
    names = _either([s for form in FORMATS.values() for s in form.writes] if to is None else FORMATS[to].writes)
    found = next((name for name, form in FORMATS.items() if suffix in form.writes), None)
    if found is None or (to is not None and found != to):
        raise UsageError(f"-o {output}: the name must end in {names}")
    return found


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]

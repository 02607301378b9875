"""The GPU matrix: each model on torch's CPU against itself on torch CUDA, and against its conversion on Keras with
TensorFlow or JAX on CUDA. Every side but the original is a worker process of its own.

    scripts/gpu_parity                                   some models, every framework that sees a GPU
    scripts/gpu_parity --models lstm gpt --level quick   these, with three examples each
    scripts/gpu_parity --cpu                             the same matrix on the CPU

A framework that sees no GPU is named, with what it sees. Ends with 1 if a verdict is anything but PASS, and with 0 if
there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from isomorph.convert.errors import UsageError
from isomorph.parity.console import console as quiet_frameworks
from isomorph.parity.doctor import ask_devices

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for fixtures/, which is not installed

SIDES = ("torch", "tensorflow", "jax")
# One of each family that has kernels of its own on a GPU: convolutions and their gradients, batch statistics,
# attention, recurrence, look-ups and scatters, resizing, drawing.
MODELS = (
    "resnet_basic", "resnext", "mobilenet_v3", "convnext", "gpt", "bert", "multihead_attention", "lstm", "gru",
    "batch_norm_variants", "norms", "gather_scatter", "interpolate_bilinear", "discriminator",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One check. structure, precision: the worst error relative to scale, with what was allowed there."""

    model: str
    side: str
    status: str
    structure: str
    precision: str
    seconds: float
    said: str


def devices_of(side: str) -> tuple[list[str], str]:
    """The GPUs that a framework sees, asked in a process of its own, and one line about it."""
    answer = ask_devices(side)
    if isinstance(answer, str):
        return [], answer
    found = [name for name in answer if name.lower().startswith(("cuda", "gpu"))]
    return found, ", ".join(found) if found else f"sees no GPU, only {', '.join(answer)}"


def checks(models: Sequence[str], sides: Sequence[str], device: str, level: str, folder: Path) -> Iterator[Row]:
    """A row for each model on each side."""
    from fixtures.zoo import ZOO

    unknown = [name for name in models if name not in ZOO]
    if unknown:
        raise UsageError(f"fixtures/zoo has no model {', '.join(unknown)}")
    for name in models:
        fixture = ZOO[name]
        module = fixture.build()
        call = (module, fixture.args(), fixture.kwargs())
        saved = None
        for side in sides:
            start = time.perf_counter()
            try:
                if side != "torch" and saved is None:
                    saved = converted(call, fixture.export_shapes(module), folder / f"{name}.keras")
                status, structure, precision, said = judged(call, saved, side, device, level)
            except Exception as error:  # one that cannot be judged is a row of the table
                line = (str(error).splitlines() or [""])[0]
                status, structure, precision, said = "ERROR", "", "", f"{type(error).__name__}: {line}"
            yield Row(name, side, status, structure, precision, time.perf_counter() - start, said)


def converted(call: tuple[Any, ...], shapes: Any, path: Path) -> str:
    import tensorflow as tf

    import isomorph

    tf.config.set_visible_devices([], "GPU")  # it is converted on the CPU; the worker has the GPU
    isomorph.to_keras(*call, dynamic_shapes=shapes).save(path)
    return str(path)


def judged(
    call: tuple[Any, ...], saved: str | None, side: str, device: str, level: str
) -> tuple[str, str, str, str]:  # fmt: skip
    from isomorph.parity.check import examine
    from isomorph.parity.runners.spec import ModelSpec
    from isomorph.parity.settings import Settings

    module, *example = call
    other = (
        ModelSpec(module, example=tuple(example), device=device, isolate=True)
        if side == "torch"
        else ModelSpec(saved, device=device, backend=side, isolate=True)
    )
    verdict = examine(ModelSpec(module, example=tuple(example)), other, Settings(level=level, explain=False))
    said = "" if verdict.status == "PASS" else str((*verdict.mismatches, verdict.coverage["reason"])[0])
    return verdict.status, worst(verdict, "structure"), worst(verdict, "precision"), said


def worst(verdict: Any, stage: str) -> str:
    picked = [c for c in verdict.checks if c.stage == stage and c.compared]
    if not picked:
        return "-"
    top = max(picked, key=lambda c: c.worst / c.tolerance if c.tolerance else 0.0)
    return f"{top.worst:.1e} of {top.tolerance:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of fixtures/zoo")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--level", default="full", choices=("quick", "full", "thorough"))
    parser.add_argument("--cpu", action="store_true", help="the same matrix on the CPU")
    options = parser.parse_args()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with quiet_frameworks() as streams:
        out = Console(file=streams.out, highlight=False, width=None if streams.out.isatty() else 160)
        if options.cpu:
            sides, device = list(options.sides), "cpu"
        else:
            seen = {side: devices_of(side) for side in options.sides}
            for side, (_, line) in seen.items():
                out.print(escape(f"{side}: {line}"), soft_wrap=True)
            sides, device = [side for side in options.sides if seen[side][0]], "cuda"
            if not sides:
                out.print("no framework sees a GPU: nothing was compared (--cpu runs the same matrix on the CPU)")
                return 0
        table = Table("model", f"on {device}", "verdict", "float64", "own dtype", "seconds", "first difference")
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for row in checks(options.models, sides, device, options.level, Path(folder)):
                    rows.append(row)
                    streams.message(f"{row.model} on {row.side}: {row.status} in {row.seconds:.0f} s")
                    colour = "green" if row.status == "PASS" else "red"
                    table.add_row(
                        row.model, row.side, f"[{colour}]{row.status}[/]", row.structure, row.precision,
                        f"{row.seconds:.1f}", escape(row.said),
                    )  # fmt: skip
            except UsageError as error:
                streams.message(f"gpu_parity: error: {error}")
                return 2
        out.print(table)
        failed = [row for row in rows if row.status != "PASS"]
        out.print(f"{len(rows) - len(failed)} of {len(rows)} passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""What a check costs: cases per second at default settings, and where the time goes.

    python scripts/bench/check_cost.py              an MLP, a small CNN, a small transformer
    python scripts/bench/check_cost.py mlp --level quick --rounds 3

cases       examples judged per second, over the whole check
original, converted   share of the time inside the two models (their forward and backward passes)
setup       share of making the runners: copies, the converted model again in float64
rest        share of everything else: drawing, comparing, conditioning, counting
overhead    the whole check / the bare passes it asked for, replayed in the same order in the same process

A pass is one `respond` of a runner. The share outside the two models is what isomorph itself adds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import isomorph
from isomorph.parity.runners.keras_runner import KerasRunner
from isomorph.parity.runners.torch_runner import TorchRunner

SIDES: dict[str, type[Any]] = {"original": TorchRunner, "converted": KerasRunner}


def mlp() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(
        4, 32
    )


def cnn() -> tuple[nn.Module, torch.Tensor]:
    def stage(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stage(3, 16), *stage(16, 32), *stage(32, 64), *head), torch.randn(2, 3, 32, 32)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1, activation="gelu") for _ in range(2)]
    return nn.Sequential(*layers, nn.LayerNorm(32), nn.Linear(32, 8)), torch.randn(2, 12, 32)


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


class Passes:
    """Counts and times what the two models are asked, and keeps the questions."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*SIDES, "setup"), 0.0)
        self.asked: list[tuple[Callable[..., Any], Any, Any]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every `respond`, and every copy in float64, of both runners is timed while this is open."""
        saved = [
            (runner, name, getattr(runner, name)) for runner in SIDES.values() for name in ("respond", "to_float64")
        ]
        for side, runner in SIDES.items():
            runner.respond = self._timed(runner.respond, side)
            runner.to_float64 = self._timed(runner.to_float64, "setup")
        try:
            yield
        finally:
            for runner, name, method in saved:
                setattr(runner, name, method)

    def _timed(self, method: Callable[..., Any], side: str) -> Callable[..., Any]:
        def timed(runner: Any, *args: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(runner, *args)
            finally:
                self.seconds[side] += time.perf_counter() - start
                if side in SIDES:
                    self.asked.append((method, runner, args))

        return timed

    def replay(self) -> float:
        """Seconds of the same passes once more, with nothing between them."""
        start = time.perf_counter()
        for method, runner, args in self.asked:
            method(runner, *args)
        return time.perf_counter() - start


def measure(name: str, level: str, rounds: int) -> dict[str, Any]:
    """One row: medians over rounds, each with its own seed; a first round is dropped."""
    torch.manual_seed(0)
    module, x = MODELS[name]()
    conversion = isomorph.to_keras(module, (x,))
    rows: list[dict[str, float]] = []
    for seed in range(rounds + 1):
        passes = Passes()
        start = time.perf_counter()
        with passes.watched():
            verdict = isomorph.check(module, conversion, (x,), seed=seed, level=level)
        total = time.perf_counter() - start
        if verdict.status != "PASS":
            raise SystemExit(f"{name}: {verdict.summary()}")
        inside = sum(passes.seconds.values())
        rows.append({
            "seconds": total,
            "cases": len(verdict.coverage["cases"]),
            "cases per second": len(verdict.coverage["cases"]) / total,
            "passes": len(passes.asked),
            **{f"{part} %": 100 * spent / total for part, spent in passes.seconds.items()},
            "rest %": 100 * (total - inside) / total,
            "check / bare passes": total / passes.replay(),
        })  # fmt: skip
    measured = rows[1:]
    medians = {key: round(statistics.median(row[key] for row in measured), 2) for key in measured[0]}
    return {"model": name, "level": level, "load": round(os.getloadavg()[0], 1), **medians}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--level", default="full", choices=("quick", "full", "thorough"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    unknown = [m for m in options.models if m not in MODELS]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    rows = []
    for name in options.models or MODELS:
        rows.append(measure(name, options.level, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=200).print(table)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Benchmarks: what a conversion costs, and how fast the converted model runs, as ratios measured side by side in one
process.

    python scripts/bench/run.py                     all models
    python scripts/bench/run.py resnet50 --batch 8  one, with another batch
    python scripts/bench/run.py --json bench.json   the figures as data
    python scripts/bench/run.py --check             what the check itself costs, instead (check_cost.py)

conversion  seconds of capture / passes / emit; the ratio to torch.export of both modes plus Keras' own layer building
memory      peak resident memory added by the conversion, as a multiple of the weights
transposes  left in the graph
inference   converted / torch eager, and converted / the hand-written keras.applications twin (below 1: faster)
training    one SGD step, the same two ratios

Models are interleaved call by call, so that noise of the machine meets both sides; figures are medians with the
quartiles.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import check_cost
import keras
import numpy as np
import tensorflow as tf
import torch
from models import MODELS, BenchModel
from rich.console import Console
from rich.table import Table

from isomorph.convert.api import to_keras


def spread(ratios: list[float]) -> str:
    """Median with quartiles."""
    low, mid, high = statistics.quantiles(ratios, n=4)
    return f"{mid:.2f} ({low:.2f}-{high:.2f})"


def side_by_side(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call, the sides taking turns; two warm-up rounds are dropped."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 2):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def ratios(times: dict[str, list[float]], of: str, to: str) -> list[float]:
    return [a / b for a, b in zip(times[of], times[to], strict=True)]


def torch_training(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    module = module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        _first(module(x)).square().mean().backward()
        optimizer.step()

    return step


def keras_training(model: Any, x: tf.Tensor) -> Callable[[], Any]:
    optimizer = keras.optimizers.SGD(1e-4)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(batch: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(_first(model(batch, training=True))))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    return lambda: step(x)


def _first(y: Any) -> Any:
    while not hasattr(y, "shape"):
        y = next(iter(y.values())) if hasattr(y, "values") else y[0]
    return y


def measure(spec: BenchModel, batch: int, rounds: int) -> dict[str, Any]:
    module = spec.build().eval()
    x = spec.inputs(batch)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    exported = [_timed(lambda t=t: torch.export.export(module.train(t), (x,), strict=False)) for t in (False, True)]
    module.eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    converted = to_keras(module, (x,))
    total = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    building = _timed(lambda: keras.Model.from_config(converted.model.get_config()))
    row: dict[str, Any] = {
        "model": spec.name,
        "batch": batch,
        "seconds": converted.report["seconds"],
        "conversion / (export + keras building)": round(total / (sum(exported) + building), 2),
        "peak memory / weights": round(peak / weights, 2),
        "transposes": converted.report["transposes"],
        "native share": converted.report["native_share"],
    }
    arrays = [tf.convert_to_tensor(p.to_keras(a)) for p, a in zip(converted.inputs, [x.numpy()], strict=True)]
    ours = tf.function(lambda a: converted.model(a, training=False))
    twin = spec.twin() if spec.twin is not None else None
    sides: dict[str, Callable[[], Any]] = {"torch": _no_grad(lambda: module(x)), "ours": lambda: ours(arrays[0])}
    if twin is not None:
        theirs = tf.function(lambda a: twin(a, training=False))
        sides["twin"] = lambda: theirs(arrays[0])
    times = side_by_side(sides, rounds)
    row["inference / torch"] = spread(ratios(times, "ours", "torch"))
    if twin is not None:
        row["inference / twin"] = spread(ratios(times, "ours", "twin"))
    steps = {"torch": torch_training(module, x), "ours": keras_training(converted.model, arrays[0])}
    if twin is not None:
        steps["twin"] = keras_training(twin, arrays[0])
    times = side_by_side(steps, max(5, rounds // 2))
    row["training / torch"] = spread(ratios(times, "ours", "torch"))
    if twin is not None:
        row["training / twin"] = spread(ratios(times, "ours", "twin"))
    return row


def _no_grad(call: Callable[[], Any]) -> Callable[[], Any]:
    def inner() -> Any:
        with torch.no_grad():
            return call()

    return inner


def _timed(call: Callable[[], Any]) -> float:
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json")
    parser.add_argument("--check", action="store_true", help="what the check itself costs, instead")
    options = parser.parse_args()
    if options.check:
        return check_cost.main(["--rounds", str(options.rounds), *(["--json", options.json] if options.json else [])])
    unknown = [m for m in options.models if m not in MODELS]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    np.random.seed(0)
    torch.manual_seed(0)
    rows = []
    for name in options.models or MODELS:
        rows.append(measure(MODELS[name], options.batch, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    columns = list(dict.fromkeys(k for row in rows for k in row if k != "seconds"))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(c, "-")) for c in columns))
    Console(width=200).print(table)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The tables of docs/support/: formats, ATen ops, ONNX ops. Generated from the code; a test holds them up to date.

    python scripts/support_tables.py            write them
    python scripts/support_tables.py --check    exit code 1 when one is not what it would write

The table of formats is measured: one small net is opened in each format, and the runner says what it can do.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "support"
NOTE = "<!-- Written by scripts/support_tables.py: change the code, not this page. -->"


def table(columns: tuple[str, ...], rows: Iterator[tuple[object, ...]] | list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def formats() -> str:
    """What is read, written, converted into what, and what a check can see of each format."""
    from isomorph.convert.routes import FORMATS, routes

    files = [
        (form.what, " ".join(f"`{s}`" for s in form.reads), " ".join(f"`{s}`" for s in form.writes))
        for form in FORMATS.values()
    ]
    ways = [
        (" → ".join(way.formats), ", ".join(way.keeps), " ".join(f"`--{option}`" for option in sorted(way.options)))
        for way in routes()
    ]
    seen = [
        (name, *("yes" if have else "no" for have in capabilities), modes, missing)
        for name, capabilities, modes, missing in _runners()
    ]
    return "\n\n".join(
        (
            "# Formats", NOTE, "## Files", table(("format", "is read", "is written"), files),
            "Code (`pkg.module:factory`, `file.py:factory`), `hf:DIR`, `timm:NAME` and `torchvision:NAME` are read as "
            "PyTorch, or as Keras where the code makes a Keras model.",
            "## `isomorph convert`", table(("way", "keeps", "options"), ways),
            "## `isomorph check`",
            "What can be asked of a model, by its format. Seen on one small net in each: what a format cannot give is "
            "listed in the verdict as not checked.",
            table(("format", "gradients", "float64", "same random draws", "modes", "what is missing, and why"), seen),
        )
    )  # fmt: skip


def _runners() -> Iterator[tuple[str, tuple[bool, bool, bool], str, str]]:
    """(format, (gradients, float64, replays), modes, what is missing) of one small net in every format."""
    import keras
    import numpy as np
    import tensorflow as tf
    import torch

    from isomorph.convert.api import to_keras
    from isomorph.convert.onnx_out.api import to_onnx
    from isomorph.parity.runners.open import open_runner
    from isomorph.parity.runners.spec import ModelSpec

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)).eval()
    example = torch.randn(2, 3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)])
    conversion = to_keras(net, (example,))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.export.save(torch.export.export(net, (example,)), folder / "net.pt2")
        model.save(folder / "net.keras")
        model.export(folder / "saved_model", verbose=False)
        lite = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model")).convert()
        (folder / "net.tflite").write_bytes(lite)
        to_onnx(model).save(folder / "net.onnx")
        targets: dict[str, object] = {
            "torch module": net,
            "`.pt2`": str(folder / "net.pt2"),
            "isomorph's conversion to Keras": conversion,
            "Keras model, `.keras`": str(folder / "net.keras"),
            "SavedModel": str(folder / "saved_model"),
            "LiteRT `.tflite`": str(folder / "net.tflite"),
            "ONNX `.onnx`": str(folder / "net.onnx"),
            "function of arrays": lambda x: x * np.float32(2),
        }
        for said, target in targets.items():
            given = example.numpy() if callable(target) and not hasattr(target, "parameters") else None
            opened = open_runner(ModelSpec(target, example=example if target is net else given))
            about = opened.runner.about()
            missing = "; ".join(f"{what}: {why}" for what, why in about.missing.items()).replace(name, "")
            yield said, (about.gradients, about.float64, about.replays), ", ".join(about.modes), missing
            opened.runner.close()


def torch_ops() -> str:
    """The ATen overloads that have a rule."""
    from isomorph.convert.rules.registry import LAYER_FORMS, load_rules

    rules = sorted(load_rules().values(), key=lambda rule: (rule.family, rule.key))
    parts = ["# PyTorch ops", NOTE]
    parts.append(
        f"{len(rules)} overloads of ATen have a rule. Others are decomposed by torch's own tables into these; what "
        "remains without a rule is reported with its place by `isomorph ops SOURCE`. `layer`: becomes a real Keras "
        "layer where its parameters are its own; otherwise `keras.ops`."
    )
    for family, members in groupby(rules, key=lambda rule: rule.family):
        rows = [(f"`{r.key}`", "layer" if r.key in LAYER_FORMS else "") for r in members]
        parts += [f"## {family}", table(("op", ""), rows)]
    return "\n\n".join(parts)


def onnx_ops() -> str:
    """The ONNX ops that become torch."""
    from isomorph.convert.onnx_in.registry import load_rules, rules

    load_rules()
    found: dict[tuple[str, str], list[int]] = {}
    for rule in rules():
        found.setdefault((rule.domain or "ai.onnx", rule.op), []).append(rule.since)
    rows = [(domain, f"`{op}`", ", ".join(map(str, since))) for (domain, op), since in sorted(found.items())]
    head = (
        f"{len(rows)} ops of ONNX become PyTorch (and from there Keras). A model gets the newest rule that is not "
        "above its opset; `from version` lists the versions of the op's schema at which a rule begins."
    )
    return "\n\n".join(("# ONNX ops", NOTE, head, table(("domain", "op", "from version"), rows)))


PAGES: dict[str, Callable[[], str]] = {"formats.md": formats, "torch_ops.md": torch_ops, "onnx_ops.md": onnx_ops}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        text, file = make() + "\n", FOLDER / name
        if check:
            stale += [] if file.is_file() and file.read_text(encoding="utf-8") == text else [name]
        else:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if stale:
        print(f"out of date: {', '.join(stale)}; run python scripts/support_tables.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

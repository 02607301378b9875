"""Verdicts for the tests of the reports: drawn by a seed, in the shapes and magnitudes that `isomorph.check` gives.

They are made of the dataclasses of `parity/verdict.py`, so that a renamed field breaks them.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isomorph.parity.verdict import (
    Case,
    Check,
    Counterexample,
    Distribution,
    Evidence,
    Located,
    Mismatch,
    ModuleError,
    ModuleProfile,
    Verdict,
)

STAGES = (
    ("structure", "eval", "float64", 24), ("precision", "eval", "float32", 24), ("structure", "train", "float64", 8),
    ("precision", "train", "float32", 8), ("randomised", "eval", "float64", 3), ("randomised", "train", "float64", 2),
)  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.7", "machine": "x86_64", "isomorph": "0.1.0", "torch": "2.13.0+cpu", "keras": "3.15.1",
    "tensorflow": "2.21.0", "numpy": "2.4.6", "tf_onednn": "1", "original.format": "torch", "original.device": "cpu",
    "converted.format": "keras", "converted.device": "cpu", "converted.keras_backend": "tensorflow",
}  # fmt: skip
TIMINGS = {
    "open": 0.31, "structure": 1.92, "precision": 1.07, "special": 0.18, "randomised": 0.44, "steps": 0.63,
    "relations": 0.21, "determinism": 0.09, "teeth": 0.27, "profile": 0.35,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A module of an invented net. owns: the names of its own parameters, without its path."""

    path: str
    kind: str
    owns: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(f"{self.path}.{name}" if self.path else name for name in self.owns)


def block(path: str) -> list[Part]:
    """Ten modules of a transformer block, each after its children: in order of execution."""
    both = ("weight", "bias")
    return [
        Part(f"{path}.norm1", "LayerNorm", both), Part(f"{path}.attn.qkv", "Linear", both),
        Part(f"{path}.attn.proj", "Linear", both), Part(f"{path}.attn", "Attention"),
        Part(f"{path}.norm2", "LayerNorm", both), Part(f"{path}.mlp.fc1", "Linear", both),
        Part(f"{path}.mlp.act", "GELU"), Part(f"{path}.mlp.fc2", "Linear", both), Part(f"{path}.mlp", "Mlp"),
        Part(path, "Block"),
    ]  # fmt: skip


def net(modules: int = 26) -> list[Part]:
    """A net of exactly so many modules, the model itself ("") included and last."""
    parts = [Part("stem", "Conv2d", ("weight", "bias"))]
    for index in range((modules - 4) // 10):
        parts += block(f"blocks.{index}")
    parts += [Part(f"extra.{index}", "Identity") for index in range(modules - 4 - len(parts) + 1)]
    return [*parts, Part("blocks", "Sequential"), Part("head", "Linear", ("weight", "bias")), Part("", "Net")]


def noise(draw: random.Random, scale: float) -> float:
    return scale * 2.0 ** draw.uniform(-1.5, 1.5)


def profile(draw: random.Random, parts: Sequence[Part], broken: str | None = None) -> tuple[ModuleProfile, ...]:
    """Error against the floor per module. broken: the module from which on the forward error is far above it; the
    gradients of those before it are."""
    found, at = [], next((i for i, p in enumerate(parts) if p.path == broken), None)
    for index, part in enumerate(parts):
        depth = 6e-8 * (1 + index / 8)
        floors = [noise(draw, depth), noise(draw, 2 * depth)]
        errors = [floor * draw.uniform(0.7, 1.6) for floor in floors]
        if at is not None:
            errors[0 if index >= at else 1] = noise(draw, 3e-2)
        silent = part.kind == "Identity"
        found.append(
            ModuleProfile(
                part.path, part.kind, "" if silent else part.path.replace(".", "/"), errors[0], floors[0],
                None if silent else errors[1], None if silent else floors[1], part.parameters,
            )
        )  # fmt: skip
    return tuple(found)


def evidence(draw: random.Random, parts: Sequence[Part], broken: Sequence[str] = ()) -> tuple[Evidence, ...]:
    """One line per stage and array. broken: names of parameters whose gradient differs."""
    arrays = [("output", "0", ""), ("input gradient", "x", "")]
    arrays += [("parameter gradient", name, part.path) for part in parts for name in part.parameters]
    found = []
    for stage, mode, dtype, count in STAGES:
        for quantity, name, module in arrays:
            floor = noise(draw, 4e-16 if dtype == "float64" else 1e-7)
            tolerance = 2.9e-11 if dtype == "float64" else 32 * floor
            wrong = name in broken
            error = noise(draw, 0.2) if wrong else floor * draw.uniform(0.6, 1.8)
            failed = count if wrong else 0
            found.append(
                Evidence(stage, quantity, name, mode, dtype, module, count, count - failed, failed, 0, 0, error,
                         tolerance, floor)
            )  # fmt: skip
    return tuple(found)


def checks(lines: Sequence[Evidence]) -> tuple[Check, ...]:
    """The evidence summed up, as the checks of a verdict are."""
    found = []
    for key in dict.fromkeys((e.stage, e.quantity, e.mode, e.dtype) for e in lines):
        picked = [e for e in lines if (e.stage, e.quantity, e.mode, e.dtype) == key]
        worst = max(picked, key=lambda e: e.error)
        numbers = [sum(getattr(e, n) for e in picked) for n in ("compared", "equal", "failed", "inconclusive")]
        found.append(
            Check(*key, *numbers, 0, len(picked), worst.error, worst.tolerance,  # type: ignore[arg-type]
                  1.07 if key[0] == "precision" else None)
        )  # fmt: skip
    return tuple(found)


def distributions(draw: random.Random, broken: bool = False) -> tuple[Distribution, ...]:
    """Histograms of log10 errors, bell-shaped; a second hill near 1 where something is broken."""
    edges = tuple(-18 + 0.5 * i for i in range(37))

    def hill(at: float, of: int) -> list[int]:
        return [round(of * 2.0 ** -(((edge - at) / 0.8) ** 2)) for edge in edges[:-1]]

    found = []
    for stage, dtype, at in (("structure", "float64", -15.8), ("precision", "float32", -7.3)):
        for quantity in ("output", "input gradient", "parameter gradient"):
            size = draw.randrange(2000, 90000)
            counts = hill(at + 0.1, size)
            if broken and quantity != "input gradient":
                counts = [a + b for a, b in zip(counts, hill(-1.5, size // 6), strict=True)]
            found.append(Distribution(stage, quantity, dtype, edges, tuple(counts), tuple(hill(at, size)), size // 9))
    return tuple(found)


def preview(height: int = 24, width: int = 32, channels: int = 3) -> dict[str, Any]:
    """A picture as the counterexample carries it: a gradient with a dark square."""
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            dark = 6 <= y < 14 and 8 <= x < 18
            pixels += bytes(0 if dark else int(255 * v) for v in (x / width, y / height, 0.6)[:channels])
    said = base64.b64encode(bytes(pixels)).decode()
    return {"width": width, "height": height, "channels": channels, "low": -1.0, "high": 1.0, "pixels": said}


def coverage(parts: Sequence[Part], **more: Any) -> dict[str, Any]:
    """What was and was not tested. more: replaces keys."""
    names = [name for part in parts for name in part.parameters]
    cases = [
        {"mode": mode, "case": {"distribution": kind, "seed": 17 * i, "sizes": [["b", 1 + i % 4]], "source": "drawn",
                                "weights": "own"}}
        for mode, count in (("eval", 24), ("train", 8))
        for i, kind in enumerate(("normal", "mixed", "grid", "large", "edge", "ties") * 4)
        if i < count
    ]  # fmt: skip
    return {
        "yardstick": "original", "reason": "", "level": "full", "dtype": "both", "seconds": sum(TIMINGS.values()),
        "modes": ["eval", "train"], "own_dtype": "float32", "cases": cases, "dims": {"b": [1, 2, 3, 4]},
        "teeth": [{"parameter": names[0] if names else "x", "relative_size": 0.001, "caught": True}],
        "modules": {"ran": [part.path for part in parts], "never": []}, "warnings": [], "not_checked": [],
        "untested_inputs": [], "chaotic": [], "excused": {}, "refused": [], "no_gradient": {},
        "inputs": ["x"], "outputs": ["0"], "buffers": {"compared": [], "absent": []}, "timings": dict(TIMINGS),
        "parameters": {"compared": names, "untested": [], "frozen": [], "chaotic": [], "tied": {}}, **more,
    }  # fmt: skip


def good(seed: int = 0, modules: int = 26, **more: Any) -> Verdict:
    """PASS."""
    draw, parts = random.Random(seed), net(modules)
    lines = evidence(draw, parts)
    return Verdict(
        "PASS", checks(lines), (), coverage(parts, **more), seed, ENVIRONMENT, {}, evidence=lines,
        modules=profile(draw, parts), distributions=distributions(draw),
    )  # fmt: skip


def bad(seed: int = 0, modules: int = 26, at: str = "blocks.1.mlp.act", kind: str = "GELU") -> Verdict:
    """FAIL: from the module `at` on; located, with a counterexample that has a picture, numbers and token ids."""
    draw, parts = random.Random(seed), net(modules)
    wrong = [name for name in ("stem.weight", "stem.bias", "blocks.0.norm1.weight") if modules > 10]
    lines = evidence(draw, parts, ["0", *wrong])
    modules_profile = profile(draw, parts, at)
    case = Case("mixed", 8889, (("b", 1),))
    found = [
        Mismatch("value", "output", "0", "eval", "float64", "", case, 0.0238, 2.7e-11, 0.2998, (0, 1), -0.103748753,
                 -0.127567403, 9, 10, 24)
    ]  # fmt: skip
    found += [
        Mismatch("value", "parameter gradient", name, "train", "float64", "", case, 0.41, 4.4e-11, 1.27, (0, 43),
                 0.4147916, 0.0, 111, 216, 8)
        for name in wrong
    ]  # fmt: skip
    return Verdict(
        "FAIL", checks(lines), tuple(found), coverage(parts), seed, ENVIRONMENT, {}, counterexample(case),
        (located(at, kind, modules_profile, "forward"), located(at, kind, modules_profile, "backward")), lines,
        modules_profile, distributions(draw, True),
    )  # fmt: skip


def counterexample(case: Case) -> Counterexample:
    """Three inputs: an image, a small matrix with its values, and token ids too many to list."""
    inputs = {
        "x": {"shape": [1, 3, 24, 32], "dtype": "float32", "nonzero": 2214, "values": None, "min": -1.0, "max": 0.97,
              "mean": 0.031, "preview": preview()},
        "scale": {"shape": [2, 3], "dtype": "float32", "nonzero": 4, "values": [0.0, 1.0, -2.5, 0.0, "nan", "inf"],
                  "min": -2.5, "max": "inf", "mean": "nan", "preview": None},
        "ids": {"shape": [4, 128], "dtype": "int64", "nonzero": 500, "values": None, "min": 0, "max": 30521,
                "mean": 8123.4, "preview": None},
    }  # fmt: skip
    return Counterexample("value", "output", "0", "eval", case, inputs, True, 83)


def located(at: str, kind: str, modules: Sequence[ModuleProfile], direction: str) -> Located:
    """Where the two part: the errors of the modules up to there are tiny."""
    index = next((i for i, m in enumerate(modules) if m.path == at), 0)
    errors = [
        ModuleError(m.path, m.kind, 0, m.counterpart, 2e-16 if m.path != at else 0.0117, 3e-16 if i < index else 0.0117,
                    2.9e-11)
        for i, m in enumerate(modules[max(0, index - 6) : index + 4], max(0, index - 6))
    ]  # fmt: skip
    causes = ("approximate='tanh', not 'none'", "gelu, not quick_gelu")
    return Located(direction, at, kind, at.replace(".", "/"), tuple(errors), causes, "2 modules have no counterpart")

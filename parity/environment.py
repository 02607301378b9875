"""Versions and settings that change numbers. No framework is imported for them: the runners say what they run on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata

from isomorph.parity.runners.base import Runner

__all__ = ["environment"]

PACKAGES = (
    "isomorph",
    "torch",
    "keras",
    "tensorflow",
    "jax",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "numpy",
    "hypothesis",
)


def environment(original: Runner | None = None, converted: Runner | None = None) -> dict[str, str]:
    """Installed versions, and what each runner says of its own side, under "original." and "converted."."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["tf_onednn"] = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1")
    for side, runner in (("original", original), ("converted", converted)):
        if runner is not None:
            about = runner.about()
            said: Mapping[str, str] = {"format": about.format, "device": about.device, **about.environment}
            found.update({f"{side}.{key}": value for key, value in said.items()})
    return found

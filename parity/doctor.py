"""`isomorph doctor`: what is installed, whether it fits, which devices there are, what each extra would add.

Versions are read from the installed metadata. The frameworks are started only to ask for devices, each in a process
of its own, so that a broken one is a line in the table and not the end of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from .console import Console

ADDS = {
    "hf": "hf:DIR sources (Hugging Face transformers)",
    "timm": "timm:NAME sources (torchvision is needed too, in the build that matches torch)",
    "onnx": "checks of .onnx files (ONNX Runtime)",
    "litert": "checks of .tflite files (LiteRT)",
    "onnx2tf": "another converter, whose models isomorph can judge (its pins clash: an environment of its own)",
    "report": "reports as HTML and JUnit XML",
    "tensorboard": "reports as TensorBoard events",
    "ray": "verification spread over several machines",
    "docs": "what the documentation's site is built with",
    "demo": "scripts/demo on scikit-learn's digits",
    "dev": "what the test suite and the package checks need",
}
TIMEOUT = 120
_DEVICES = {
    "torch": "import torch; d=['cpu']; "
    "d+=[f'cuda:{i} {torch.cuda.get_device_name(i)}' for i in range(torch.cuda.device_count())]; "
    "d+=['mps']*torch.backends.mps.is_available()",
    "tensorflow": "import tensorflow as tf; d=[x.name.removeprefix('/physical_device:') for x in "
    "tf.config.list_physical_devices()]",
    "jax": "import jax; d=[str(x) for x in jax.devices()]",
}


@dataclass(frozen=True)
class Package:
    """One requirement. `found` is None when it is not installed; `extra` is "" for what isomorph always needs."""

    name: str
    needed: str
    found: str | None
    fits: bool
    extra: str = ""


def run(options: argparse.Namespace, streams: Console) -> int:
    """Print the state of the installation; 4 when something that is always needed is missing or does not fit."""
    packages = requirements()
    devices = {} if options.no_devices else {name: ask_devices(name) for name in _DEVICES if _version(name)}
    broken = [p for p in packages if not p.extra and not p.fits]
    code = 4 if broken else 0
    if options.json:
        extras = sorted({p.extra for p in packages if p.extra})
        streams.json(
            {
                "schema": "isomorph.doctor/1",
                "status": "ERROR" if broken else "PASS",
                "exit_code": code,
                "isomorph": _version("isomorph"),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "keras_backend": os.environ.get("KERAS_BACKEND", ""),
                "packages": [asdict(p) for p in packages],
                "devices": devices,
                "extras": {
                    extra: {"adds": ADDS.get(extra, ""), "complete": _complete(extra, packages)} for extra in extras
                },
            }
        )
        return code
    _print(packages, devices, streams)
    for package in broken:
        state = f"{package.found} is installed" if package.found else "it is not installed"
        streams.message(
            f"isomorph: error: {package.name}{package.needed} is needed and {state}; "
            f"pip install '{package.name}{package.needed}'"
        )
    return code


def requirements() -> list[Package]:
    """Every requirement in isomorph's own metadata, with what is installed. Empty when isomorph itself has none
    (it runs from a checkout that was never installed)."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("isomorph") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        requirement = Requirement(text)
        match = re.search(r"extra\s*==\s*[\"']([\w.-]+)[\"']", str(requirement.marker or ""))
        extra = match[1] if match else ""
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        version = _version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        found.append(Package(requirement.name, str(requirement.specifier), version, fits, extra))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _complete(extra: str, packages: list[Package]) -> bool:
    return all(p.fits for p in packages if p.extra == extra)


def ask_devices(framework: str) -> list[str] | str:
    """The devices that the framework sees, or one line that says why it could not be asked."""
    code = f"{_DEVICES[framework]}; import json; print('\\ndevices' + json.dumps(d))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"did not answer within {TIMEOUT} s"
    answers = [line.removeprefix("devices") for line in done.stdout.splitlines() if line.startswith("devices")]
    if done.returncode == 0 and answers:
        devices: list[str] = json.loads(answers[-1])
        return devices
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"cannot be imported: {last}"


def _print(packages: list[Package], devices: dict[str, Any], streams: Console) -> None:
    from rich.table import Table

    streams.line(
        f"isomorph {_version('isomorph') or '(not installed: running from a checkout)'}, "
        f"Python {platform.python_version()}, {platform.platform()}, "
        f"Keras backend {os.environ.get('KERAS_BACKEND', '')}"
    )
    for title, shown in (
        ("needed", [p for p in packages if not p.extra]),
        ("extras", [p for p in packages if p.extra]),
    ):
        if not shown:
            continue
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("package", "wanted", "found") if title == "needed" else ("extra", "package", "wanted", "found"):
            table.add_column(column)
        for p in shown:
            state = p.found or "-"
            row = (p.name, p.needed, state if p.fits or not p.found else f"{state} does not fit")
            table.add_row(*(row if title == "needed" else (p.extra, *row)))
        streams.table(table)
    for extra in sorted({p.extra for p in packages if p.extra}):
        if not _complete(extra, packages):
            streams.line(f"pip install 'isomorph[{extra}]' adds: {ADDS.get(extra, '')}")
    for name, answer in devices.items():
        streams.line(f"{name}: {answer if isinstance(answer, str) else ', '.join(answer)}")

"""Results that need not be reached again: one file for each, under the hash of everything that they depend on.

A key is the SHA-256 of a canonical JSON text: the models (`identity.of_model`), the settings, isomorph's own sources,
the interpreter, every installed distribution, the variables that the frameworks read, and the machine. Where one of
them changes there is another key. Beside that, an entry names the files that were read for it (`reads`), and holds only
as long as they do. It is written as soon as its task has ended, whole or not at all, so that a run that was interrupted
goes on from there. Only what was decided is kept: an error may pass.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.gate.reads import state
from isomorph.parity.record import Result

__all__ = [
    "DECIDED",
    "Cache",
    "environment_facts",
    "hash_of",
    "key_of",
    "machine_facts",
    "software",
    "sources_sha256",
    "variables",
]

SCHEMA = "isomorph.cache/1"
DECIDED = ("PASS", "FAIL", "NOTHING_COMPARED", "BUDGET")
# What the frameworks and the linear algebra below them read; how much they say is no matter.
_PREFIXES = ("KERAS_", "TF_", "XLA_", "JAX_", "TORCH_", "PYTORCH_", "CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_",
             "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_")  # fmt: skip
_SILENT = ("TF_CPP_MIN_LOG_LEVEL", "TF_CPP_VMODULE", "TF_CPP_MAX_VLOG_LEVEL", "TORCH_LOGS")
# Of another interpreter: the same two lists as of this one.
_ELSEWHERE = (
    "import json, sys; from importlib import metadata; "
    "print(json.dumps([sys.version, sorted(f'{d.name}=={d.version}' for d in metadata.distributions())]))"
)


class Cache:
    """A folder of results. fresh: those that are there are not read, new ones are kept all the same. trouble: why
    something could not be kept, "" where everything was."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder, self._fresh = folder, fresh
        self.trouble = ""

    def get(self, key: str | None, folder: Path) -> Result | None:
        """What is kept under a key. folder: of the task. None: nothing is, the entry is damaged, what was read for it
        is another by now, or files that belong to it are gone."""
        if key is None or self._fresh:
            return None
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
            said = {"key": key, "read": entry["read"], "result": entry["result"]}
            if entry != {"schema": SCHEMA, "sha256": hash_of(said), **said}:
                return None
            result = Result.from_dict(entry["result"])
            if any(state(_whole(name, folder)) != before for name, before in entry["read"].items()):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
            return None
        whole = result.status in DECIDED and all(Path(path).exists() for path in result.artifacts.values())
        return result if whole else None

    def put(
        self, key: str | None, folder: Path, result: Result, read: Sequence[str] = (), since: float = math.inf
    ) -> None:
        """Keep it, if it was decided and can be kept. folder: of the task. read: the files that were read for it; where
        one was written to after `since` (as time.time), nobody can say what the result is of."""
        if key is None or result.status not in DECIDED:
            return
        from isomorph.parity.cli_convert import write_text

        said = {"key": key, "result": json.loads(json.dumps(result.to_dict(), default=str))}
        file = self._file(key)
        try:
            if any(_written(path) > since for path in read):
                return
            said["read"] = {_within(path, folder): state(path) for path in read}
            entry = {"schema": SCHEMA, "sha256": hash_of(said), **said}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(entry))
        except OSError as error:
            self.trouble = f"{error.filename or file}: {error.strerror or error}"
        except UsageError as error:
            self.trouble = str(error)

    def _file(self, key: str) -> Path:
        return self.folder / "results" / key[:2] / f"{key}.json"


def _written(path: str) -> float:
    """When it was written to, or the link to it was; a folder, when a name in it was made or taken away."""
    return max(os.stat(path).st_mtime, os.lstat(path).st_mtime) if os.path.exists(path) else -math.inf


def _whole(name: str, folder: Path) -> str | Path:
    return name if name.startswith("$") else folder / name


def _within(path: str, folder: Path) -> str:
    """From the folder, where it lies below it: a folder may be moved."""
    full = folder.resolve()
    return Path(path).relative_to(full).as_posix() if Path(path).is_relative_to(full) else path


def key_of(settings: Mapping[str, Any], identity: Any, *facts: Any) -> str | None:
    """settings: of the task. identity: of its models, None where nobody can say: then there is no key."""
    return None if identity is None else hash_of([settings, identity, *facts])


def hash_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def sources_sha256() -> str:
    """The hash of isomorph's own code: paths and bytes of its Python files."""
    import isomorph.convert
    import isomorph.parity

    found = hashlib.sha256()
    for package in (isomorph, isomorph.convert, isomorph.parity):
        top = Path(next(iter(package.__path__)))
        for file in sorted(top.rglob("*.py")):
            found.update(f"{package.__name__}/{file.relative_to(top).as_posix()}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def environment_facts(python: str | None = None) -> dict[str, Any]:
    """What a result depends on beside its models. python: the interpreter of the task's workers, where it has one."""
    return {**_own_facts(), "variables": variables(), "elsewhere": None if python is None else _elsewhere(python)}


@cache
def _own_facts() -> dict[str, Any]:
    distributions = sorted({f"{found.name}=={found.version}" for found in metadata.distributions()})
    return {
        "isomorph": sources_sha256(), "python": sys.version, "distributions": distributions,
        "system": [platform.system(), platform.machine()], "processor": _processor(),
        "gpus": _gpus(),
    }  # fmt: skip


@cache
def software() -> dict[str, str]:
    """The versions that a record names, and the hash of isomorph's own sources."""
    from isomorph.parity.environment import environment

    return {**environment(), "isomorph_sources": sources_sha256()}


def machine_facts() -> dict[str, Any]:
    """What figures of time and memory depend on, beside `environment_facts`."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = [line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemTotal")]
    return {"cores": affinity, "memory": memory}


def variables() -> dict[str, str]:
    """Of the environment, those that the frameworks read."""
    return {
        name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) and name not in _SILENT
    }  # fmt: skip


@cache
def _elsewhere(python: str) -> Any:
    """Version and distributions of another interpreter; where it cannot say, what is never the same again."""
    try:
        said = subprocess.run([python, "-c", _ELSEWHERE], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(said.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return os.urandom(16).hex()


def _processor() -> str:
    """The model of the processor: kernels are chosen by it."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _gpus() -> list[str]:
    """The driver and the models of NVIDIA's GPUs, where there are any."""
    folder = Path("/proc/driver/nvidia")
    models = [line for file in sorted(folder.glob("gpus/*/information")) for line in _lines(file)]
    return _lines(folder / "version")[:1] + [line.split(":", 1)[1].strip() for line in models if "Model" in line]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []

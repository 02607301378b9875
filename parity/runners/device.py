"""Where a model runs, and the settings under which the numbers of a GPU can be compared: full precision in float32,
deterministic kernels where there are any, memory taken as it is needed. All of it is recorded.

Keras' backends are settled in keras_device.py, and in the environment of a worker. No framework is imported at the top:
a check of two others must not need it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from isomorph.convert.errors import UsageError
from isomorph.parity.runners.spec import ModelSpec

__all__ = [
    "child_environment",
    "described",
    "in_child",
    "is_gpu",
    "keras_backend",
    "require_torch",
    "torch_facts",
    "torch_settings",
]

_HIDDEN = ("", "-1", "none", "NoDevFiles")
# Of every worker. NVIDIA_TF32_OVERRIDE=0 forbids TF32 to cuBLAS and cuDNN, whoever calls them; XLA has kernels of its
# own, for which the precision of a product is set. cuBLAS is deterministic with a fixed workspace only.
_COMPARABLE = {
    "NVIDIA_TF32_OVERRIDE": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TF_CUDNN_DETERMINISTIC": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_ENABLE_X64": "1",  # else JAX makes float64 into float32 without a word
}
_XLA = "--xla_gpu_deterministic_ops=true"


def is_gpu(device: str) -> bool:
    """Whether "cuda" or "cuda:N". UsageError: it is not "cpu" either."""
    if re.fullmatch(r"cuda(:\d+)?", device):
        return True
    if device == "cpu":
        return False
    raise UsageError(f"device {device!r} is not known; give cpu, cuda or cuda:N")


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def keras_backend() -> str:
    """The backend that Keras has in this process, or will have once it is imported. Does not import it."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend"):
        return str(keras.backend.backend())
    named = os.environ.get("KERAS_BACKEND")
    if named:
        return named
    import json

    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError):
        return "tensorflow"


# --- workers ------------------------------------------------------------------------------------------------------


def child_environment(spec: ModelSpec) -> dict[str, str]:
    """The variables of a worker: the one device that it may see, Keras' backend, and what makes numbers comparable.

    UsageError: CUDA_VISIBLE_DEVICES hides the GPU that is asked for.
    """
    env = dict(_COMPARABLE)
    if spec.backend:
        env["KERAS_BACKEND"] = spec.backend
    if not is_gpu(spec.device):
        return {**env, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    index, visible = _index(spec.device), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        env["CUDA_VISIBLE_DEVICES"] = str(index)
    else:
        names = [name.strip() for name in visible.split(",") if name.strip() not in _HIDDEN]
        if index >= len(names):
            raise UsageError(
                f"device {spec.device} is not there: CUDA_VISIBLE_DEVICES={visible!r} leaves {len(names)} GPU(s)"
            )
        env["CUDA_VISIBLE_DEVICES"] = names[index]
    env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA}".strip()
    return env


def in_child(device: str) -> str:
    """A worker's name for the device: it sees one GPU only."""
    return "cuda:0" if is_gpu(device) else "cpu"


def described(spec: ModelSpec) -> dict[str, str]:
    """The variables of a worker that change numbers, for `About.environment`."""
    env = child_environment(spec)
    shown = ["KERAS_BACKEND", *(["JAX_ENABLE_X64"] if spec.backend == "jax" else [])] if spec.backend else []
    if is_gpu(spec.device):
        shown += [
            "CUDA_VISIBLE_DEVICES",
            "NVIDIA_TF32_OVERRIDE",
            "JAX_DEFAULT_MATMUL_PRECISION",
            "TF_CUDNN_DETERMINISTIC",
        ]
    return {name: env[name] for name in (*shown, "XLA_FLAGS") if name in env}


# --- this process -------------------------------------------------------------------------------------------------


def require_torch(device: str) -> None:
    """UsageError: torch does not see the device."""
    if not is_gpu(device):
        return
    import torch

    count = torch.cuda.device_count()
    if _index(device) >= count:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={hidden!r})" if hidden is not None else ""
        raise UsageError(f"device {device} is not there: torch sees {count or 'no'} GPU(s){why}; use cpu")


@contextlib.contextmanager
def torch_settings(device: str, recurrent: bool = False) -> Iterator[None]:
    """On a GPU: no TF32, no reductions in half precision, deterministic kernels where there are any. Put back
    afterwards; on the CPU nothing is changed.

    recurrent: whether the module has recurrent layers. cuDNN's draw their dropout out of sight and have no gradient in
    eval mode; without cuDNN they run as torch's own operators.
    """
    if not is_gpu(device):
        yield
        return
    import warnings

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    matmul = torch.backends.cuda.matmul
    names = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = {name: getattr(matmul, name) for name in names}
    strict, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # read when the process first uses cuBLAS; a value that is set stays
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _COMPARABLE["CUBLAS_WORKSPACE_CONFIG"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        stack.enter_context(
            torch.backends.cudnn.flags(
                enabled=not recurrent, benchmark=False, deterministic=True, allow_tf32=False
            )
        )  # fmt: skip
        # fused attention draws its dropout out of sight, and in an order of its own
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.use_deterministic_algorithms, strict, warn_only=warned)
        for name, value in before.items():
            stack.callback(setattr, matmul, name, value)
        for name in names:
            setattr(matmul, name, False)
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield


def torch_facts(device: str) -> dict[str, str]:
    """What is recorded of torch on a device, for `About.environment`: versions, and what `torch_settings` sets."""
    import torch

    found = {"torch": str(torch.__version__)}
    if is_gpu(device):
        found |= {
            "gpu": torch.cuda.get_device_name(_index(device)), "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()), "tf32": "off", "reduced_precision_reduction": "off",
            "deterministic": "where kernels exist", "attention": "math",
        }  # fmt: skip
    return found

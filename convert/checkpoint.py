"""Weights files: read without running code, and fitted to a module by name and shape.

Formats: .safetensors (also with a *.safetensors.index.json), .pt, .pth, .ckpt, .bin (torch.save, read with
`weights_only=True`: a file that needs more than tensors and plain containers is refused).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import UsageError, WeightError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".safetensors.index.json")

# Where training scripts keep the state dict inside a checkpoint (Lightning, timm, fairseq, ...), tried in order.
_CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
# What wrappers put before each name: DataParallel, torch.compile, Lightning's attribute.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "_forward_module.")
_LISTED = 20


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, on the CPU, with no prefix removed yet.

    UsageError: no such file, an unknown suffix, a file that cannot be read, or one that would run code.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"weights: {path}: no such file")
    if not path.is_file():
        raise UsageError(f"weights: {path} is not a file; give one of {', '.join(SUFFIXES)}")
    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"weights: {path}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    try:
        if path.name.endswith(".index.json"):
            return _read_sharded(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _find_state_dict(torch.load(path, map_location="cpu", weights_only=True), path)
    except PermissionError as error:
        raise UsageError(f"weights: {path}: permission denied") from error
    except pickle.UnpicklingError as error:
        raise UsageError(_refusal(path, error)) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"weights: {path} cannot be read: {_first_line(error)}") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, torch.Tensor] = load_file(path, device="cpu")
        return state
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file ({_first_line(error)})") from error


def _read_sharded(index: Path) -> dict[str, torch.Tensor]:
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    state: dict[str, torch.Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"the shard {shard!r} does not lie beside the index")
        state.update(_read_safetensors(index.parent / shard))
    return state


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    text = str(error)
    if "Unsupported global" in text or "WeightsUnpickler" in text or "weights_only" in text.lower():
        wanted = text.split("GLOBAL ", 1)[1].split(" ", 1)[0] if "GLOBAL " in text else ""
        what = f" ({wanted})" if wanted else ""
        return (
            f"weights: {path}: refused, reading it would run code{what}; "
            "save the tensors alone: torch.save(model.state_dict(), ...) or safetensors"
        )
    return f"weights: {path} cannot be read: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _find_state_dict(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(loaded, Mapping):
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        for container in _CONTAINERS:
            inner = loaded.get(container)
            if isinstance(inner, Mapping) and any(isinstance(v, torch.Tensor) for v in inner.values()):
                return _find_state_dict(inner, path)
        if tensors:
            return tensors
    raise UsageError(
        f"weights: {path} holds no state dict (found {type(loaded).__name__}); "
        "expected tensors by name, or a dict with one under 'state_dict' or 'model'"
    )


def load_weights(module: torch.nn.Module, path: str | Path) -> None:
    """Load a weights file into `module`, completely or not at all.

    WeightError lists, in one message, every missing, unexpected and wrongly shaped entry.
    """
    state = read_state_dict(path)
    fit_state_dict(module, state, str(path))


def fit_state_dict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy `state` into `module` after removing wrappers' prefixes; all names and shapes must fit."""
    expected = {k: v for k, v in module.state_dict(keep_vars=True).items() if isinstance(v, torch.Tensor)}
    fitted = _strip_prefixes(state, set(expected))
    by_identity: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        by_identity.setdefault(id(tensor), []).append(name)

    missing = [
        name
        for name, tensor in expected.items()
        if name not in fitted
        # A tied parameter is stored once, under whichever name the writer kept.
        and not any(twin in fitted for twin in by_identity[id(tensor)])
        # Files older than PyTorch 0.4.1 do not have the counter; torch itself starts it at zero then.
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in fitted if name not in expected]
    wrong = [
        f"{name}: {problem}"
        for name, tensor in fitted.items()
        if name in expected and (problem := _mismatch(tensor, expected[name]))
    ]
    if missing or unexpected or wrong:
        parts = [
            f"{len(names)} {kind}: {_listing(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", wrong))
            if names
        ]
        hint = "; is it the checkpoint of another model?" if not expected.keys() & fitted.keys() else ""
        raise WeightError(f"weights: {where} does not fit {type(module).__name__}: {'; '.join(parts)}{hint}")
    with torch.no_grad():
        for name, tensor in fitted.items():
            expected[name].copy_(tensor.reshape(expected[name].shape))


def _mismatch(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """Why `found` cannot be copied into `wanted`, or "". BatchNorm's counter is stored as () or (1,)."""
    if found.shape != wanted.shape and not (found.numel() == wanted.numel() == 1):
        return f"has shape {tuple(found.shape)}, the module wants {tuple(wanted.shape)}"
    if _kind(found) != _kind(wanted):
        return f"has dtype {_name(found)}, the module wants {_name(wanted)}"
    return ""


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "integer"


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listing(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _strip_prefixes(state: Mapping[str, torch.Tensor], expected: set[str]) -> dict[str, torch.Tensor]:
    """The renaming (prefixes removed from every name that bears them) under which most names are expected ones.

    Fewest removals win a tie, so that a module that really has a child called "model" keeps its names.
    """
    best = dict(state)
    best_hits = _hits(best, expected)
    frontier = [best]
    while frontier:
        candidate = frontier.pop()
        for prefix in _PREFIXES:
            if not any(name.startswith(prefix) for name in candidate):
                continue
            stripped = {name.removeprefix(prefix): tensor for name, tensor in candidate.items()}
            if len(stripped) != len(candidate):
                continue
            hits = _hits(stripped, expected)
            if hits > best_hits:
                best, best_hits = stripped, hits
            frontier.append(stripped)
    return best


def _hits(state: Mapping[str, torch.Tensor], expected: set[str]) -> int:
    return sum(name in expected for name in state)

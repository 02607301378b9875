"""`hf:DIR`: a local directory of Hugging Face transformers, its class read from config.json, its inputs from the class.

Never the network, never code from the directory (`trust_remote_code` stays off).
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .checkpoint import fit_state_dict, read_state_dict
from .errors import IsomorphError, UsageError, WeightError
from .examples import build_examples
from .inputspec import InputSpec, parse_all
from .sources import Source

_LISTED = 20
# Set before transformers is imported: it reads them once.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def load_hf(directory: str, weights: str | Path | None, specs: Sequence[InputSpec], seed: int) -> Source:
    """The model of `directory` in the class that its config names, without caches, with inputs of dynamic batch
    and length. UsageError: no such directory or config; a class that transformers lacks; weights that do not fit."""
    path = Path(directory)
    architecture = _architecture(path)
    os.environ.update(_OFFLINE)
    try:
        import transformers
    except ImportError as error:
        raise UsageError("hf: transformers is not installed: pip install 'isomorph[hf]'") from error
    cls = getattr(transformers, architecture, None)
    if cls is None:
        raise UsageError(
            f"hf:{directory}: transformers {transformers.__version__} has no class {architecture!r}; "
            "for a model with its own code, import that code and give pkg.module:factory"
        )
    module = _load(cls, path, weights)
    notes = _make_exportable(module)
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    if dtype in (torch.float16, torch.bfloat16):
        notes += (f"the checkpoint is in {str(dtype).removeprefix('torch.')}; --dtype float32 widens it",)
    examples = build_examples(module, specs or default_inputs(module, directory), seed, any_keyword=False)
    return Source(
        module,
        examples.args,
        examples.kwargs,
        examples.dynamic_shapes,
        f"hf:{directory}",
        ranges=examples.ranges,
        bounds=examples.bounds,
        notes=notes,
    )


def _architecture(path: Path) -> str:
    if not path.is_dir():
        raise UsageError(
            f"hf:{path}: no such directory; hf: takes a local one (fetch it first: hf download {path} --local-dir DIR)"
        )
    config = path / "config.json"
    if not config.is_file():
        raise UsageError(f"hf:{path}: it has no config.json; is it a directory of save_pretrained?")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        architectures = content.get("architectures") or []
    except (ValueError, AttributeError, OSError) as error:
        raise UsageError(f"hf:{config} cannot be read: {error}") from error
    if not architectures:
        raise UsageError(f'hf:{config} names no class; add for example "architectures": ["BertModel"]')
    return str(architectures[0])


def _load(cls: Any, path: Path, weights: str | Path | None) -> torch.nn.Module:
    offline = {"local_files_only": True, "trust_remote_code": False}
    try:
        if weights is not None:
            module = cls(cls.config_class.from_pretrained(path, **offline))
            fit_state_dict(module, read_state_dict(weights), str(weights))
            return module.eval()  # type: ignore[no-any-return]
        module, info = cls.from_pretrained(path, **offline, output_loading_info=True, ignore_mismatched_sizes=True)
    except IsomorphError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"hf:{path} cannot be loaded as {cls.__name__}: {lines[0]}") from error
    # transformers fills what is missing or wrongly shaped with random numbers and goes on; here that is an error.
    wrong = [
        f"{n} has shape {tuple(found)}, the module wants {tuple(want)}" for n, found, want in info["mismatched_keys"]
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(sorted(names)[:_LISTED])}"
        for kind, names in (("missing", list(info["missing_keys"])), ("wrongly shaped", wrong))
        if names
    ]
    if problems:
        raise WeightError(f"weights: {path} does not fit {cls.__name__}: {'; '.join(problems)}")
    return module.eval()  # type: ignore[no-any-return]


def _make_exportable(module: torch.nn.Module) -> tuple[str, ...]:
    """Switch off what no graph can hold, in every config and module of the tree (encoders and decoders keep copies):
    caches, and randomness that Python branches on. The second changes training, so the user is told."""
    notes: list[str] = []
    for owner in (*_configs(module), *module.modules()):
        # Decoders return cache objects otherwise, which torch.export refuses.
        if getattr(owner, "use_cache", None) is True:
            owner.use_cache = False
        if getattr(owner, "apply_spec_augment", None) is True:
            owner.apply_spec_augment = False
            notes.append("SpecAugment is off: transformers draws its masks with numpy, outside the graph")
        for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
            if isinstance(rate := getattr(owner, name, None), float) and rate > 0:
                setattr(owner, name, 0.0)
                notes.append(f"LayerDrop is off (it was {rate}): transformers branches on a random number in Python")
    return tuple(dict.fromkeys(notes))


def _configs(module: torch.nn.Module) -> list[Any]:
    found: dict[int, Any] = {}
    for child in module.modules():
        config: Any = getattr(child, "config", None)
        if hasattr(config, "to_dict"):
            for part in [config, *vars(config).values()]:
                if hasattr(part, "to_dict"):
                    found[id(part)] = part
    return list(found.values())


def default_inputs(module: torch.nn.Module, where: str) -> tuple[InputSpec, ...]:
    """The inputs of a transformers model: text [b,s], images [b,c,h,w] (batch n beside text), audio [b,...], and the
    decoder's ids [b,t]."""
    config: Any = module.config
    parameters = inspect.signature(module.forward).parameters
    text = getattr(config, "text_config", None) or config.get_text_config(decoder=False)
    specs: list[str] = []
    if "input_ids" in parameters:
        specs.append(f"input_ids=int64[b,s]:0..{text.vocab_size - 1}")
        if "attention_mask" in parameters:
            specs.append("attention_mask=int64[b,s]:0..1")
        types = getattr(text, "type_vocab_size", 0) or 0
        if "token_type_ids" in parameters and types > 1:
            specs.append(f"token_type_ids=int64[b,s]:0..{types - 1}")
    if "pixel_values" in parameters:
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        batch = "n" if specs else "b"
        specs.append(f"pixel_values=float32[{batch},{getattr(vision, 'num_channels', 3)},{height},{width}]")
    if "input_values" in parameters:
        specs.append(f"input_values=float32[b,samples={_shortest_audio(config)}..]")
    if "input_features" in parameters:
        frames = 2 * getattr(config, "max_source_positions", 1500)
        specs.append(f"input_features=float32[b,{getattr(config, 'num_mel_bins', 80)},{frames}]")
    if "decoder_input_ids" in parameters and getattr(config, "is_encoder_decoder", False):
        vocabulary = config.get_text_config(decoder=True).vocab_size
        specs.append(f"decoder_input_ids=int64[b,t]:0..{vocabulary - 1}")
    if not specs:
        raise UsageError(f"hf:{where}: the inputs of {type(module).__name__} are not known here; give them as --input")
    return parse_all(specs)


def _shortest_audio(config: Any, frames: int = 4) -> int:
    """Samples that the feature encoder's convolutions turn into `frames` frames."""
    samples = frames
    layers = zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=False)
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return max(samples, 2)

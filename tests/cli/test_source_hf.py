"""hf:DIR with tiny configs: the right class, weights that must fit, inputs that torch.export takes with free dims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from isomorph.convert.errors import UsageError, WeightError
from isomorph.convert.sources import Source, load_source

pytestmark = pytest.mark.hf

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
NO_WORDS = {k: v for k, v in SMALL.items() if k not in ("vocab_size", "max_position_embeddings")}
SEQ2SEQ: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 50,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
TEXT = {"input_ids": {0: "b", 1: "s"}, "attention_mask": {0: "b", 1: "s"}}
IMAGE = {"pixel_values": {0: "b"}}

# class -> (config class, its arguments, the dynamic shapes that must come out)
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "BertModel": ("BertConfig", SMALL, {**TEXT, "token_type_ids": {0: "b", 1: "s"}}),
    "RobertaModel": ("RobertaConfig", {**SMALL, "type_vocab_size": 1}, TEXT),
    "DistilBertModel": ("DistilBertConfig", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}, TEXT),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "vocab_size": 50,
            "n_positions": 64,
            "eos_token_id": 1,
            "bos_token_id": 0,
        },
        TEXT,
    ),
    "LlamaForCausalLM": ("LlamaConfig", {**SMALL, "num_key_value_heads": 1}, TEXT),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50},
        {**TEXT, "decoder_input_ids": {0: "b", 1: "t"}},
    ),
    "BartForConditionalGeneration": (
        "BartConfig",
        {**SEQ2SEQ, "max_position_embeddings": 64, "encoder_layerdrop": 0.1},
        {**TEXT, "decoder_input_ids": {0: "b", 1: "t"}},
    ),
    "ViTForImageClassification": ("ViTConfig", {**NO_WORDS, "image_size": 16, "patch_size": 8}, IMAGE),
    "CLIPModel": (
        "CLIPConfig",
        {
            "text_config": {**SMALL, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
            "vision_config": {**NO_WORDS, "image_size": 16, "patch_size": 8},
            "projection_dim": 8,
        },
        {**TEXT, "pixel_values": {0: "n"}},
    ),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {
            "image_size": 64,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1] * 4,
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        IMAGE,
    ),
    "Wav2Vec2ForCTC": (
        "Wav2Vec2Config",
        {
            **NO_WORDS,
            "vocab_size": 50,
            "conv_dim": (8, 8),
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        },
        {"input_values": {0: "b", 1: "samples"}},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
        {"input_features": {0: "b"}, "decoder_input_ids": {0: "b", 1: "t"}},
    ),
}


def save(architecture: str, directory: Path) -> torch.nn.Module:
    import transformers

    config, options, _ = MODELS[architecture]
    torch.manual_seed(0)
    model: torch.nn.Module = getattr(transformers, architecture)(getattr(transformers, config)(**options))
    model.save_pretrained(directory)
    return model.eval()


def outputs(source: Source) -> list[torch.Tensor]:
    source.module.eval()
    with torch.no_grad():
        return torch.utils._pytree.tree_leaves(source.module(*source.args, **source.kwargs))


@pytest.mark.parametrize(
    "architecture", [name if name == "BertModel" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_class_weights_and_inputs(architecture: str, tmp_path: Path) -> None:
    model = save(architecture, tmp_path)
    source = load_source(f"hf:{tmp_path}")
    assert type(source.module).__name__ == architecture
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.module.state_dict().items())
    given = {name: axes for name, axes in source.dynamic_shapes.items() if axes}
    assert given == MODELS[architecture][2]
    assert not source.module.training
    free = {
        n: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) if axes else None for n, axes in source.dynamic_shapes.items()
    }
    for training in (False, True):
        source.module.train(training)
        program = torch.export.export(source.module, source.args, source.kwargs, dynamic_shapes=free, strict=False)
        assert len(program.graph_signature.user_inputs) == len(source.args) + len(source.kwargs)


def test_what_training_loses_is_said(tmp_path: Path) -> None:
    save("Wav2Vec2ForCTC", tmp_path)
    notes = " ".join(load_source(f"hf:{tmp_path}").notes)
    assert "SpecAugment is off" in notes
    assert "LayerDrop is off" in notes


def test_the_users_inputs_win(tmp_path: Path) -> None:
    save("BertModel", tmp_path)
    source = load_source(f"hf:{tmp_path}", inputs=["input_ids=int64[2,s]"])
    assert len(source.args) == 1
    assert source.dynamic_shapes == {"input_ids": {1: "s"}}
    assert source.bounds == {"input_ids": (0, 49)}, "found out from the embedding"
    with pytest.raises(UsageError, match="has no argument 'pixels'"):
        load_source(f"hf:{tmp_path}", inputs=["pixels=int64[2,s]"])


def test_other_weights(tmp_path: Path) -> None:
    model = save("BertModel", tmp_path)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    source = load_source(f"hf:{tmp_path}", weights=tmp_path / "w.pt")
    assert not any(p.abs().sum() for p in source.module.parameters())
    assert not outputs(source)[0].any()


def test_a_missing_weight_is_not_filled_with_random_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save("BertModel", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    gone = state.pop("encoder.layer.0.output.dense.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightError, match=r"1 missing: encoder\.layer\.0\.output\.dense\.weight"):
        load_source(f"hf:{tmp_path}")
    save_file(
        {**state, "encoder.layer.0.output.dense.weight": gone[:, :3].contiguous()},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UsageError, match=r"dense\.weight has shape \(16, 3\), the module wants \(16, 32\)"):
        load_source(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has no config.json"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "names no class"),
        ('{"architectures": ["NoSuchModel"]}', "has no class 'NoSuchModel'"),
        ('{"architectures": ["BertModel"], "model_type": "bert"}', "cannot be loaded as BertModel"),
    ],
)
def test_bad_directories(config: str | None, says: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UsageError, match=says) as caught:
        load_source(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_code_in_the_directory_does_not_run(tmp_path: Path) -> None:
    save("BertModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    load_source(f"hf:{tmp_path}")
    assert not (tmp_path / "it_ran").exists()

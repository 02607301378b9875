"""ONNX files that others made, out of packages on PyPI: in torch they say what they say in ONNX Runtime, on inputs they
were made for, and their gradients are right."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isomorph.convert.onnx_in.api import to_torch
from tests.convert.onnx_signals import chord, line_of_text, page, speech, tokens

VAD = "silero_vad/data/"
OCR = "rapidocr_onnxruntime/models/"
MAGIKA = "magika/models/standard_v3_3/model.onnx"
PITCH = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
DETECTOR, RECOGNISER = f"{OCR}ch_PP-OCRv4_det_infer.onnx", f"{OCR}ch_PP-OCRv4_rec_infer.onnx"
CLASSIFIER = f"{OCR}ch_ppocr_mobile_v2.0_cls_infer.onnx"

CLOSE = 2e-5  # of the largest value: float32 sums taken in another order
WINDOWS = {16000: (512, 64), 8000: (256, 32)}  # new samples, and those repeated from the window before


def file_of(name: str) -> Path:
    """A file of an installed package, which is not imported. Skips where it is not there."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [Path(place) / inside for place in places if (Path(place) / inside).is_file()]
    if not found:
        pytest.skip(f"needs the file {inside} of the package {package} (scripts/setup dev installs it)")
    return found[0]


@cache
def converted(name: str) -> Any:
    return to_torch(file_of(name))


def in_torch(name: str, *arrays: Any) -> list[Any]:
    import torch

    with torch.no_grad():
        results = converted(name).module(*(torch.from_numpy(np.array(a)) for a in arrays))
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


@cache
def session(name: str) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return runtime.InferenceSession(str(file_of(name)), options, providers=["CPUExecutionProvider"])


def in_runtime(name: str, *arrays: Any) -> list[Any]:
    opened = session(name)
    result: list[Any] = opened.run(None, dict(zip([i.name for i in opened.get_inputs()], arrays, strict=True)))
    return result


def alike(name: str, *arrays: Any) -> list[Any]:
    """The outputs, the same in both: as close as sums in float32 are, or as ONNX Runtime is to itself when each input
    moves by its last digit (the detector ends in a sigmoid fifty times as steep)."""
    ours, theirs = in_torch(name, *arrays), in_runtime(name, *arrays)
    assert [(o.shape, o.dtype) for o in ours] == [(t.shape, t.dtype) for t in theirs]
    for i, (output, wanted) in enumerate(zip(ours, theirs, strict=True)):
        assert np.isfinite(wanted).all()
        error, allowed = np.abs(output - wanted).max(), CLOSE * np.abs(wanted).max()
        if error > allowed:
            sign = np.random.default_rng(0).choice([-1.0, 1.0], arrays[0].shape)
            nudged = [(a * (1 + 2**-23 * sign)).astype(a.dtype) if k == 0 else a for k, a in enumerate(arrays)]
            allowed = 4 * np.abs(in_runtime(name, *nudged)[i] - wanted).max()
        assert error <= allowed
    return ours


@pytest.mark.parametrize("rate", WINDOWS)
@pytest.mark.parametrize("file", ["silero_vad.onnx", "silero_vad_op18_ifless.onnx"])
def test_speech_is_heard_window_by_window(file: str, rate: int) -> None:
    """LSTM and If: two seconds with a pause, the state handed on."""
    name = VAD + file
    order = [i.name for i in session(name).get_inputs()]
    size, overlap = WINDOWS[rate]
    sound, heard = speech(rate, 2.0), []
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros((1, overlap), np.float32)
    for start in range(0, len(sound) - size + 1, size):
        window = np.concatenate([before, sound[None, start : start + size]], axis=1)
        given = {"input": window, "state": state, "sr": np.array(rate, np.int64)}
        probability, state = alike(name, *(given[n] for n in order))
        before = window[:, -overlap:]
        heard.append(float(probability[0, 0]))
    assert max(heard) > 0.8  # it is speech to it
    assert min(heard) < 0.1  # and the pause is none


@pytest.mark.parametrize("batch", [1, 3])
def test_several_voices_at_once(batch: int) -> None:
    sounds = np.stack([speech(16000, 0.1, seed)[:576] for seed in range(batch)])
    state = np.random.default_rng(0).standard_normal((2, batch, 128)).astype(np.float32)
    alike(f"{VAD}silero_vad.onnx", sounds, state, np.array(16000, np.int64))
    alike(f"{VAD}silero_vad_16k_op15.onnx", sounds, state, np.array(16000, np.int64))


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (Path(__file__).read_bytes(), "python"),
        (b"# Title\n\nSome *text* with a [link](https://example.org).\n\n- one\n- two\n" * 9, "markdown"),
        (b'{"name": "x", "values": [1, 2, 3], "nested": {"a": null, "b": true}}\n', "json"),
    ],
    ids=["python", "markdown", "json"],
)
def test_the_kind_of_a_file_is_known(content: bytes, label: str) -> None:
    import json

    (scores,) = alike(MAGIKA, np.stack([tokens(content), tokens(b"GIF89a" + bytes(range(200)) * 9)]))
    labels = json.loads(file_of(MAGIKA).with_name("config.min.json").read_text())["target_labels_space"]
    assert labels[int(scores[0].argmax())] == label


@pytest.mark.parametrize("text", ["0123456789", "AT 57"])
def test_a_line_of_text_is_read(text: str) -> None:
    (scores,) = alike(RECOGNISER, line_of_text(text)[None])
    letters = ["", *session(RECOGNISER).get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    best = scores[0].argmax(-1)
    assert "".join(letters[i] for i, last in zip(best, [0, *best[:-1]], strict=True) if i != last) == text


def test_text_on_a_page_is_found() -> None:
    sheet = page(("HELLO 2026", "AT 57 TEA", "0123456789"), 256, 256)
    (found,) = alike(DETECTOR, np.stack([sheet, sheet[:, ::-1].copy()]))
    lines = [found[0, 0, top : top + 48, 20:180] > 0.3 for top in (20, 84, 148)]
    assert min(line.mean() for line in lines) > 0.1
    assert not (found[0, 0, 216:] > 0.3).any()  # nothing on the empty rest
    alike(DETECTOR, sheet[None, :, :160, :192])  # another size


def test_the_way_up_is_known() -> None:
    line = np.pad(line_of_text("0123", scale=4), ((0, 0), (0, 0), (0, 78)), constant_values=1.0)[:, :, :192]
    (upright,) = alike(CLASSIFIER, line[None])
    (turned,) = alike(CLASSIFIER, line[None, :, ::-1, ::-1].copy())
    assert upright.argmax() == 0
    assert turned.argmax() == 1


def test_notes_are_heard() -> None:
    sounds = np.stack([chord(22050, 43844, notes) for notes in ((60, 64, 67), (57, 62, 69))])
    found = alike(PITCH, sounds[..., None])
    note = found[1].mean(1)
    assert [sorted((np.argsort(-each)[:3] + 21).tolist()) for each in note] == [[60, 64, 67], [57, 62, 69]]


# ------------------------------------------------------------------------------------------------------------ gradients
GRADIENTS: dict[str, Any] = {
    f"{VAD}silero_vad.onnx": lambda: [
        speech(16000, 0.2)[None, 800:1376], np.full((2, 1, 128), 0.1, np.float32), np.array(16000, np.int64)],
    MAGIKA: lambda: [tokens(Path(__file__).read_bytes())[None]],
    RECOGNISER: lambda: [line_of_text("57", scale=3)[None]],
    DETECTOR: lambda: [page(("57",), 96, 96)[None]],
    CLASSIFIER: lambda: [np.resize(line_of_text("0123", scale=4)[:, :, :96], (1, 3, 48, 96))],
    # with noise: the logarithm of what is left of a dying note is too steep for a difference quotient
    PITCH: lambda: [(chord(22050, 43844, (60, 64, 67)) + 0.3 * speech(22050, 2.0)[:43844])[None, :, None]],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENTS, ids=[Path(n).stem for n in GRADIENTS])
def test_gradients_are_those_of_the_function(name: str) -> None:
    """In float64: the derivative along a random direction of all weights and inputs, against a difference quotient."""
    import torch

    from isomorph.parity.runners.onnx_graph import load, widened

    module = to_torch(widened(load(file_of(name)))).module
    inputs = [torch.from_numpy(np.array(a)) for a in GRADIENTS[name]()]
    inputs = [x.double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    weights = sum(p.numel() for p in module.parameters() if p.requires_grad)
    moved = [p for p in (*inputs, *module.parameters()) if p.requires_grad and p.isfinite().all()]
    assert weights > 10_000  # the weights are trainable, wherever the file keeps them
    torch.manual_seed(0)
    directions = [torch.randn_like(x) * (x.detach().abs().mean() + 1e-3) for x in moved]

    def total() -> Any:
        results = module(*inputs)
        floats = [r for r in (results if isinstance(results, tuple) else (results,)) if r.is_floating_point()]
        scales = [torch.linspace(-1, 1, r.numel(), dtype=torch.float64).reshape(r.shape) for r in floats]
        return sum((r * s).sum() for r, s in zip(floats, scales, strict=True))

    gradients = torch.autograd.grad(total(), moved, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    step = 1e-7
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            for x, d in zip(moved, directions, strict=True):
                x += sign * step * d
            values.append(float(total()))
            for x, d in zip(moved, directions, strict=True):
                x -= sign * step * d
    measured = (values[0] - values[1]) / (2 * step)
    assert abs(slope) > 0
    assert measured == pytest.approx(slope, rel=1e-4)

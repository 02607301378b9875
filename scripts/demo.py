"""The main job on the embedded default: a net trained on real handwritten digits goes to Keras, is verified, is
fine-tuned there, and comes back, as weights and by ONNX as a module. Prints what was measured at each stop; ends with 1
if two figures that must be equal are not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from isomorph.parity.console import console as quiet_frameworks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for fixtures/, which is not installed


class Steps:
    """Prints one line per step, with its time, and remembers whether an equality failed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failed = False
        self._note = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        start = time.perf_counter()
        self._note, failed_before = "", self.failed
        with self.console.status(title) if self.console.is_terminal else nullcontext():
            yield
        mark = "[red]✗[/]" if self.failed and not failed_before else "[green]✓[/]"
        self.console.print(
            f"{mark} {title:<45}{self._note}  [dim]{time.perf_counter() - start:.1f} s[/]", soft_wrap=True
        )

    def note(self, text: str) -> None:
        self._note = escape(text)

    def equal(self, what: str, holds: bool) -> str:
        """`what`, with "equal" or "NOT EQUAL" in its place. A false one makes the demo fail."""
        self.failed |= not holds
        return what.format("equal" if holds else "NOT EQUAL")


class Answers:
    """A model's scores on the test images (n, 10), compared with other scores by the labels they give."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        self.scores = scores
        self.accuracy = f"{(scores.argmax(1) == labels).mean():.4f}"

    def same_labels(self, other: Answers) -> bool:
        return bool((self.scores.argmax(1) == other.scores.argmax(1)).all())

    def distance(self, other: Answers) -> str:
        return f"scores differ by at most {np.abs(self.scores - other.scores).max():.1e}"


def run(out: Path, steps: Steps) -> None:
    with steps.step("load PyTorch, TensorFlow and Keras"):
        import keras
        import torch

        import isomorph
        from fixtures.digits.data import load_digits
        from fixtures.digits.net import example_inputs, trained

        steps.note(f"torch {torch.__version__}, Keras {keras.__version__} on {keras.backend.backend()}")
    digits = load_digits()
    net = trained()
    keras.utils.set_random_seed(0)

    def ask_torch(module: Any) -> Answers:
        with torch.inference_mode():
            return Answers(module(torch.from_numpy(digits.test_x)).numpy(), digits.test_y)

    with steps.step("PyTorch net, trained on digits"):
        original = ask_torch(net)
        steps.note(f"accuracy {original.accuracy} on {len(digits.test_y)} images it never saw")

    with steps.step("convert to Keras"):
        conversion = isomorph.to_keras(net, example_inputs())
        model = conversion.model
        steps.note(f"{model.count_params()} weights in nested Keras layers")

    test_x = conversion.inputs[0].to_keras(digits.test_x)
    train_x = conversion.inputs[0].to_keras(digits.train_x)

    def ask_keras(keras_model: Any) -> Answers:
        scores = np.asarray(keras_model.predict(test_x, batch_size=150, verbose=0))
        return Answers(conversion.outputs[0].to_torch(scores), digits.test_y)

    with steps.step("verify: outputs, gradients, training step"):
        verdict = isomorph.check(net, conversion)
        steps.failed |= verdict.status != "PASS"
        steps.note(verdict.status)
    for line in verdict.summary().splitlines():
        steps.console.print(f"    [dim]{escape(line)}[/]", soft_wrap=True)

    with steps.step("Keras model"):
        converted = ask_keras(model)
        same = steps.equal("labels {} to PyTorch's", converted.same_labels(original))
        steps.note(f"accuracy {converted.accuracy}; {same}; {converted.distance(original)}")

    with steps.step("fine-tune in Keras, one epoch of model.fit"):
        model.compile(keras.optimizers.Adam(3e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        history = model.fit(train_x, digits.train_y, batch_size=64, epochs=1, verbose=0)
        steps.note(f"loss {history.history['loss'][0]:.4f} on {len(digits.train_y)} images")

    with steps.step("Keras model, tuned"):
        tuned = ask_keras(model)
        changed = "the scores moved" if tuned.scores.tobytes() != converted.scores.tobytes() else "NOTHING WAS LEARNED"
        steps.failed |= changed.isupper()
        steps.note(f"accuracy {tuned.accuracy}; {changed}")

    with steps.step("pull the tuned weights back into PyTorch"):
        net.load_state_dict({name: torch.as_tensor(value) for name, value in conversion.pull().items()})
        pulled = ask_torch(net.eval())
        same = steps.equal("labels {} to the tuned Keras model's", pulled.same_labels(tuned))
        steps.note(f"accuracy {pulled.accuracy}; {same}; {pulled.distance(tuned)}")

    with steps.step("write ONNX, run it in ONNX Runtime"):
        exported = isomorph.to_onnx(conversion)
        exported.save(out.with_suffix(".onnx"))
        ran = Answers(conversion.outputs[0].to_torch(_in_onnx_runtime(exported.proto, test_x)), digits.test_y)
        same = steps.equal("labels {} to the tuned Keras model's", ran.same_labels(tuned))
        steps.note(f"opset {exported.report['opset']}; {same}; {ran.distance(tuned)}")

    with steps.step("make a PyTorch module of the ONNX file"):
        home = isomorph.to_torch(out.with_suffix(".onnx")).module
        state, wanted = home.state_dict(), net.state_dict()
        bits = list(state) == list(wanted) and all(torch.equal(state[name], wanted[name]) for name in wanted)
        whole = steps.equal(f"{len(state)} weights {{}} to the original's, by name and bit for bit", bits)
        steps.note(f"{whole}; {ask_torch(home).distance(pulled)}")

    with steps.step("save, and load with keras.models.load_model"):
        import isomorph.convert.layers  # registers the layers that Keras itself lacks

        conversion.save(out)
        reloaded = ask_keras(keras.models.load_model(out))
        same = steps.equal("scores {} to the saved model's, bit for bit", np.array_equal(reloaded.scores, tuned.scores))
        steps.note(f"accuracy {reloaded.accuracy}; {same}; {out.stat().st_size // 1024} kB")


def _in_onnx_runtime(proto: Any, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "-o", "--out", type=Path, help="keep the tuned Keras model in this file (.keras), its ONNX file beside it"
    )
    options = parser.parse_args()
    with quiet_frameworks() as streams, tempfile.TemporaryDirectory() as folder:
        steps = Steps(Console(file=streams.out, highlight=False))
        run(options.out or Path(folder) / "digits.keras", steps)
        steps.console.print(
            "[red]something that must be equal is not[/]" if steps.failed else "all that must be equal is equal"
        )
    return int(steps.failed)


if __name__ == "__main__":
    sys.exit(main())

"""Run by test_saved_files.py in a fresh process: load a saved model on the backend of KERAS_BACKEND, compare,
fine-tune.

python saved_model_check.py MODEL.keras ARRAYS.npz
"""

from __future__ import annotations

import sys

import keras
import numpy as np

import isomorph.convert.layers  # noqa: F401  registers the layers the file may hold


def main(model_path: str, arrays_path: str) -> None:
    model = keras.models.load_model(model_path)
    arrays = np.load(arrays_path)
    xs = [arrays[k] for k in arrays.files if k.startswith("x")]
    call = xs if len(xs) > 1 else xs[0]
    result = model(call)
    ys = [keras.ops.convert_to_numpy(y) for y in (result if isinstance(result, (list, tuple)) else [result])]
    for i, y in enumerate(ys):
        want = arrays[f"y{i}"]
        error = float(np.max(np.abs(y - want)) / max(1e-9, float(np.max(np.abs(want)))))
        print(f"output {i} error {error:.3e}")
        assert error < 2e-5, f"output {i} is off by {error:.2e}"
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    if len(ys) > 1:
        model = keras.Model(model.inputs, model.outputs[0])  # the final states of an LSTM have no batch axis in front
    model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse")
    history = model.fit(call, ys[0] + 1, epochs=1, batch_size=len(ys[0]), verbose=0)
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert np.isfinite(history.history["loss"][0])
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), "fit changed no weight"
    print("fitted")


if __name__ == "__main__":
    main(*sys.argv[1:])

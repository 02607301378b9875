"""A 1x1 convolution with stride 2 trains in float32 without taking the process down.

TensorFlow 2.21's kernel gradient (oneDNN) writes out of bounds for a 1x1 kernel with stride 2 on a 10x10 image with 8
channels. The child process shows it: with the plain strided convolution it dies of SIGABRT or SIGSEGV.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import sys
import numpy as np, tensorflow as tf, torch
from isomorph.convert.api import to_keras
conv = torch.nn.Conv2d(8, 16, 1, stride=2, bias=False)
model = to_keras(conv, (torch.randn(2, 8, 10, 10),)).model
kernel = model.trainable_variables[0].value
for i in range(60):
    x = np.random.default_rng(i).standard_normal((2 + i % 2, 10, 10, 8)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True) ** 2)
    gradient = tape.gradient(loss, kernel).numpy()
    y = np.einsum("bhwc,cd->bhwd", x[:, ::2, ::2], kernel.numpy()[0, 0])
    want = np.einsum("bhwc,bhwd->cd", x[:, ::2, ::2], 2 * y)
    assert np.allclose(gradient[0, 0], want, rtol=1e-3, atol=1e-3), i
print("alive")
"""


@pytest.mark.slow
def test_the_gradient_is_right_and_the_process_survives() -> None:
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "alive" in done.stdout

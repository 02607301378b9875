"""The environment of the tests. Set before any framework is imported; a value that is already set wins."""

from __future__ import annotations

import importlib.util
import os

import pytest

ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",  # a test marked gpu is run with a device named here
    "HF_HUB_OFFLINE": "1",  # nothing touches the network
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
    # One thread each: two worker processes on two cores. Sums are then taken in the same order on every run.
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

pytest.register_assert_rewrite("tests.rules.harness")  # the asserts of a test's helpers say what they saw, too


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need what is not here are skipped, and say what it is. Those marked long are run when asked for."""
    if "long" not in (config.option.markexpr or ""):
        long = [item for item in items if "long" in item.keywords]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if "long" not in item.keywords]
    no_hf = importlib.util.find_spec("transformers") is None
    no_gpu = os.environ["CUDA_VISIBLE_DEVICES"] in ("", "-1")
    for item in items:
        if no_hf and "hf" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="the extra 'hf' is not installed"))
        if no_gpu and "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="CUDA_VISIBLE_DEVICES names no device"))

"""Runs of pytest inside of a test: everything heavy is loaded before, as such a run forgets what it has imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
import vl_convert  # noqa: F401  one of those in Rust, which a process can import only once
from hypothesis import core

import isomorph
from isomorph.parity.explaining.reproduce import reproduce
from isomorph.parity.pytest_plugin import census, fixture, merge, summary
from isomorph.parity.record import Record, Result
from isomorph.parity.report import faces
from tests.plugin.inner import HEAD

__all__ = ["census", "fixture", "merge", "summary"]


@pytest.fixture(scope="session", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A failing check and its reproducer, once: what they import on use stays imported."""
    space: dict[str, object] = {}
    exec(HEAD, space)
    pair = space["net"](), space["net"](1.5)  # type: ignore[operator]
    verdict = isomorph.check(*pair, torch.ones(2, 3), level="quick")
    reproduce(verdict, *pair, tmp_path_factory.mktemp("loaded") / "reproducer")
    faces.write(Record((Result("loaded", "FAIL", verdict=verdict.to_dict()),)), tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def both_ways(loaded: None) -> None:
    """A conversion in each direction, once, for the same reason."""
    import keras

    isomorph.to_keras(torch.nn.Linear(3, 2), (torch.ones(2, 3),))
    isomorph.to_torch(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that an inner run says to hypothesis stays; the outer one's environment is not asked."""
    for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_AUTO_NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(core, "global_force_seed", core.global_force_seed)
    before, folder = hypothesis.settings.get_current_profile_name(), Path.cwd()
    hypothesis.settings.register_profile("alone", database=None)
    hypothesis.settings.load_profile("alone")
    yield
    hypothesis.settings.load_profile(before)
    os.chdir(folder)

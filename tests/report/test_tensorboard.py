"""TensorBoard events, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from isomorph.convert.errors import UsageError
from isomorph.parity.record import Record, Result
from isomorph.parity.report import tensorboard as events
from isomorph.parity.report.restore import restore
from tests.report import nasty, records


@pytest.fixture(autouse=True)
def _without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files by its own code then, and does not load TensorFlow for it."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))


def runs(folder: Path) -> Any:
    found = EventMultiplexer(size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    found.AddRunsFromDirectory(str(folder))
    return found.Reload()


def scalars(found: Any, run: str, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in found.Scalars(run, tag)}


def test_the_stages_are_scalars_in_three_runs(tmp_path: Path) -> None:
    record = records.failed()
    files = events.write(record, tmp_path)
    assert [path.parent.name for path in files] == ["error", "allowed", "original"]
    found = runs(tmp_path)
    verdict = restore(record.results[0].verdict)
    assert verdict is not None
    for check in verdict.checks:
        tag = f"worst/{check.stage}/{check.quantity}/{check.mode} {check.dtype}"
        assert scalars(found, "digits/error", tag) == {0: pytest.approx(check.worst)}
        assert scalars(found, "digits/allowed", tag) == {0: pytest.approx(check.tolerance)}
    assert scalars(found, "digits/error", "ratio/precision/output/eval float32") == {0: pytest.approx(1.07)}
    assert scalars(found, "digits/original", "ratio/precision/output/eval float32") == {0: 1.0}
    assert scalars(found, "digits/error", "seconds/structure") == {0: pytest.approx(1.92)}


def test_each_module_is_a_step(tmp_path: Path) -> None:
    record = records.failed()
    events.write(record, tmp_path)
    found = runs(tmp_path)
    verdict = restore(record.results[0].verdict)
    assert verdict is not None
    for tag, run, field in (
        ("modules/forward", "error", "forward"),
        ("modules/forward", "original", "forward_floor"),
        ("modules/gradient", "error", "gradient"),
        ("modules/gradient", "original", "gradient_floor"),
    ):
        wanted = {i: getattr(module, field) for i, module in enumerate(verdict.modules)}
        known = {i: pytest.approx(value) for i, value in wanted.items() if value is not None}
        assert scalars(found, f"digits/{run}", tag) == known
    assert len(scalars(found, "digits/error", "modules/gradient")) < len(verdict.modules), "Identity has none"
    (legend,) = found.Tensors("digits/error", "modules")
    text = legend.tensor_proto.string_val[0].decode()
    assert f"{0:>5}  stem  Conv2d" in text
    assert f"{len(verdict.modules) - 1:>5}  (model)  Net" in text


def test_distributions_are_histograms(tmp_path: Path) -> None:
    record = records.failed()
    events.write(record, tmp_path)
    found = runs(tmp_path)
    verdict = restore(record.results[0].verdict)
    assert verdict is not None
    for item in verdict.distributions:
        tag = f"log10 error/{item.stage}/{item.quantity}/{item.dtype}"
        for run, counts in (("error", item.counts), ("original", item.floor)):
            (event,) = found.Histograms(f"digits/{run}", tag)
            histogram = event.histogram_value
            assert histogram.num == sum(counts)
            assert tuple(histogram.bucket_limit) == pytest.approx(item.edges)
            assert tuple(histogram.bucket) == (0, *counts)
            assert item.edges[0] < histogram.sum / histogram.num < item.edges[-1]


def test_a_gate_has_a_folder_for_each_result(tmp_path: Path) -> None:
    record = records.gate()
    events.write(record, tmp_path)
    found = runs(tmp_path)
    assert {run.split("/")[0] for run in found.Runs()} >= {"digits_check_cpu,both", "ghost_check_cpu,both"}
    budget = "digits_budget_latency_ratio"
    assert scalars(found, f"{budget}/error", "budget/latency_ratio (x)") == {0: pytest.approx(1.93)}
    assert scalars(found, f"{budget}/allowed", "budget/memory (bytes)") == {0: 1e9}
    (said,) = found.Tensors("ghost_check_cpu,both/error", "result")
    assert b"no such file: ghost.keras" in said.tensor_proto.string_val[0]


def test_writing_again_replaces(tmp_path: Path) -> None:
    """Two files in one run would be one zigzag line. What is not ours stays."""
    (tmp_path / "digits" / "error").mkdir(parents=True)
    events.write(records.failed(), tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "events.out.tfevents.1").touch()
    before = sorted(tmp_path.rglob("*"))
    events.write(records.failed(), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (digits,) = records.failed().results
    events.write(records.record(replace(digits, verdict=None)), tmp_path)
    assert [path.parent.name for path in (tmp_path / "digits").rglob("events*")] == ["error"], "no older run is left"


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        [path.read_bytes() for path in events.write(records.failed(), tmp_path / name)] for name in ("a", "b")
    )
    assert first == second
    event = runs(tmp_path / "a").Scalars("digits/error", "modules/forward")[0]
    assert event.wall_time == 1772366400.0


def test_figures_that_are_no_numbers_and_names_of_all_signs(tmp_path: Path) -> None:
    events.write(nasty.record(), tmp_path)
    found = runs(tmp_path)
    names = {run.split("/")[0] for run in found.Runs()}
    assert len(names) == 3
    assert all(name.isprintable() and "/" not in name for name in names)
    run = next(run for run, tags in found.Runs().items() if "modules/forward" in tags["scalars"])
    assert all(math.isnan(value) for value in scalars(found, run, "modules/forward").values())


def test_names_that_are_alike_get_folders_of_their_own(tmp_path: Path) -> None:
    names = ("a:b", "a;b", "A.b", "a_b-2", "..", "/", "a/b")
    files = events.write(Record(tuple(Result(name, "ERROR") for name in names)), tmp_path)
    folders = [path.parent.parent for path in files]
    assert len({folder.name.lower() for folder in folders}) == len(names)
    assert {folder.parent for folder in folders} == {tmp_path}


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        events.write(records.passed(), tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        events.write(records.passed(), tmp_path / "file" / "below")
    monkeypatch.setattr(events, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'isomorph\[tensorboard\]'"):
        events.write(records.passed(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_framework_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.report import records; from isomorph.parity.report import tensorboard\n"
        f"tensorboard.write(records.failed(), {str(tmp_path)!r})\n"
        "print([name for name in ('torch', 'tensorflow', 'keras', 'jax', 'grpc') if name in sys.modules])"
    )
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr

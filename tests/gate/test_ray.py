"""A real local Ray: the same results as processes give, whatever becomes of a task, and nothing left behind."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.gate import engine_ray
from isomorph.parity.gate.cache import software
from isomorph.parity.gate.engines import Job, engine_of
from isomorph.parity.gate.identity import of_model
from isomorph.parity.gate.policy import load
from isomorph.parity.gate.progress import Progress
from isomorph.parity.gate.run import How, run
from isomorph.parity.gate.tasks import tasks_of
from isomorph.parity.record import Record, Result

from .fake_gate import NET, PERFORM, judge, write
from .test_engines import gone

slow = pytest.mark.slow
has_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


@slow
@has_ray
def test_a_cluster_that_is_not_there() -> None:
    (engine, jobs) = engine_of("ray", "127.0.0.1:1"), [Job("a", {}, Result("a", "ERROR"), perform=PERFORM)]
    with pytest.raises(UsageError, match=r"--engine ray: no cluster at 127.0.0.1:1: ConnectionRefusedError: "):
        list(engine(jobs, 1, Progress()))
    with pytest.raises(UsageError, match=r"--engine ray: no cluster at host:port: ValueError: "):
        list(engine_of("ray", "host:port")(jobs, 1, Progress()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The one that --ray-address local starts, for all tests here: it takes some seconds to start."""
    with engine_ray._cluster(None, 2) as ray:
        assert ray.cluster_resources()["CPU"] == 2
        yield
    assert not ray.is_initialized()


def facts(record: Record) -> Record:
    """A record without what differs from run to run: times, process numbers, where it was made."""
    results = tuple(replace(result, seconds=0.0, verdict=None) for result in record.results)
    return replace(record, results=results, seconds=0.0, created="", environment={})


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_the_same_record_as_processes_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # Ray sets it
    file = write(tmp_path, "pass-a", "fail-b", "crash-c", "exit-d", "raise-e", "noise-f", "file-g")
    monkeypatch.setenv("TF_OWN", "3")
    there = judge(file, engine="ray", jobs=2, artifacts=tmp_path / "files")
    here = judge(file, engine="process", jobs=2, artifacts=tmp_path / "files")
    assert facts(there) == facts(here)
    assert [result.status for result in there.results] == ["PASS", "FAIL", "ERROR", "ERROR", "ERROR", "PASS", "FAIL"]
    assert "SIGSEGV" in there.results[2].message
    assert there.environment["engine"] == "ray"
    for first, second in zip(there.results, here.results, strict=True):
        if first.verdict and second.verdict:
            seen = first.verdict["environment"]
            assert {**seen, "pid": ""} == {**second.verdict["environment"], "pid": ""}
            assert (seen["TF_OWN"], seen["OMP_NUM_THREADS"]) == ("3", "")
            assert seen["pid"] != str(os.getpid())


POLICY = """
[defaults]
level = "quick"
inputs = ["x=float32[b,3]"]
[[model]]
name = "good"
source = "net.py:Net"
convert = { to = "keras" }
[[model]]
name = "wrong"
source = "net.py:Wrong"
artifact = "net.py:Net"
"""


def timeless(value: Any) -> Any:
    """Without times, wherever they stand in a verdict."""
    if isinstance(value, Mapping):
        return {name: timeless(item) for name, item in value.items() if name not in ("seconds", "timings")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_real_models_have_the_same_verdicts(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    file = tmp_path / "isomorph.toml"
    file.write_text(POLICY)
    found = []
    for engine in ("ray", "process"):
        record = run(load(file), How(jobs=2, engine=engine))
        assert [result.status for result in record.results] == ["PASS", "FAIL"]
        found.append(timeless([result.to_dict() for result in record.results]))
    assert found[0] == found[1]
    assert found[0][1]["verdict"]["mismatches"]


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_what_a_cluster_reached_is_kept(tmp_path: Path) -> None:
    file, cache = write(tmp_path, "pass-a", "fail-b"), tmp_path / "cache"
    assert not any(result.cached for result in judge(file, cache, engine="ray").results)
    assert all(result.cached for result in judge(file, cache, engine="process").results)


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_another_cluster_than_the_one_this_process_is_connected_to() -> None:
    with pytest.raises(UsageError, match="connected to another cluster"):
        list(engine_of("ray", "127.0.0.1:1")([], 1, Progress()))


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_closing_ends_what_runs(tmp_path: Path) -> None:
    record = judge(write(tmp_path, "late-a", "hang-b"), engine="ray", jobs=2, fail_fast=True)
    assert [result.status for result in record.results] == ["FAIL"]
    assert gone(int((tmp_path / "hanging").read_text()))


@slow
@has_ray
@pytest.mark.usefixtures("cluster")
def test_a_device_that_no_machine_has(tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", more='devices = ["cpu", "cuda:1"]\n')
    first, second = judge(file, engine="ray").results
    assert first.status == "PASS"
    assert (second.status, second.message) == ("ERROR", "cuda:1 is asked for, and the cluster has 0 GPUs")


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ray, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--engine ray needs ray: pip install 'isomorph\[ray\]'"):
        engine_of("ray")


def test_a_machine_that_is_not_like_this_one_gives_no_result(tmp_path: Path) -> None:
    (task,) = tasks_of(load(write(tmp_path, "pass-a")))
    expected = {"software": software(), "models": of_model(task)}
    job = Job(task.name, task.to_dict(), Result(task.name, "ERROR"), perform=PERFORM, expected=expected)
    assert engine_ray.differing(job) == ""
    other = {**expected, "software": {**software(), "torch": "1.0"}}
    assert engine_ray.differing(replace(job, expected=other)) == f"torch is {software()['torch']}, not 1.0"
    (tmp_path / "net.weights").write_bytes(b"another file system")
    assert engine_ray.differing(job).startswith("its files are others")
    plain = engine_ray._portable(job)
    said, _ = engine_ray._there(plain, [], engine_ray._variables())
    found = Result.from_dict(said)
    assert found.status == "ERROR"
    assert "cannot stand for this one: its files are others" in found.message


def test_times_of_a_cluster_are_not_kept(tmp_path: Path) -> None:
    from isomorph.parity.gate.run import _plan

    file = write(tmp_path, "pass-a", more="[model.budgets]\nsize = 1\nmemory = 1\nlatency_ratio = 1.0\n")
    tasks = tasks_of(load(file))
    assert [_plan(task, How(engine="ray"), {}).key is None for task in tasks] == [False, False, True, True]
    assert not any(_plan(task, How(engine="process"), {}).key is None for task in tasks)

"""One result for each job, whatever becomes of it: crashes, hangs, noise, interrupts; in child processes and inline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.gate.engines import Job, engine_of, inline, processes
from isomorph.parity.gate.progress import Progress
from isomorph.parity.record import Place, Result

PERFORM = "tests.gate.fake_tasks:perform"


def job(name: str, do: str = "pass", timeout: float | None = None, **more: Any) -> Job:
    lost = Result(name, "ERROR", original="net", place=Place("isomorph.toml", 3))
    return Job(name, {"name": name, "do": do, **more}, lost, timeout, perform=PERFORM)


class Told(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.stages: list[tuple[str, str, int, int]] = []

    def started(self, name: str) -> None:
        self.names.append(name)

    def stage(self, name: str, stage: str, done: int, total: int) -> None:
        self.stages.append((name, stage, done, total))


def done(*jobs: Job, count: int = 2) -> dict[str, Result]:
    return {reached.result.name: reached.result for reached in processes(jobs, count, Progress())}


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_each_task_has_a_process_of_its_own_and_gives_its_result() -> None:
    found = done(job("a"), job("b", status="FAIL"), job("c", "noise"))
    assert {name: result.status for name, result in found.items()} == {"a": "PASS", "b": "FAIL", "c": "PASS"}
    assert found["a"].budgets[0].limit == 2.0
    pids = {result.verdict["environment"]["pid"] for result in found.values() if result.verdict}
    assert len(pids) == 3
    assert str(os.getpid()) not in pids


def test_what_befalls_one_task_is_an_error_of_that_task_alone() -> None:
    found = done(job("crash", "crash"), job("killed", "killed"), job("exit", "exit"), job("raise", "raise"),
                 job("usage", "usage"), job("fine"))  # fmt: skip
    assert found.pop("fine").status == "PASS"
    assert {result.status for result in found.values()} == {"ERROR"}
    messages = {name: result.message for name, result in found.items()}
    assert messages["crash"] == (
        "its process was killed by SIGSEGV; its last output: Fatal Python error: Segmentation fault"
    )
    assert messages["killed"] == "its process was killed by SIGKILL, perhaps for want of memory"
    assert messages["exit"] == "its process ended with exit status 7 and no result; its last output: leaving now"
    assert messages["raise"] == "internal: ValueError: no such thing"
    assert messages["usage"] == "x: the input does not fit"
    assert found["crash"].place == Place("isomorph.toml", 3)
    assert found["crash"].original == "net"


def test_a_task_that_hangs_is_ended_and_one_that_shows_progress_is_not() -> None:
    since = time.monotonic()
    found = done(job("hang", "hang", timeout=4.0), job("slow", "slow", timeout=4.0, steps=45))
    assert found["hang"].status == "ERROR"
    assert found["hang"].message == ("showed no progress for 4 s and was ended; its last output: waiting for nothing")
    assert found["slow"].status == "PASS"  # it took 4.5 s
    assert time.monotonic() - since < 60


def test_a_process_that_a_task_leaves_behind_ends_with_it() -> None:
    since = time.monotonic()
    found = done(job("orphan", "orphan"))
    assert found["orphan"].status == "PASS"
    assert time.monotonic() - since < 20
    pid = int((found["orphan"].verdict or {})["environment"]["pid"])
    left = subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    assert all(gone(int(other)) for other in left)


def test_so_many_at_once_and_in_order() -> None:
    told = Told()
    results = [reached.result.name for reached in processes([job("a"), job("b"), job("c")], 1, told)]
    assert results == told.names == ["a", "b", "c"]


def test_several_run_at_the_same_time(tmp_path: Path) -> None:
    told = Told()
    jobs = [job(name, "meet", timeout=30.0, folder=str(tmp_path)) for name in ("x", "y")]  # each waits for the other
    assert [reached.result.status for reached in processes(jobs, 2, told)] == ["PASS", "PASS"]
    assert ("x", "eval mode", 1, 3) in told.stages


def test_closing_ends_what_runs() -> None:
    results = processes([job("hang", "hang"), job("fine")], 2, Progress())
    with closing(results):
        assert next(results).result.name == "fine"
        children = [int(pid) for pid in _children()]
        assert children
    assert all(gone(pid) for pid in children)


def _children() -> Iterator[str]:
    """Of this process, those that do a task."""
    command = ["pgrep", "-P", str(os.getpid()), "-f", "isomorph.parity.gate.child"]
    yield from subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def test_children_end_when_the_gate_is_killed() -> None:
    code = (
        "import json, sys, os, threading, time\n"
        "from isomorph.parity.gate.engines import processes\n"
        "from isomorph.parity.gate.progress import Progress\n"
        "from tests.gate.test_engines import job, _children\n"
        "def say():\n"
        "    while not (found := list(_children())): time.sleep(0.1)\n"
        "    print(json.dumps(found), flush=True)\n"
        "threading.Thread(target=say).start()\n"
        "list(processes([job('hang', 'hang')], 1, Progress()))\n"
    )
    gate = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert gate.stdout is not None
    children = [int(pid) for pid in json.loads(gate.stdout.readline())]
    gate.send_signal(signal.SIGKILL)
    gate.wait()
    gate.stdout.close()
    assert children
    assert all(gone(pid) for pid in children)


def test_inline_gives_the_same_results() -> None:
    jobs = [job("a"), job("raise", "raise"), job("usage", "usage"), job("b", "slow", steps=2)]
    told = Told()
    here = {reached.result.name: reached.result for reached in inline(jobs, 4, told)}
    there = done(*jobs)
    assert list(here) == [job.name for job in jobs]
    for name, result in here.items():
        assert (result.status, result.message) == (there[name].status, there[name].message)
    assert ("b", "eval mode", 2, 2) in told.stages
    assert (here["a"].verdict or {})["environment"]["pid"] == str(os.getpid())


def test_an_engine_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="engine 'threads' is not known; known are process, inline, ray"):
        engine_of("threads")
    with pytest.raises(UsageError, match="means something with --engine ray only"):
        engine_of("process", "auto")

"""A policy becomes a record: order, cache, parts of a gate, waivers, what is stopped, what is interrupted."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.gate.progress import Progress, Shown, line
from isomorph.parity.record import Record, Result

from .fake_gate import judge, write

WAIVER = """
[[waiver]]
name = "known"
model = "{model}"
reason = "a reason"
owner = "somebody"
expires = {expires}
finding = "budget/size"
"""
BUDGET = '[model.budgets]\nsize = 1\nlatency_ratio = 2.0\nmemory = "1 GB"\n'


def plain(record: Record) -> list[tuple[str, str, str]]:
    """What does not differ from run to run."""
    return [(result.name, result.status, result.message) for result in record.results]


class Told(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.statuses: list[str] = []
        self.running: set[str] = set()
        self.most: dict[str, int] = {}  # name -> how many ran while it did

    def started(self, name: str) -> None:
        self.names.append(name)
        self.running.add(name)
        for other in self.running:
            self.most[other] = max(self.most.get(other, 0), len(self.running))

    def finished(self, result: Result) -> None:
        super().finished(result)
        self.statuses.append(result.status)
        self.running.discard(result.name)


def test_the_record_of_a_run(tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", "nothing-b")
    told = Told()
    record = judge(file, progress=told)
    assert plain(record) == [
        ("pass-a::check[cpu,both]", "PASS", "did pass"),
        ("nothing-b::check[cpu,both]", "NOTHING_COMPARED", "did nothing"),
    ]
    assert (record.status, record.exit_code) == ("NOTHING_COMPARED", 5)
    policy = dict(record.policy or {})
    assert (policy["version"], policy["valid_days"], policy["partial"]) == (4, 30.0, False)
    assert len(policy["sha256"]) == 64
    assert policy["file"].endswith("isomorph.toml")
    assert datetime.datetime.fromisoformat(record.created).utcoffset() == datetime.timedelta(0)
    assert {"python", "torch", "keras", "numpy", "isomorph_sources"} <= set(record.environment)
    assert record.notes == ()
    assert (told.done, told.total) == (2, 2)
    assert Record.from_dict(record.to_dict()) == record


def test_processes_and_inline_give_the_same_record_in_the_order_of_the_policy(tmp_path: Path) -> None:
    file = write(tmp_path, "slow-a", "pass-b", "fail-c")
    file.write_text(file.read_text())
    here, there = judge(file, engine="inline"), judge(file, engine="process", jobs=2)
    assert plain(here) == plain(there)
    assert [name for name, _, _ in plain(there)] == [
        f"{name}::check[cpu,both]" for name in ("slow-a", "pass-b", "fail-c")
    ]


def test_one_model_in_trouble_leaves_the_others_alone(tmp_path: Path) -> None:
    record = judge(write(tmp_path, "crash-a", "pass-b"), engine="process", jobs=2)
    first, second = record.results
    assert (first.status, second.status) == ("ERROR", "PASS")
    assert "SIGSEGV" in first.message
    assert first.place is not None
    assert first.place.line == 4
    assert (first.original, first.converted) == ("net.py:Net", "crash-a.keras")
    assert record.exit_code == 4


def test_times_are_taken_alone_and_last(tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", "slow-b", more="")
    file.write_text(file.read_text() + BUDGET)
    told = Told()
    record = judge(file, engine="process", jobs=4, progress=told)
    names = [result.name for result in record.results]
    latency = "slow-b::budget[latency_ratio]"
    assert names == ["pass-a::check[cpu,both]", "slow-b::check[cpu,both]", "slow-b::budget[size]", latency,
                     "slow-b::budget[memory]"]  # fmt: skip
    assert told.names[-1] == latency
    assert told.most[latency] == 1
    assert told.most["slow-b::check[cpu,both]"] > 1


def test_a_part_of_a_gate_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", "pass-b", "fail-c", more=BUDGET)
    record = judge(file, only=("pass-*",))
    assert [result.name for result in record.results] == ["pass-a::check[cpu,both]", "pass-b::check[cpu,both]"]
    assert record.status == "PASS"
    assert (record.policy or {})["partial"] is True
    assert record.notes == ("a part of the gate: 2 of 6 tasks (pass-*); it does not speak for the whole",)
    record = judge(file, only=("fail-c::budget[s*", "pass-b"))
    assert [result.name for result in record.results] == ["pass-b::check[cpu,both]", "fail-c::budget[size]"]
    assert [result.name for result in judge(file, only=("fail-c::budget[size]",)).results] == ["fail-c::budget[size]"]
    with pytest.raises(UsageError, match=r"--only pass-x: no model of that name; did you mean pass-"):
        judge(file, only=("pass-a", "pass-x"))
    with pytest.raises(UsageError, match=r"no task of that name; did you mean fail-c::budget\[size\]"):
        judge(file, only=("fail-c::budget[sise]",))


def test_fail_fast_begins_nothing_new(tmp_path: Path) -> None:
    told = Told()
    record = judge(write(tmp_path, "pass-a", "fail-b", "pass-c", "pass-d"), progress=told, fail_fast=True)
    assert [result.status for result in record.results] == ["PASS", "FAIL"]
    assert len(told.names) == 2
    assert record.exit_code == 1
    assert (record.policy or {})["partial"] is True
    assert record.notes == ("stopped after a failure: 2 of 4 tasks were not done",)


def test_waivers_are_applied_to_what_was_reached_or_kept(tmp_path: Path) -> None:
    more = BUDGET + WAIVER.format(model="overspent", expires="2027-03-01")
    file, cache = write(tmp_path, "overspent", more=more), tmp_path / "cache"
    day = datetime.date(2026, 12, 1)
    for cached in (False, True):
        told = Told()
        record = judge(file, cache, only=("overspent::budget[size]",), today=day, progress=told)
        assert told.statuses == ["PASS"]  # as the record says it
        (result,) = record.results
        assert (result.status, result.cached) == ("PASS", cached)
        assert [waived.name for waived in result.waived] == ["known"]
    # What is kept is what was measured: a waiver that has expired does not hold because it held once.
    record = judge(file, cache, only=("overspent::budget[size]",), today=datetime.date(2027, 3, 2))
    assert {result.name: result.status for result in record.results} == {
        "overspent::budget[size]": "BUDGET", "waiver::known": "WAIVER_EXPIRED",
    }  # fmt: skip
    record = judge(file, cache, only=("overspent::budget[size]",), fail_fast=True, today=day)
    assert record.status == "PASS"


def test_a_waiver_that_waives_nothing_fails_the_run(tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", "pass-b", more=WAIVER.format(model="pass-a", expires="2027-03-01"))
    record = judge(file, today=datetime.date(2026, 12, 1))
    assert record.exit_code == 10
    assert judge(file, only=("pass-b",), today=datetime.date(2026, 12, 1)).exit_code == 0


def test_files_that_belong_to_a_result(tmp_path: Path) -> None:
    file, cache = write(tmp_path, "file-a"), tmp_path / "cache"
    for engine in ("inline", "process"):
        for cached in (False, True):
            (result,) = judge(file, cache, engine=engine, fresh=not cached).results
            assert result.cached == cached
            assert Path(result.artifacts["reproducer"]).read_text() == "here"
            assert cache in Path(result.artifacts["reproducer"]).parents


def test_a_model_that_is_written_to_meanwhile_is_not_kept(tmp_path: Path) -> None:
    file, cache = write(tmp_path, "rewrite-a"), tmp_path / "cache"
    judge(file, cache)
    assert not any((cache / "results").rglob("*.json"))


COMMAND = """
import functools, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell would ignore it
from isomorph.parity.gate import run
run.How = functools.partial(run.How, perform="tests.gate.fake_tasks:perform")
from isomorph.parity.cli import main
os.chdir(sys.argv[1])
sys.exit(main(["gate", "--cache", "cache", *sys.argv[2:]]))
"""


def test_an_interrupted_run_goes_on_from_what_was_finished(tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "fail-b", "wait-c", "pass-d")
    command = [sys.executable, "-c", COMMAND, str(tmp_path), "--json", "record.json"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # where tests.gate is, also for its children
    gate = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    until = time.monotonic() + 60
    while len(list((tmp_path / "cache").rglob("results/*/*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    gate.send_signal(signal.SIGINT)
    out, err = gate.communicate(timeout=30)
    assert gate.returncode == 130, err
    assert out == ""
    assert err.splitlines() == [
        "[1/4] PASS pass-a::check[cpu,both] 0.0 s",
        "[2/4] FAIL fail-b::check[cpu,both] 0.0 s: did fail",
        "isomorph: error: interrupted after 2 of 4 results; run again to go on from there",
    ]
    assert '"INTERRUPTED"' in (tmp_path / "record.json").read_text()
    (tmp_path / "go").touch()
    again = subprocess.run([*command, "-q"], capture_output=True, text=True, check=False, env=environ)
    assert again.returncode == 1, again.stderr
    record = Record.from_dict(json.loads((tmp_path / "record.json").read_text()))
    assert [(result.status, result.cached) for result in record.results] == [
        ("PASS", True), ("FAIL", True), ("PASS", False), ("PASS", False),
    ]  # fmt: skip
    assert again.stderr == ""


def test_lines_of_progress(tmp_path: Path) -> None:
    passed = Result("net::check[cpu,both]", "PASS", "the same model", seconds=12.14)
    assert line(passed, 3, 12) == "[ 3/12] PASS net::check[cpu,both] 12.1 s"
    assert line(replace(passed, cached=True), 3, 9) == "[3/9] PASS net::check[cpu,both] cached"
    failed = replace(passed, status="FAIL", message="output 0: value\nand more")
    assert line(failed, 3, 9) == "[3/9] FAIL net::check[cpu,both] 12.1 s: output 0: value"
    with (tmp_path / "out").open("w+") as stream, Shown(stream) as shown:
        shown.expects(2)
        shown.started("net::check[cpu,both]")
        shown.stage("net::check[cpu,both]", "eval mode", 1, 24)
        shown.finished(passed)
        stream.seek(0)
        assert stream.read() == "[1/2] PASS net::check[cpu,both] 12.1 s\n"


def test_a_terminal_gets_bars_and_the_results_above_them() -> None:
    read, write_to = os.openpty()
    parts = list[bytes]()

    def listen() -> None:
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(read, 1 << 12):
                parts.append(part)

    reader = threading.Thread(target=listen)
    reader.start()
    with os.fdopen(write_to, "w") as terminal, Shown(terminal) as shown:
        shown.expects(2)
        shown.started("net::check[cpu,both]")
        shown.stage("net::check[cpu,both]", "eval mode", 7, 24)
        time.sleep(0.6)  # the bars are drawn ten times a second
        shown.finished(Result("net::check[cpu,both]", "PASS", seconds=1.0))
    reader.join(timeout=10)
    os.close(read)
    said = b"".join(parts).decode()
    assert "net::check[cpu,both] eval mode" in said
    assert "7/24" in said
    assert "[1/2] PASS net::check[cpu,both] 1.0 s" in said

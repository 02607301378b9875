"""What tasks do in the tests of the engines, in place of models: what their "do" says, else what the name of their
model begins with."""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.gate.child import Say
from isomorph.parity.record import BudgetLine, Place, Result, Status
from isomorph.parity.verdict import Verdict

STATUS: Mapping[str, Status] = {
    "fail": "FAIL",
    "late": "FAIL",
    "file": "FAIL",
    "overspent": "BUDGET",
    "nothing": "NOTHING_COMPARED",
    "error": "ERROR",
}


def perform(said: Mapping[str, Any], report: Say | None, artifacts: Path | None) -> Result:
    """The task's result, or what befalls it."""
    name = said["name"]
    do = said.get("do") or said["model"].partition("-")[0]
    if do == "crash":
        sys.stderr.write("the last thing it said\n")
        sys.stderr.flush()
        os.kill(os.getpid(), 11)
    if do == "killed":
        os.kill(os.getpid(), 9)
    if do == "exit":
        print("leaving now", flush=True)
        os._exit(7)
    if do == "raise":
        raise ValueError("no such thing")
    if do == "usage":
        raise UsageError("x: the input does not fit")
    if do == "hang":
        print("waiting for nothing", flush=True)
        if "folder" in said:
            Path(said["folder"], "hanging").write_text(str(os.getpid()))
        time.sleep(600)
    if do == "rewrite":
        Path(said["folder"], "net.weights").write_bytes(b"others by now")
    if do == "late":  # it fails when another one hangs
        while not Path(said["folder"], "hanging").exists():
            time.sleep(0.02)
    if do == "meet":  # until another one has come
        Path(said["folder"], name).touch()
        while len(list(Path(said["folder"]).iterdir())) < 2:
            time.sleep(0.02)
        do = "slow"
    if do == "load":  # the code that the gate file names, from its folder
        sys.path.insert(0, said["folder"])
        runpy.run_path(str(Path(said["folder"], "net.py")))
        Path(said["folder"], "..", "beside.txt").read_text()
    if do == "wait":  # until the gate file's folder has the file "go"
        while not Path(said["folder"], "go").exists():
            time.sleep(0.02)
    if do == "slow":  # it shows progress all the time
        steps = int(said.get("steps", 3))
        for step in range(steps):
            time.sleep(0.1)
            if report is not None:
                report("eval mode", step + 1, steps)
    if do == "orphan" and os.fork() == 0:  # a child of its own, which holds everything open
        time.sleep(600)
    if do == "noise":
        print("x" * 300_000)
        os.write(2, b"y" * 300_000)
    files = {}
    if do == "file" and artifacts is not None:
        artifacts.mkdir(parents=True)
        (artifacts / "what.txt").write_text("here")
        files = {"reproducer": str(artifacts / "what.txt")}
    seen = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "TF_OWN")}
    measured = 2e9 if do == "overspent" else 1.0
    return Result(
        name,
        said.get("status", STATUS.get(do, "PASS")),
        f"did {do}",
        verdict=Verdict("PASS", (), (), {}, 0, {"pid": str(os.getpid()), **seen}).to_dict(),
        budgets=(BudgetLine("size", 2.0, measured, "bytes"),),
        artifacts=files,
        place=Place(**said["place"]) if "place" in said else None,
    )

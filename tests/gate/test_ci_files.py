"""action.yml and .pre-commit-hooks.yaml: what they say is what the command takes, and the script does what it says."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isomorph.parity.cli import parser
from isomorph.parity.gate import blessing

from .verdicts import passed

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")


def step(name: str) -> dict[str, Any]:
    return next(found for found in STEPS if found["name"] == name)


def options_of(command: str) -> set[str]:
    """Every option that a command of isomorph has, from the parser itself."""
    (commands,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return {option for action in commands.choices[command]._actions for option in action.option_strings}


# -------------------------------------------------------------------------------------------------------------- action
def test_the_action_is_a_composite_one_with_everything_described() -> None:
    assert set(ACTION) == {"name", "description", "author", "branding", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    for name, said in ACTION["inputs"].items():
        assert set(said) == {"description", "default"}, name
        assert isinstance(said["default"], str), f"{name}: inputs are texts"
    for name, said in ACTION["outputs"].items():
        assert set(said) == {"description", "value"}, name
    for found in STEPS:
        assert ("uses" in found) != ("run" in found), found["name"]
        assert found.get("shell") == ("bash" if "run" in found else None), found["name"]
        assert not set(found) - {"name", "id", "if", "uses", "with", "run", "shell", "env"}
        assert "uses" not in found or re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", found["uses"])


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)
    elif isinstance(value, str):
        yield from EXPRESSION.findall(value)


def test_every_input_and_output_that_is_used_is_there_and_the_reverse() -> None:
    said = " ".join([*expressions(ACTION), *(found.get("if", "") for found in STEPS)])
    assert set(re.findall(r"inputs\.([\w-]+)", said)) == set(ACTION["inputs"])
    gate = step("Run the gate")
    assert set(re.findall(r"steps\.(\w+)\.outputs", said)) == {gate["id"]}
    assert set(re.findall(r"outputs\.([\w-]+)", said)) == set(re.findall(r'echo "([\w-]+)=', gate["run"]))


@pytest.mark.parametrize("found", [found for found in STEPS if "run" in found], ids=lambda found: found["name"])
def test_what_a_caller_writes_is_no_part_of_a_script(found: dict[str, Any]) -> None:
    assert EXPRESSION.search(found["run"]) is None
    assert set(re.findall(r"\bGATE_\w+", found["run"])) == set(found["env"])
    subprocess.run(["bash", "-n", "-c", found["run"]], check=True)


def test_every_option_that_the_action_gives_is_one() -> None:
    script = step("Run the gate")["run"].replace("\\\n", " ")
    (line,) = [line for line in script.splitlines() if line.strip().startswith("isomorph ")]
    words = shlex.split(line.partition("||")[0])
    assert words[:2] == ["isomorph", "gate"]
    given = [word for word in words if word.startswith("-")]
    assert given
    assert set(given) <= options_of("gate")
    told = re.findall(r"--[a-z-]+", ACTION["inputs"]["args"]["description"])
    assert told
    assert set(told) <= options_of("gate")
    values = [word.replace("$GATE_JOBS", "auto") for word in words[1:] if "more" not in word]
    assert parser().parse_args(values).jobs >= 1


def test_the_defaults_are_such_as_the_command_takes() -> None:
    inputs = {name: said["default"] for name, said in ACTION["inputs"].items()}
    assert parser().parse_args(["gate", inputs["file"], "--jobs", inputs["jobs"]]).file == Path()
    declared = (ROOT / "pyproject.toml").read_text()
    for extra in inputs["extras"].split(","):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra
    assert f'requires-python = ">={inputs["python-version"]}"' in declared


# -------------------------------------------------------------------------------------------------- the action's script
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope
        torch.manual_seed(0)
        self.l = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.l(x).tanh() * self.slope

def same():
    return Net()

def steeper():
    return Net(1.5)
"""
GATE = """
[gate]
version = 2
[[model]]
name = "net"
source = "net.py:Net"
artifact = "net.py:{artifact}"
inputs = ["x=float32[b,3]"]
level = "quick"
modes = ["eval"]
"""


@dataclass(frozen=True)
class Ran:
    code: int
    outputs: dict[str, str]
    summary: str
    folder: Path


def ran(folder: Path, **inputs: str) -> Ran:
    """The gate's step, as a runner does it: the same shell, variables and files, and the real command."""
    tools = folder / "bin"
    tools.mkdir()
    for name, command in (("isomorph", "-m isomorph "), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command}"$@"\n')
        (tools / name).chmod(0o755)
    found = step("Run the gate")
    given = {name: said["default"] for name, said in ACTION["inputs"].items()} | inputs
    variables = {name: EXPRESSION.sub(lambda m: given[m[1].strip().removeprefix("inputs.")], value)
                 for name, value in found["env"].items()}  # fmt: skip
    (folder / "step.sh").write_text(found["run"])
    files = {"GITHUB_OUTPUT": str(folder / "outputs"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(folder / "step.sh")], cwd=folder, check=False,
        env={**os.environ, **variables, **files, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    lines = (folder / "outputs").read_text().splitlines()
    summary = folder / "summary"
    return Ran(done.returncode, dict(line.split("=", 1) for line in lines),
               summary.read_text() if summary.exists() else "", folder)  # fmt: skip


def test_a_gate_file_that_is_wrong_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "isomorph.toml").write_text("[gate]\nversoin = 2\n")
    (tmp_path / "isomorph-report").mkdir()
    (tmp_path / "isomorph-report" / "verdict.json").write_text("of an earlier run")
    found = ran(tmp_path)
    assert (found.code, found.outputs) == (2, {"status": "USAGE", "exit-code": "2", "report": "isomorph-report"})
    assert not (tmp_path / "isomorph-report" / "verdict.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("artifact", "status", "code"), [("same", "PASS", 0), ("steeper", "FAIL", 1)])
def test_the_step_runs_the_gate_and_leaves_what_the_outputs_name(
    tmp_path: Path, artifact: str, status: str, code: int
) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "isomorph.toml").write_text(GATE.replace("{artifact}", artifact))
    found = ran(tmp_path, args=f"--engine inline  --no-cache --blessing {tmp_path / 'blessing'}", report="out/of it")
    assert (found.code, found.outputs["exit-code"], found.outputs["status"]) == (code, str(code), status)
    said = json.loads((tmp_path / found.outputs["verdict"]).read_text())
    assert (said["predicate"]["status"], said["predicate"]["policy"]["version"]) == (status, 2)
    sarif = json.loads((tmp_path / found.outputs["sarif"]).read_text())
    assert bool(sarif["runs"][0]["results"]) == bool(code)
    assert status in found.summary
    assert "net::check[cpu,both]" in found.summary
    assert os.listdir(tmp_path / "blessing") == [blessing.NOT_BLESSED if code else blessing.BLESSED]
    assert {"report.html", "report.json", "junit.xml"} <= set(os.listdir(tmp_path / found.outputs["report"]))


# --------------------------------------------------------------------------------------------------------- pre-commit
def hook(name: str) -> dict[str, Any]:
    return next(found for found in HOOKS if found["id"] == name)


def test_the_hooks_have_what_pre_commit_asks_for() -> None:
    assert [found["id"] for found in HOOKS] == ["isomorph-gate", "isomorph-gate-verify"]
    known = {"id", "name", "description", "entry", "args", "language", "files", "pass_filenames", "require_serial"}
    for found in HOOKS:
        assert {"id", "name", "entry", "language"} <= set(found) <= known
        re.compile(found["files"])


def test_the_hooks_entries_are_commands() -> None:
    gate, verify = hook("isomorph-gate"), hook("isomorph-gate-verify")
    assert parser().parse_args(shlex.split(gate["entry"])[1:]).file is None
    words = [*shlex.split(verify["entry"]), *verify["args"], "a.keras", "b.onnx"]
    assert words[:3] == ["isomorph", "gate", "verify"]
    options = parser().parse_args(["gate verify", *words[3:]])
    assert (options.verdict, options.models) == ("verdict.json", ["a.keras", "b.onnx"])
    assert gate["pass_filenames"] is False  # a gate takes one file


@pytest.mark.parametrize(
    ("name", "path", "runs"),
    [
        ("isomorph-gate", "isomorph.toml", True),
        ("isomorph-gate", "models/isomorph.toml", True),
        ("isomorph-gate", "anisomorph.toml", False),
        ("isomorph-gate", "isomorph.toml.bak", False),
        ("isomorph-gate-verify", "models/net.keras", True),
        ("isomorph-gate-verify", "net.onnx", True),
        ("isomorph-gate-verify", "net.onnx.data", False),
        ("isomorph-gate-verify", "keras", False),
    ],
)
def test_the_hooks_run_for_their_files(name: str, path: str, runs: bool) -> None:
    assert bool(re.search(hook(name)["files"], path)) == runs


def test_the_verify_hook_refuses_a_changed_model(tmp_path: Path) -> None:
    """As pre-commit calls it: entry, args, the files that are committed."""
    found = hook("isomorph-gate-verify")
    (tmp_path / "verdict.json").write_text(json.dumps(passed(tmp_path, now=None)))
    words = [sys.executable, "-m", *shlex.split(found["entry"]), *found["args"], "net.keras"]
    run = lambda: subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: E731
    assert run().returncode == 0
    (tmp_path / "net.keras").write_text("net.kerAs")
    assert run().returncode == 11


# ------------------------------------------------------------------------------------------------------ documentation
PAGE = (ROOT / "docs" / "verdict_predicate.md").read_text()


def test_the_documented_workflow_gives_inputs_and_takes_outputs_that_there_are() -> None:
    workflow, hooks = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    (used,) = [found for found in workflow["steps"] if "isomorph" in found.get("uses", "")]
    assert set(used["with"]) <= set(ACTION["inputs"])
    taken = re.findall(r"steps\.gate\.outputs\.([\w-]+)", " ".join(expressions(workflow)))
    assert taken
    assert set(taken) <= set(ACTION["outputs"])
    for given in hooks["repos"][0]["hooks"]:
        found = {**hook(given["id"]), **given}
        parser().parse_args([*found["entry"].split()[1:2], *found.get("args", [])] if found["id"] == "isomorph-gate"
                            else ["gate verify", *found["args"], "models/net.keras"])  # fmt: skip


def test_the_documentation_names_every_field() -> None:
    schema = json.loads((ROOT / "docs" / "schema" / "gate-verdict-v1.json").read_text())
    named = set(re.findall(r"`(\w+)`", PAGE))
    for part in ("Predicate", "Model", "Result", "Artifact", "Verdict"):
        assert set(schema["$defs"][part]["properties"]) <= named, part
    assert schema["properties"]["predicateType"]["const"] in PAGE
    assert set(schema["$defs"]["Status"]["enum"]) <= set(re.findall(r"[A-Z_]{4,}", PAGE))

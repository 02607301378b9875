"""One task done: functions where the model is not the point, a layer of torch, the digits net."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isomorph.parity.gate.execute import budget_text, execute
from isomorph.parity.gate.identity import code_of, of_model
from isomorph.parity.gate.policy import load
from isomorph.parity.gate.tasks import tasks_of
from isomorph.parity.record import BudgetLine, Result
from scripts.package import ROOT

from .gate_files import FUNCTIONS, PAIR, executed, gate

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.first(x))

class Strange(Net):
    def forward(self, x):
        return torch.special.bessel_j0(super().forward(x))
"""
QUICK = """
[defaults]
level = "quick"
inputs = ["x=float32[b,4]"]
[[model]]
name = "net"
source = "net:Net"
"""


def test_a_pair_that_agrees(tmp_path: Path) -> None:
    policy = gate(tmp_path, PAIR.format("same") + "seed = 3\nexamples = 5\n[model.budgets]\nprecision = 1000\n")
    result = executed(policy)
    assert (result.status, result.message) == ("PASS", "")
    assert result.name == "pair::check[cpu,both]"
    assert (result.original, result.converted) == ("functions:tanh", "functions:same")
    assert result.place == tasks_of(policy)[0].place
    assert result.verdict is not None
    assert (result.verdict["status"], result.verdict["seed"]) == ("PASS", 3)
    assert len(result.verdict["coverage"]["cases"]) == 5
    assert [line.name for line in result.budgets] == ["precision"]
    assert result.settings["required"] == ["outputs"]
    assert set(result.settings["excused"]) == {"gradients", "buffers", "train"}
    assert Result.from_dict(result.to_dict()) == result
    assert result.seconds > 0


def test_a_pair_that_differs(tmp_path: Path) -> None:
    told: list[str] = []
    policy = gate(tmp_path, PAIR.format("other"))
    result = executed(policy, report=lambda stage, done, total: told.append(stage), artifacts=tmp_path / "a" / "b")
    assert result.status == "FAIL"
    assert result.message.startswith("output 0: value")
    folder = Path(result.artifacts["reproducer"])
    assert folder == tmp_path / "a" / "b" / "reproducer"
    assert (folder / "test_reproduce.py").is_file()
    assert "eval mode" in told


def test_a_budget_beside_the_check(tmp_path: Path) -> None:
    result = executed(gate(tmp_path, PAIR.format("same") + "[model.budgets]\nprecision = 0.001\n"))
    (line,) = result.budgets
    assert result.status == "BUDGET"
    assert result.message == f"budget precision: {line.measured:.6g}x is over the limit of 0.001x"
    assert result.verdict is not None
    assert result.verdict["status"] == "PASS"


def test_each_dtype_is_a_check(tmp_path: Path) -> None:
    policy = gate(tmp_path, PAIR.format("same") + "dtypes = ['float64', 'own']\n[model.budgets]\nprecision = 1000\n")
    found = [execute(task) for task in tasks_of(policy)]
    stages = [{check["stage"] for check in (result.verdict or {})["checks"]} for result in found]
    assert stages == [{"structure"}, {"precision"}]
    assert [len(result.budgets) for result in found] == [0, 1]
    assert {result.status for result in found} == {"PASS"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("functions:tanh", "functions:tan", "source functions:tan: functions has no 'tan'"),
        ("functions:tanh", "functiona:tanh", "source functiona:tanh: there is no module 'functiona'"),
        ("functions:tanh", "functions.py:tan", "source functions.py:tan: functions.py has no 'tan'"),
        ("functions:tanh", "sub/functions.py:tanh", "source sub/functions.py:tanh: there is no file sub/functions.py"),
        ("functions:tanh", "model.pt2", "source model.pt2: no such file"),
        ("functions:tanh", "hf:models/bert", "source hf:models/bert: no such file"),
        ("functions:same", "model.keras", "artifact model.keras: no such file"),
        ("functions:same", "saved_model", "artifact saved_model: no such file"),
        ("functions:same", "functions:nothing", "artifact functions:nothing: functions has no 'nothing'"),
        ('name = "pair"', 'name = "pair"\nweights = "w.pt"', "weights w.pt: no such file"),
    ],
)
def test_what_is_not_there(tmp_path: Path, before: str, after: str, said: str) -> None:
    result = executed(gate(tmp_path, PAIR.format("same").replace(before, after)))
    assert result.status == "NOT_FOUND"
    assert said in result.message
    assert result.verdict is None


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (task,) = tasks_of(gate(tmp_path, PAIR.format("same")))
    result = execute(replace(task, folder=str(tmp_path / "gone")))
    assert (result.status, "is not there" in result.message) == ("NOT_FOUND", True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1/0", "importing functions raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "importing functions raised SystemExit"),
        ("import nothing_of_that_name", "raised ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_code_that_raises(tmp_path: Path, code: str, said: str) -> None:
    result = executed(gate(tmp_path, PAIR.format("same"), functions=code))
    assert result.status == "ERROR"
    assert said in result.message
    assert "\n" not in result.message


def test_a_model_beside_itself_is_no_comparison(tmp_path: Path) -> None:
    result = executed(gate(tmp_path, PAIR.format("tanh")))
    assert (result.status, result.message) == ("NOTHING_COMPARED", "source and artifact are one and the same model")
    for name in ("a.keras", "b.keras"):
        (tmp_path / name).write_text("the same bytes")
    files = '[[model]]\nname = "net"\nsource = "a.keras"\nartifact = "b.keras"\n'
    assert executed(gate(tmp_path, files)).status == "NOTHING_COMPARED"
    (tmp_path / "b.keras").write_text("others")
    assert executed(gate(tmp_path, files)).status == "ERROR", "they are opened then"


def test_code_that_ends_the_interpreter(tmp_path: Path) -> None:
    text = PAIR.format("quits")
    result = executed(gate(tmp_path, text, functions=FUNCTIONS + "\ndef quits(x):\n    raise SystemExit(0)\n"))
    assert (result.status, "ended the interpreter: SystemExit" in result.message) == ("ERROR", True), result.message


@pytest.mark.parametrize(
    ("unit", "limit", "measured", "said"),
    [
        ("bytes", 2e7, 20_000_001.0, "20000001 bytes is over the limit of 20000000 bytes"),
        ("x", 1.5, 1.5000001, "1.5000001x is over the limit of 1.5x"),
        ("x", 1.5, 2.0, "2x is over the limit of 1.5x"),
    ],
)
def test_what_is_just_over_a_limit_reads_so(unit: str, limit: float, measured: float, said: str) -> None:
    assert budget_text(BudgetLine("size", limit, measured, unit)) == f"budget size: {said}"


def test_models_that_raise(tmp_path: Path) -> None:
    broken = executed(gate(tmp_path / "a", PAIR.format("broken")))
    assert (broken.status, broken.message) == ("FAIL", "signature call: raised: RuntimeError: no luck (in float32)")
    leaves = "import sys\ndef tanh(x):\n    sys.exit(7)\ndef same(x):\n    return x\n"
    result = executed(gate(tmp_path / "b", PAIR.format("same"), functions=leaves))
    assert result.status == "ERROR"
    assert "SystemExit" in result.message


def test_wrong_inputs_are_an_error(tmp_path: Path) -> None:
    result = executed(gate(tmp_path, QUICK.replace("x=", "y=") + "artifact = 'net.py:Net'\n", net=NET))
    assert result.status == "ERROR"
    assert "'y'" in result.message


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    policy = gate(tmp_path, PAIR.format("same"))

    def touch(stage: str, done: int, total: int) -> None:
        if stage == "eval mode":
            (tmp_path / "functions.py").write_text("# another\n")

    result = executed(policy, report=touch)
    assert (result.status, result.message) == ("ERROR", "a file of the models was changed while they were judged")


@pytest.mark.slow
def test_models_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's folder is theirs, too; what a model takes down is its own process."""
    monkeypatch.chdir(tmp_path.parent)
    text = PAIR.format("same").replace("[[model]]", "isolate = true\nmemory_limit = '20 GB'\n[[model]]", 1)
    result = executed(gate(tmp_path, text))
    assert (result.status, result.message) == ("PASS", "")
    assert (result.verdict or {})["environment"]["converted.worker"] == "own interpreter"
    dies = "import os\ndef tanh(x):\n    return x\ndef same(x):\n    os._exit(9)\n"
    result = executed(gate(tmp_path / "b", text, functions=dies))
    assert result.status == "ERROR"
    assert "ended with exit status 9" in result.message


def test_what_was_required_and_not_compared(tmp_path: Path) -> None:
    result = executed(
        gate(tmp_path, PAIR.replace(":{}", ".py:tanh").replace("quick", "full") + "checks = ['dropout', 'special']\n")
    )
    assert result.status == "NOTHING_COMPARED"
    assert result.message.startswith("required, and nothing was compared: dropout (")
    assert list(result.settings["unmet"]) == ["dropout"]
    assert result.settings["required"] == ["outputs", "dropout", "special"]


def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = gate(tmp_path / "gate", PAIR.format("same").replace("functions:same", "sub/more.py:same"))
    (tmp_path / "gate" / "sub").mkdir()
    (tmp_path / "gate" / "sub" / "more.py").write_text("from functions import same\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = list(sys.path)
    result = executed(policy)
    assert result.status == "PASS", result.message
    assert Path.cwd() == tmp_path / "elsewhere"
    assert sys.path == before


def test_two_gates_with_modules_of_one_name(tmp_path: Path) -> None:
    """Each gate's modules are its own, whatever was imported before under their names; and a file that changed is read
    again."""
    text = PAIR.format("same")
    good = gate(tmp_path / "good", text)
    bad = gate(tmp_path / "bad", text, functions="import helper\ndef tanh(x):\n    return x\nsame = helper.same\n",
               helper="def same(x):\n    return x + 1\n")  # fmt: skip
    assert [executed(policy).status for policy in (good, bad, good, bad)] == ["PASS", "FAIL", "PASS", "FAIL"]
    (tmp_path / "bad" / "helper.py").write_text("def same(x):\n    return x\n")
    assert executed(bad).status == "PASS"


def test_modules_of_the_process_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "functions.py").write_text("MINE = True\n")
    import functions  # type: ignore[import-not-found]

    assert executed(gate(tmp_path / "gate", PAIR.format("same"))).status == "PASS"
    assert sys.modules["functions"] is functions
    monkeypatch.delitem(sys.modules, "functions")


def test_converted_now(tmp_path: Path) -> None:
    policy = gate(
        tmp_path,
        QUICK + 'convert = { to = "keras", layout = "torch" }\n[model.budgets]\nsize = "1 MB"\nprecision = 100\n',
        net=NET,
    )
    check, size = (execute(task) for task in tasks_of(policy))
    assert (check.status, check.message) == ("PASS", "")
    assert check.converted == "converted now to keras (layout=torch)"
    assert check.settings["required"] == ["outputs", "gradients", "train"]
    assert [(subject.role, subject.kind, bool(subject.sha256)) for subject in check.subjects] == [
        ("original", "code", True),
        ("converted", "object", False),
    ]
    assert size.status == "PASS"
    assert 1_000 < (size.budgets[0].measured or 0) < 100_000


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    strange = executed(
        gate(tmp_path / "a", QUICK.replace(":Net", ":Strange") + 'convert = { to = "keras" }\n', net=NET)
    )
    assert strange.status == "UNSUPPORTED"
    assert "bessel_j0" in strange.message
    option = executed(gate(tmp_path / "b", QUICK + 'convert = { to = "keras", opset = 17 }\n', net=NET))
    assert option.status == "ERROR"
    assert option.message == "convert: 'opset' means nothing on the way torch -> keras"


def test_subjects_say_what_was_judged(tmp_path: Path) -> None:
    policy = gate(
        tmp_path, PAIR.format("same").replace("functions:same", "more:same"), more="from functions import same"
    )
    first, second = executed(policy).subjects
    assert (first.role, first.name, first.kind) == ("original", "functions:tanh", "code")
    assert (second.role, second.name, second.kind) == ("converted", "more:same", "code")
    assert first.sha256 != second.sha256


# ------------------------------------------------------------------------------------------------------------- identity
def test_the_identity_of_code(tmp_path: Path) -> None:
    """It is that of all local code that is imported, and of the files that are named in it; nothing else counts."""
    text = PAIR.format("same").replace("functions:tanh", "package.net:build") + 'weights = "w.npz"\n'
    code = {
        "functions": "def same(x):\n    return x\n",
        "other": "UNUSED = 1\n",
        "helper": "FACTOR = 2\n",
    }
    policy = gate(tmp_path, text, **code)
    (tmp_path / "w.npz").write_bytes(b"1")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text('import helper, numpy\nfrom . import layers\ndef build():\n    open("data.bin")\n')
    (package / "layers.py").write_text("")
    (package / "data.bin").write_bytes(b"1")
    (task,) = tasks_of(policy)
    seen = [of_model(task)]
    assert seen[0] is not None
    found = code_of("package.net:build", tmp_path)
    assert found is not None
    assert sorted(file.relative_to(tmp_path).as_posix() for file in found.files) == [
        "helper.py", "package/__init__.py", "package/data.bin", "package/layers.py", "package/net.py",
    ]  # fmt: skip
    for name in ("helper.py", "package/layers.py", "package/__init__.py", "package/data.bin", "w.npz", "functions.py"):
        (tmp_path / name).write_text("# changed\n")
        seen.append(of_model(task))
        assert seen[-1] not in seen[:-1], name
    (tmp_path / "other.py").write_text("# changed\n")
    os.utime(tmp_path / "helper.py")
    assert of_model(task) == seen[-1]
    (tmp_path / "w.npz").unlink()
    assert of_model(task) is None


def test_a_file_whose_path_is_put_together_is_part_of_the_code(tmp_path: Path) -> None:
    """By the end of its path, as safetensors and h5py open files that no hook of Python sees."""
    policy = gate(tmp_path, PAIR.format("same").replace("functions:tanh", "nets:build"))
    made = 'Path(__file__).parent / "weights" / "deep.npz", f"{1}/weights/far.npz", "other/far.npz"'
    (tmp_path / "nets.py").write_text(f"from pathlib import Path\ndef build():\n    return {made}\n")
    named = ("weights/deep.npz", "a/b/deep.npz", "a/weights/far.npz")
    for name in (*named, "far.npz", ".hidden/deep.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (task,) = tasks_of(policy)
    seen = [of_model(task)]
    for name in named:
        (tmp_path / name).write_bytes(b"2")
        seen.append(of_model(task))
        assert seen[-1] not in seen[:-1], name
    for name in ("far.npz", ".hidden/deep.npz"):
        (tmp_path / name).write_bytes(b"2")
        assert of_model(task) == seen[-1], name


def test_the_identity_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"1")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"1")
    text = '[[model]]\nname = "a"\nsource = "a.pt2"\nartifact = "saved"\n'
    (task,) = tasks_of(gate(tmp_path, text))
    seen = {of_model(task)}
    (tmp_path / "saved" / "more").write_bytes(b"1")
    seen.add(of_model(task))
    (tmp_path / "a.pt2").write_bytes(b"2")
    seen.add(of_model(task))
    assert len(seen) == 3
    assert None not in seen


def test_code_is_found_where_python_finds_it(tmp_path: Path) -> None:
    """Also in a package without __init__.py, in one that is installed, and elsewhere on the path."""
    gate(tmp_path, PAIR.format("same"))
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "net.py").write_text("")
    loose = code_of("loose.net:x", tmp_path)
    assert loose is not None
    assert loose.modules == {"loose": tmp_path / "loose", "loose.net": tmp_path / "loose" / "net.py"}
    installed = code_of("packaging.version:Version", tmp_path)
    assert installed is not None
    assert (installed.modules, [file.name for file in installed.files]) == ({}, ["version.py"])
    ours = code_of("fixtures.digits.net:build", tmp_path)
    assert ours is not None
    assert {"fixtures.digits", "fixtures.digits.net"} <= set(ours.modules)
    assert ROOT / "fixtures" / "digits" / "digits.safetensors" in ours.files
    assert code_of("packaging.nothing:x", tmp_path) is None
    assert code_of("loose.nothing:x", tmp_path) is None


def test_looking_for_code_runs_none_of_it(tmp_path: Path) -> None:
    gate(tmp_path, PAIR.format("same"), functions="raise RuntimeError\n")
    assert code_of("functions:tanh", tmp_path) is not None
    assert subprocess.run([sys.executable, "-c", "import functions"], cwd=tmp_path, capture_output=True).returncode


# ----------------------------------------------------------------------------------------------------------- a real one
@pytest.mark.slow
def test_the_example_gate() -> None:
    """fixtures/gate: the digits net converted now, and a hand port whose running variance is waived."""
    from isomorph.parity.gate import waivers

    policy = load(ROOT / "fixtures" / "gate")
    task = next(task for task in tasks_of(policy) if task.name == "ported::check[cpu,both]")
    short = replace(task.entry, level="quick", steps=1, examples=2, modes=("train",), checks=None)
    ported = code_of("hand_port.py:build", ROOT / "fixtures" / "gate")
    assert ported is not None
    assert ROOT / "fixtures" / "digits" / "digits.safetensors" in ported.files
    result = execute(replace(task, entry=short))
    assert result.status == "FAIL"
    assert {m["name"].rpartition(".")[2] for m in (result.verdict or {})["mismatches"]} == {"running_var"}
    (judged,), extra = waivers.apply((result,), policy)
    assert (judged.status, [waived.name for waived in judged.waived]) == ("PASS", ["keras-variance"])
    assert extra == ()

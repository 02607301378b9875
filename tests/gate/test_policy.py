"""The gate file: what is read from it, and how what is wrong with it is told."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isomorph.convert.errors import UsageError
from isomorph.parity.gate import policy_keys
from isomorph.parity.gate.policy import Budgets, Policy, find, load
from isomorph.parity.gate.policy_lines import Lines
from isomorph.parity.gate.policy_reader import Reader
from isomorph.parity.gate.tasks import Task, tasks_of
from scripts.package import ROOT

from .gate_files import gate, lines_of

WHOLE = """
# a comment
[gate]
version = 3
valid_days = 7

[defaults]
level = "quick"
seed = 5
[defaults.budgets]
precision = 4.0
size = "1 kB"

[[model]]
name = "digits"
source = "package.net:Net"
weights = "net.safetensors"
convert = { to = "keras", layout = "torch" }
inputs = ["x=float32[b,1,8,8]:0..1"]
level = "full"
devices = ["cpu", "cuda:1"]
dtypes = ["both", "own"]
checks = ["outputs", "steps"]
[model.budgets]
latency_ratio = 1.5
size = "20 MB"
memory = "1 GiB"

[[model]]
name = "other"
source = "a.pt2"
artifact = "b.keras"
tolerances = { int8 = 0.05 }
memory_limit = 5

[[waiver]]
name = "gelu-tanh"
model = "digits"
reason = "the vendor's kernel"
owner = "me"
expires = 2027-03-01
finding = "value/output/*"
"""
MODEL = '[[model]]\nname = "a"\nsource = "a.pt2"\nartifact = "b.keras"\n'
WAIVER = (
    '[[waiver]]\nname = "w"\nmodel = "a"\nreason = "r"\nowner = "o"\nexpires = 2027-01-01\nfinding = "value/output/*"\n'
)


def test_everything_is_read(tmp_path: Path) -> None:
    policy = gate(tmp_path, WHOLE)
    assert (policy.version, policy.valid_days, policy.folder) == (3, 7, str(tmp_path))
    digits, other = policy.models
    assert digits.convert == {"to": "keras", "layout": "torch"}
    assert (digits.source, digits.weights) == ("package.net:Net", "net.safetensors")
    assert (digits.level, digits.seed, digits.inputs) == ("full", 5, ("x=float32[b,1,8,8]:0..1",))
    assert (digits.devices, digits.dtypes, digits.checks) == (("cpu", "cuda:1"), ("both", "own"), ("outputs", "steps"))
    assert digits.budgets == Budgets(4.0, 1.5, 20_000_000, 1 << 30)
    assert (other.artifact, other.level, other.tolerances) == ("b.keras", "quick", {"int8": 0.05})
    assert (other.checks, other.memory_limit, other.budgets) == (None, 5, Budgets(4.0, None, 1000, None))
    (waiver,) = policy.waivers
    assert (waiver.name, waiver.model, waiver.owner) == ("gelu-tanh", "digits", "me")
    assert (waiver.expires, waiver.findings) == ("2027-03-01", ("value/output/*",))
    assert [m.line for m in policy.models] == lines_of(WHOLE, r"\[\[model")
    assert [waiver.line] == lines_of(WHOLE, r"\[\[waiver")


def test_a_section_of_pyproject(tmp_path: Path) -> None:
    text = WHOLE
    for section in ("gate", "defaults", "model", "waiver"):
        text = re.sub(rf"^(\[+){section}", rf"\1tool.isomorph.{section}", text, flags=re.M)
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "x"\n' + text + "[tool.other]\nlevel = 3\n")
    policy = load(file)
    assert policy.models[0].line == lines_of(file.read_text(), r"\[\[tool.isomorph.model")[0]
    assert [m.name for m in policy.models] == ["digits", "other"]
    file.write_text('[project]\nname = "y"\n' + text)
    assert load(file).sha256 == policy.sha256, "what stands in other sections is another matter"
    file.write_text(text.replace("seed = 5", "seed = 6"))
    assert load(file).sha256 != policy.sha256
    file.write_text(text.replace("seed = 5", "sead = 5"))
    with pytest.raises(UsageError, match=r"pyproject.toml:9: \[defaults\]: unknown key 'sead'; did you mean seed"):
        load(file)


def test_the_hash_is_of_the_text(tmp_path: Path) -> None:
    first = gate(tmp_path, WHOLE)
    assert gate(tmp_path, WHOLE).sha256 == first.sha256
    assert gate(tmp_path, WHOLE.replace("version = 3", "version = 4")).sha256 != first.sha256


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[gates]\n" + MODEL, 1, "unknown section [gates]; did you mean gate?"),
        ("[gate]\nverson = 2\n" + MODEL, 2, "[gate]: unknown key 'verson'; did you mean version?"),
        ('[gate]\nversion = "2"\n' + MODEL, 2, 'version = "2": must be a whole number of 1 or more'),
        ("[gate]\nvalid_days = 0\n" + MODEL, 2, "valid_days = 0: must be"),
        ("", 1, "no [[model]]: there is nothing to judge"),
        ('[model]\nname = "a"\n', 1, "must be written as [[model]]"),
        ("[defaults]\nname = 'a'\n" + MODEL, 2, "'name' is of one model"),
        ("[defaults]\nlevels = 'full'\n" + MODEL, 2, "did you mean level or devices?"),
        ("[defaults.budgets]\nspeed = 3\n" + MODEL, 2, "unknown key 'speed'"),
        (MODEL + "artefact = 'c'\n", 5, "model 'a': unknown key 'artefact'; did you mean artifact?"),
        (MODEL + "level = 'medium'\n", 5, "must be one of quick, full, thorough"),
        (MODEL + "examples = 0\n", 5, "must be a whole number of 1 or more"),
        (MODEL + "examples = true\n", 5, "must be a whole number"),
        (MODEL + "seed = 1.5\n", 5, "must be a whole number"),
        (MODEL + "strict = 'yes'\n", 5, "must be true or false"),
        (MODEL + "inputs = 'x=float32[b]'\n", 5, "must be a list of texts"),
        (MODEL + "inputs = ['x=float33[b]']\n", 5, "unknown dtype 'float33'"),
        (MODEL + "inputs = ['x=float32[b]', 'x=float32[c]']\n", 5, "describe the same argument"),
        (MODEL + "devices = ['gpu']\n", 5, "'gpu' is not known: cpu, cuda or cuda:N"),
        (MODEL + "devices = []\n", 5, "must not be empty"),
        (MODEL + "dtypes = ['both', 'both']\n", 5, "names something twice"),
        (MODEL + "checks = ['output']\n", 5, "'output' is not known: some of outputs, gradients"),
        (MODEL + "tolerances = { int4 = 0.1 }\n", 5, "must be a table of int8"),
        (MODEL + "timeout = -1\n", 5, "must be a number above 0"),
        (MODEL + "memory_limit = '5 QB'\n", 5, 'a text such as "20 MB"'),
        (MODEL + "[model.budgets]\nsize = '0 MB'\n", 6, 'a text such as "20 MB"'),
        (MODEL + "[model.budgets]\nlatency = 2\n", 6, "unknown key 'latency'; did you mean latency_ratio?"),
        (MODEL + "convert = { to = 'keras' }\n", 1, "there is both, and it must be one"),
        (MODEL.replace("artifact", "convert"), 4, "'convert' must be a table such as { to = \"keras\" }"),
        (MODEL.replace("artifact = 'b.keras'", "").rsplit("\n", 2)[0] + "\n", 1, "there is neither"),
        (MODEL.replace('"a.pt2"', '""'), 3, "must be a text"),
        (MODEL.replace('name = "a"\n', ""), 1, "'name' is missing"),
        (MODEL.replace('"a"', '"a::b"'), 2, "must be a name of letters"),
        (MODEL + MODEL, 6, "model 'a': the name is taken already, in line 1"),
        (MODEL + WAIVER.replace('reason = "r"\n', ""), 5, "waiver 'w': 'reason' is missing"),
        (MODEL + WAIVER.replace('owner = "o"\n', ""), 5, "waiver 'w': 'owner' is missing"),
        (MODEL + WAIVER.replace('"r"', '"  "'), 8, "must be a text"),
        (MODEL + WAIVER.replace("2027-01-01", "2027-01-01T10:00:00"), 10, "must be a date without a time"),
        (MODEL + WAIVER.replace("2027-01-01", "'soon'"), 10, "must be a date: 2027-03-01"),
        (MODEL + WAIVER.replace('model = "a"', 'model = "aa"'), 5, "no [[model]] is named 'aa'; did you mean a?"),
        (MODEL + WAIVER.replace("value/output/*", "valeu/output/*"), 11, "'valeu' is not known"),
        (MODEL + WAIVER.replace("value/output/*", "value/outputs/*"), 11, "'outputs' is not known"),
        (MODEL + WAIVER.replace("value/output/*", "value"), 11, "the form is KIND/QUANTITY/NAME"),
        (MODEL + WAIVER.replace("value/output/*", "*/*/*"), 11, "would cover whatever goes wrong"),
        (MODEL + WAIVER.replace('"value/output/*"', '["*e*/*/*", "*/*/?*", "budget/size"]'), 11, "would cover"),
        (MODEL + WAIVER.replace("value/output/*", "[!_]*/output/*"), 11, "'[!_]*' is not known"),
        (MODEL + WAIVER.replace("value/output/*", "w*/output/*"), 11, "'w*' is not known"),
        (MODEL + "seed = 4294967296\n", 5, "must be a whole number of 0 or more, and less than 4294967296"),
        (MODEL + "timeout = 1e300\n", 5, "must be a number of seconds up to 100000000"),
        (MODEL + "tolerances = { int8 = 1.5 }\n", 5, "int8 must be a relative error of 1 or less"),
        ("# none\nmodel = []\n", 2, "no [[model]]: there is nothing to judge"),
        (MODEL + WAIVER.replace("value/output/*", "budget/speed"), 11, "budgets are precision, latency_ratio"),
        (MODEL + WAIVER.replace("value/output/*", "status/ERROR"), 11, "the form is"),
        (MODEL + WAIVER + "note = 'x'\n", 12, "unknown key 'note'"),
        (MODEL + WAIVER + WAIVER, 13, "waiver 'w': the name is taken already, in line 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gate(tmp_path, text)
    told = str(caught.value)
    assert told.startswith(f"{(tmp_path / 'isomorph.toml').as_posix()}:{line}: ")
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("level = 'quick'\nchecks = ['steps']\n", "'steps' is required, and level 'quick' leaves it out"),
        ("steps = 0\nchecks = ['steps']\n", "'steps' is required, and steps = 0"),
        ("modes = ['eval']\nchecks = ['dropout']\n", "'dropout' is required, and modes leaves 'train' out"),
        ("modes = ['train']\nchecks = ['special']\n", "'special' is required, and modes leaves 'eval' out"),
        ("backward = false\nchecks = ['gradients']\n", "'gradients' is required, and backward = false"),
        ("dtypes = ['own']\nchecks = ['randomised']\n", "compares nothing in float64"),
        ("dtypes = ['float64']\nbudgets = { precision = 2 }\n", "precision is measured in the artifact's own dtype"),
        ("artifact = 'x:y'\nbudgets = { size = 2 }\n", "size is of a file or directory"),
        ("convert = { to = 'keras' }\nbackend = 'jax'\n", "backend is for an 'artifact'"),
        ("convert = { to = 'keras' }\nisolate = true\n", "isolate is for models that are opened"),
    ],
)
def test_contradictions(tmp_path: Path, more: str, said: str) -> None:
    model = MODEL if not more.startswith(("artifact", "convert")) else MODEL.rsplit("artifact", 1)[0]
    with pytest.raises(UsageError, match=re.escape(said)):
        gate(tmp_path, model + more)


def test_a_level_with_its_own_steps(tmp_path: Path) -> None:
    policy = gate(tmp_path, MODEL + "level = 'quick'\nsteps = 2\nchecks = ['steps']\n")
    assert policy.models[0].steps == 2


def test_all_that_is_wrong_is_told_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        gate(tmp_path, MODEL + "sed = 1\nlevel = 2\n" + WAIVER.replace('owner = "o"\n', ""))
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("isomorph.toml: 3 problems")
    assert [line.split(":")[1] for line in lines] == ["5", "6", "7"]


def test_no_key_takes_whatever_comes() -> None:
    tables = (policy_keys.GATE, policy_keys.MODEL, policy_keys.CONVERT, policy_keys.BUDGETS, policy_keys.WAIVER)
    for table in tables:
        for reader in table.values():
            for wrong in ({"a": [1]}, [[1]], -1.5, None):
                with pytest.raises(ValueError):
                    reader(wrong)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (12, 12),
        ("12", 12),
        ("1.5 kB", 1500),
        ("20 MB", 20_000_000),
        ("1GiB", 1 << 30),
        ("2 TB", 2 * 10**12),
        ("7 b", 7),
    ],
)
def test_sizes(said: object, found: int) -> None:
    assert policy_keys.size(said) == found


def test_every_kind_of_mismatch_can_be_waived() -> None:
    """The kinds and quantities that the comparison gives are those that a waiver may name."""
    kinds, quantities = set(), set()
    for file in (ROOT / "parity").rglob("*.py"):
        if "gate" not in file.parts:
            text = file.read_text()
            kinds |= set(re.findall(r'(?:reject\(|outcome=)\s*"(\w+)"', text))
            quantities |= set(re.findall(r'reject\(\s*"\w+",\s*"([\w ]+)"', text))
    assert kinds - {"equal", "vacuous", "inconclusive"} <= set(policy_keys.KINDS)
    assert len(kinds) > 10
    assert quantities <= set(policy_keys.QUANTITIES)


def test_the_gate_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"there is no isomorph.toml and no pyproject.toml in .*; name the gate file"):
        find()
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    assert find() == Path("pyproject.toml")
    with pytest.raises(UsageError, match=r"pyproject.toml has no \[tool.isomorph\]"):
        load()
    gate(tmp_path, MODEL)
    assert find() == Path("isomorph.toml")
    assert load().file == "isomorph.toml"
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert load(tmp_path).file == (tmp_path / "isomorph.toml").as_posix()
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "other.toml")


@pytest.mark.parametrize("text", ["tool = 3\n", "[tool]\nisomorph = 3\n", ""])
def test_a_pyproject_without_the_section(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=r"has no \[tool.isomorph\]"):
        load(tmp_path / "pyproject.toml")


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "isomorph.toml"
    for content in (b"[[model]\n", b"\xff\xfe", b"a = 1\na = 2\n"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="no valid TOML"):
            load(file)


def test_a_model_by_name(tmp_path: Path) -> None:
    policy = gate(tmp_path, WHOLE)
    assert policy.model("other") is policy.models[1]
    with pytest.raises(UsageError, match="no \\[\\[model\\]\\] is named 'digit'; did you mean digits"):
        policy.model("digit")


def test_reading_a_gate_loads_no_framework(tmp_path: Path) -> None:
    gate(tmp_path, WHOLE)
    code = (
        "import sys; from isomorph.parity.gate import execute, identity, policy, required, subjects, tasks, waivers\n"
        f"found = policy.load({str(tmp_path)!r})\n"
        "made = tasks.tasks_of(found); waivers.apply((), found); identity.of_model(made[0])\n"
        "print([name for name in ('numpy', 'torch', 'keras', 'tensorflow', 'networkx', 'hypothesis', 'rich') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_tables_that_are_written_in_line(tmp_path: Path) -> None:
    text = '# comment\n\nmodel = [{ name = "a", source = "a.pt2", artifact = "b.keras" }]\n'
    assert gate(tmp_path, text).models[0].line == 3
    with pytest.raises(UsageError, match=r"isomorph.toml:3: model 'a': unknown key 'levl'"):
        gate(tmp_path, text.replace('name = "a"', 'name = "a", levl = 3'))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.datetimes()
    | st.sampled_from(["a", "value/output/*", "20 MB", "cpu", "both", "x=float32[b]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data())
def test_whatever_stands_in_it_is_read_or_told(data: st.DataObject) -> None:
    """One value of a right file is another one: a policy, or an error for the user, and nothing else."""
    document = tomllib.loads(WHOLE)
    table: Any = document
    key = data.draw(st.sampled_from(sorted(table)))
    while isinstance(table[key], dict | list) and table[key] and data.draw(st.booleans()):
        table = table[key]
        key = data.draw(st.sampled_from(sorted(table) if isinstance(table, dict) else range(len(table))))
    table[key] = data.draw(VALUES)
    reader = Reader("isomorph.toml", Lines(WHOLE))
    found = reader.policy(document)
    with contextlib.suppress(UsageError):
        reader.complain()
        policy = Policy(**{**found, "folder": "x"})
        for task in tasks_of(policy):
            assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task

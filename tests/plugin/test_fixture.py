"""The fixture `parity`: what it returns, how it fails, what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isomorph.convert.errors import UnsupportedError
from isomorph.parity.pytest_plugin import models
from isomorph.parity.pytest_plugin.reproducer import slug
from tests.plugin.inner import HEAD, checked, makes

pytest_plugins = ("pytester",)

DIFFERS = "def test_differs(parity):\n    parity(net(), net(1.5), torch.ones(2, 3), modes=('eval',))\n"


def test_models_that_agree_pass_and_the_verdict_is_returned(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_same(parity):\n    assert parity(double, twice, (X,)).status == 'PASS'\n")
    (result,) = checked(pytester)
    assert (result["status"], result["name"]) == ("PASS", "test_inner.py::test_same")
    assert (result["original"], result["converted"]) == ("double", "twice")
    assert result["place"] == {"file": "test_inner.py", "line": HEAD.count("\n")}
    assert json.loads(json.dumps(result)) == result
    assert result["verdict"]["coverage"]["cases"]


def test_a_failure_says_what_differs_on_what_and_where(pytester: pytest.Pytester) -> None:
    makes(pytester, DIFFERS)
    run = pytester.runpytest()
    run.assert_outcomes(failed=1)
    run.stdout.re_match_lines(
        [
            r">\s+parity\(net\(\), net\(1\.5\)",
            r"E\s+isomorph\.parity\.plugin\.ParityFailure: FAIL: Sequential and Sequential: "
            r"output .*expected \S+, got \S+ at \[\d, \d\], \d of \d elements",
            r"E\s+- output ",
            r"E\s+smallest example: eval mode",
            r"E\s+input = float32\[1, 3\] \[\[.*\]\]",
            r"E\s+parts forward at last \(Linear\)",
            r"E\s+reproducer: .*parity-reproducers/test_inner\.py_test_differs-\w+",
            r"E\s+seed 0, cpu; again: pytest test_inner\.py::test_differs --parity-seed 0",
        ]
    )
    shown = run.stdout.str()
    assert "pytest_plugin/" not in shown, "frames of ours are hidden"
    assert "likely" in shown


def test_the_reproducer_fails_like_the_test_and_is_replaced(pytester: pytest.Pytester) -> None:
    makes(pytester, DIFFERS)
    (result,) = checked(pytester, "--parity-report", "out")
    folder = pytester.path / "out" / result["artifacts"]["reproducer"]
    assert {"test_reproduce.py", "inputs.safetensors", "README.md"} <= {file.name for file in folder.iterdir()}
    assert result["verdict"]["artifacts"]["reproducer"] == str(folder)
    (folder / "stale").touch()

    pytester.runpytest("--parity-report", "out").assert_outcomes(failed=1)  # one: it is no test of this run
    assert folder.is_dir()
    assert not (folder / "stale").exists()
    named = pytester.runpytest(folder)
    assert named.parseoutcomes().get("failed"), "named, it is run"

    makes(pytester, DIFFERS.replace("net(1.5)", "net()"))
    pytester.runpytest("--parity-report", "out").assert_outcomes(passed=1)
    assert not folder.exists()


def test_the_folder_of_a_reproducer_is_named_for_its_test() -> None:
    assert slug("tests/deep/test_a.py::TestB::test_c[x/y]").startswith("test_a.py_TestB_test_c_x_y-")
    assert slug("test_a.py::test_c[x/y]") != slug("test_a.py::test_c[x_y]")


def test_without_a_cache_the_reproducer_is_in_a_temporary_folder(pytester: pytest.Pytester) -> None:
    makes(pytester, DIFFERS)
    (result,) = checked(pytester, "-p", "no:cacheprovider")
    assert (Path(result["artifacts"]["reproducer"]) / "test_reproduce.py").is_file()


def test_a_cache_that_cannot_be_written_is_as_none(pytester: pytest.Pytester) -> None:
    makes(pytester, DIFFERS + "def test_same(parity): parity(double, twice, (X,))\n")
    pytester.makefile("", **{".pytest_cache": "a file: as in a checkout that is read-only"})
    differs, same = checked(pytester)
    assert (differs["status"], same["status"]) == ("FAIL", "PASS")
    assert (Path(differs["artifacts"]["reproducer"]) / "test_reproduce.py").is_file()


def test_a_model_that_cannot_be_written_down_has_a_failure_without_a_reproducer(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_differs(parity):\n    parity(double, wrong, (X,))\n")
    pytester.runpytest().stdout.re_match_lines([r"E\s+reproducer: none \(UsageError: .* cannot be written down"])


def test_a_failure_is_an_assertion(pytester: pytest.Pytester) -> None:
    body = """
def test_caught(parity):
    with pytest.raises(AssertionError, match="expected") as caught:
        parity(double, wrong, (X,))
    assert caught.value.verdict.status == "FAIL"

@pytest.mark.xfail(raises=AssertionError, strict=True)
def test_expected(parity):
    parity(double, wrong, (X,))
"""
    makes(pytester, body)
    pytester.runpytest().assert_outcomes(passed=1, xfailed=1)


def test_several_checks_in_a_test_have_names_of_their_own(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_two(parity):\n    parity(double, twice, (X,))\n    parity(double, wrong, (X,))\n")
    found = checked(pytester)
    assert [(result["name"], result["status"]) for result in found] == [
        ("test_inner.py::test_two", "PASS"),
        ("test_inner.py::test_two #2", "FAIL"),
    ]


def test_checks_in_threads_take_turns(pytester: pytest.Pytester) -> None:
    body = """
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

def test_threads(parity):
    before, inside, most = list(warnings.filters), [], []

    def watched(x):
        inside.append(threading.get_ident())
        most.append(len(set(inside)))
        threading.Event().wait(0.001)
        inside.remove(threading.get_ident())
        return x + x

    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda _: parity(double, watched, (X,)), range(4)))
    assert [verdict.status for verdict in verdicts] == ["PASS"] * 4
    assert max(most) == 1
    assert warnings.filters == before
"""
    makes(pytester, body)
    names = [result["name"] for result in checked(pytester)]
    assert names == ["test_inner.py::test_threads", *(f"test_inner.py::test_threads #{n}" for n in (2, 3, 4))]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("parity(double, twice)", "a function says nothing of its inputs"),
        ("parity(double, twice, (X,), exampels=3)", "unknown argument 'exampels'; known are modes, examples"),
        ("parity(double, twice, (X,), steps=1, train_steps=2)", "train_steps and steps are the same argument"),
        ("parity(double, twice, (X,), examples=0)", "examples must be at least 1, not 0"),
        ("parity(double, 'no.keras', (X,))", "no.keras"),
        ("parity(double, twice, (X,), device='tpu')", "device 'tpu' is not known"),
        ("parity.convert(net())", "example_args"),
        ("parity.convert(net(), torch.ones(2, 3), lay='torch')", "unknown argument 'lay'; known are"),
    ],
)
def test_a_mistake_of_the_caller_is_one_line(pytester: pytest.Pytester, call: str, said: str) -> None:
    makes(pytester, f"def test_mistake(parity):\n    {call}\n")
    run = pytester.runpytest()
    run.assert_outcomes(failed=1)
    told = [line for line in run.outlines if line.startswith("E  ")]
    assert len(told) == 1
    assert "isomorph.convert.errors.UsageError: " in told[0]
    assert said in told[0]
    assert not any("pytest_plugin" in line for line in run.outlines)


def test_what_a_model_raises_by_itself_is_the_verdicts(pytester: pytest.Pytester) -> None:
    body = (
        "def broken(x): raise RuntimeError('no such thing')\ndef test_it(parity):\n    parity(double, broken, (X,))\n"
    )
    makes(pytester, body)
    run = pytester.runpytest()
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["E*no such thing*"])


def test_nothing_compared_is_a_failure(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_it(parity):\n    parity(double, twice, (X,), budget=1e-9)\n")
    run = pytester.runpytest()
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["E*ParityFailure: NOTHING_COMPARED: double and twice: *", "E*not checked: *"])


@pytest.mark.usefixtures("both_ways")
def test_convert_to_keras_and_back(pytester: pytest.Pytester) -> None:
    body = """
import keras

def test_both(parity):
    there = parity.convert(net(), torch.ones(2, 3), layout="torch", examples=2)
    assert isinstance(there.model, keras.Model)
    back = parity.convert(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), X, examples=2)
    assert isinstance(back.module, torch.nn.Module)

class Branches(torch.nn.Module):
    def forward(self, x): return x if x.sum() > 0 else -x

def test_refused(parity):
    parity.convert(Branches(), torch.ones(2, 3))
"""
    makes(pytester, body)
    found = checked(pytester)
    assert [(result["name"].rpartition("::")[2], result["status"]) for result in found] == [
        ("test_both", "PASS"), ("test_both #2", "PASS"), ("test_refused", "ERROR"),
    ]  # fmt: skip
    assert found[0]["verdict"]["coverage"]["modes"] == ["eval", "train"]
    assert [subject["role"] for subject in found[0]["subjects"]] == ["original", "converted"]
    assert "CaptureError" in found[2]["message"]


def test_what_cannot_be_converted_is_unsupported(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedError("1 op has no rule: aten.eig", ops=("aten.eig",))

    monkeypatch.setattr(models, "convert", refuse)
    body = """
from isomorph.convert.errors import UnsupportedError

def test_it(parity):
    with pytest.raises(UnsupportedError, match="no rule") as caught:
        parity.convert(net(), torch.ones(2, 3))
    assert caught.value.ops == ("aten.eig",)
"""
    makes(pytester, body)
    (result,) = checked(pytester)
    assert (result["status"], result["original"]) == ("UNSUPPORTED", "Sequential")
    assert result["message"] == "UnsupportedError: 1 op has no rule: aten.eig"


def test_a_file_is_a_subject_with_its_hash(pytester: pytest.Pytester) -> None:
    import hashlib

    body = """
def test_file(parity, tmp_path):
    program = torch.export.export(net().eval(), (torch.ones(2, 3),))
    torch.export.save(program, "net.pt2")
    parity("net.pt2", net(), modes=("eval",))
"""
    makes(pytester, body)
    (result,) = checked(pytester)
    first = result["subjects"][0]
    assert first["sha256"] == hashlib.sha256((pytester.path / "net.pt2").read_bytes()).hexdigest()
    assert (first["role"], first["name"], first["kind"]) == ("original", "net.pt2", "file")

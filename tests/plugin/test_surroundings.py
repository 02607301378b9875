"""The plugin among pytest's own options, in repositories that have names of their own, and where it is not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.plugin.inner import checked, makes

pytest_plugins = ("pytester",)

TWO = """
def test_differs(parity):
    parity(double, wrong, (X,))

def test_same(parity):
    parity(double, twice, (X,))
"""
HEAVY = ("torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "hypothesis", "numpy", "rich", "jinja2")


def test_the_first_failure_ends_the_run(pytester: pytest.Pytester) -> None:
    makes(pytester, TWO)
    run = pytester.runpytest("-x")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["1 parity check: 1 FAIL"])


def test_the_last_failures_are_run_again(pytester: pytest.Pytester) -> None:
    makes(pytester, TWO)
    pytester.runpytest().assert_outcomes(failed=1, passed=1)
    assert [result["name"] for result in checked(pytester, "--lf")] == ["test_inner.py::test_differs"]


def test_the_debugger_stands_at_the_call_in_the_test(pytester: pytest.Pytester) -> None:
    makes(pytester, TWO)
    pytester.makepyfile(
        debugger="""
import bdb

class Debugger:
    quitting = False
    def __init__(self, *args, **kwargs): pass
    def reset(self): pass
    def setup(self, *args): pass
    def set_trace(self, *args): pass
    def get_stack(self, frame, traceback):
        found = []
        while traceback is not None:
            found.append((traceback.tb_frame, traceback.tb_lineno))
            traceback = traceback.tb_next
        return found, len(found) - 1
    def interaction(self, frame, traceback):
        traceback = getattr(traceback, "__traceback__", traceback)
        stack, at = self.get_stack(None, traceback)
        print("STANDS AT", stack[at][0].f_code.co_name, len(stack))
"""
    )
    pytester.syspathinsert()
    run = pytester.runpytest("--pdb", "--pdbcls=debugger:Debugger", "-k", "differs")
    run.stdout.fnmatch_lines(["*entering PDB*", "STANDS AT test_differs*"])


@pytest.mark.parametrize("given", ["no:cacheprovider", "no:terminal", "no:junitxml no:logging", "no:tmpdir no:capture"])
def test_without_parts_of_pytest(pytester: pytest.Pytester, given: str) -> None:
    makes(pytester, TWO)
    args = [arg for name in given.split() for arg in ("-p", name)]
    assert [result["status"] for result in checked(pytester, *args)] == ["FAIL", "PASS"]


def test_a_fixture_of_the_same_name_is_their_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef parity(): return 'even'\n")
    pytester.makepyfile("def test_it(parity): assert parity == 'odd'")
    run = pytester.runpytest()
    run.assert_outcomes(failed=1)
    assert "parity check" not in run.stdout.str()


def test_a_fixture_of_the_same_name_that_is_made_from_ours_is_ours(pytester: pytest.Pytester) -> None:
    makes(pytester, "import functools\n@pytest.fixture\ndef parity(parity): return functools.partial(parity, seed=3)\n")
    pytester.makepyfile(
        test_it="""
import pytest
from test_inner import X, double, parity, twice

def test_same(parity): parity(double, twice, (X,))

@pytest.mark.parity(exampels=3)
def test_marked(parity): pass

@pytest.fixture
def broken(): raise OSError("no data")

def test_broken(parity, broken): pass
"""
    )
    run = pytester.runpytest("test_it.py")
    run.assert_outcomes(passed=1, errors=2)
    run.stdout.fnmatch_lines(["*unknown keyword 'exampels'*", "ERROR test_it.py::test_broken: *no data*", "3 parity*"])


def test_a_test_that_fails_before_it_compares_is_in_the_record(pytester: pytest.Pytester) -> None:
    body = "@pytest.fixture\ndef broken(): raise OSError('no data')\ndef test_it(broken, parity): pass\n"
    makes(pytester, body)
    run = pytester.runpytest()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["ERROR test_inner.py::test_it: *no data*", "1 parity check: 1 ERROR"])


def test_where_warnings_are_errors_a_models_warning_is_none(pytester: pytest.Pytester) -> None:
    body = """
import warnings

def old(x):
    warnings.warn("it is old", DeprecationWarning)
    return x + x

def test_same(parity):
    parity(double, old, (X,))

def test_their_own():
    warnings.warn("it is old", DeprecationWarning)
"""
    makes(pytester, body)
    pytester.runpytest("-W", "error").assert_outcomes(passed=1, failed=1)


def test_rewritten_or_plain_asserts_are_the_same(pytester: pytest.Pytester) -> None:
    makes(pytester, TWO)
    assert [result["status"] for result in checked(pytester, "--assert=plain")] == ["FAIL", "PASS"]


@pytest.mark.slow
def test_a_repository_with_a_convert_and_a_parity_of_its_own(pytester: pytest.Pytester) -> None:
    """`python -m pytest` puts the working directory first in sys.path."""
    pytester.makepyfile(
        convert="raise ImportError('the wrong convert')",
        parity="raise ImportError('the wrong parity')",
        isomorph_test="",
        test_inner="""
        import numpy as np

        def test_same(parity):
            import sys
            parity(lambda x: x * 2, lambda x: x + x, (np.ones((2, 3), "float32"),))
            assert "convert" not in sys.modules
            assert "parity" not in sys.modules

        def test_their_own():
            try:
                import convert
            except ImportError as error:
                assert "the wrong convert" in str(error)
        """,
    )
    run = pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    run.assert_outcomes(passed=2)


def loaded(pytester: pytest.Pytester, *args: str) -> set[str]:
    """The modules of a fresh process that has run one test that has nothing to do with models."""
    code = "import sys, pytest; pytest.main(sys.argv[1:]); print('loaded:', *sorted(sys.modules))"
    command = [sys.executable, "-c", code, "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *args]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=pytester.path)
    assert "1 passed" in run.stdout
    return set(run.stdout.rpartition("loaded:")[2].split())


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    plain, ours = loaded(pytester, "-p", "no:isomorph"), loaded(pytester)
    new = ours - plain
    assert "isomorph.parity.plugin" in new
    assert {name for name in new if not name.startswith("isomorph")} == set()
    assert new == {
        "isomorph",
        "isomorph.convert",
        "isomorph.convert.errors",
        "isomorph.parity",
        "isomorph.parity.plugin",
    }
    assert not {name for name in HEAVY if name in new}

"""isomorph doctor and isomorph ops without a source."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest

from isomorph.parity import doctor

from .conftest import Run

Command = Callable[..., Run]
NEEDS = [
    "torch>=2",
    "numpy<1",
    "no-such-package>=1",
    'rich; extra == "hf"',
    'no-such-extra>=3; extra == "timm"',
    'never; sys_platform == "none"',
]


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: {"isomorph": NEEDS}[name])


@pytest.mark.usefixtures("needs")
def test_what_does_not_fit_is_an_error(isomorph: Command) -> None:
    run = isomorph("doctor", "--no-devices", "--json")
    document = run.document
    assert run.code == document["exit_code"] == 4
    state = {p["name"]: (p["found"] is not None, p["fits"], p["extra"]) for p in document["packages"]}
    assert state == {
        "torch": (True, True, ""),
        "numpy": (True, False, ""),
        "no-such-package": (False, False, ""),
        "rich": (True, True, "hf"),
        "no-such-extra": (False, False, "timm"),
    }
    assert document["extras"]["hf"]["complete"] is True
    assert document["extras"]["timm"]["complete"] is False
    run = isomorph("doctor", "--no-devices")
    assert "no-such-package>=1 is needed and it is not installed; pip install" in run.err
    assert "numpy<1 is needed and" in run.err
    assert "pip install 'isomorph[timm]' adds: timm:NAME sources" in run.out
    assert "isomorph[hf]" not in run.out


def test_a_healthy_installation(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=2"])
    run = isomorph("doctor", "--no-devices")
    assert (run.code, run.err) == (0, "")


def test_devices() -> None:
    assert doctor.ask_devices("torch")[0] == "cpu"


def test_a_framework_that_breaks_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._DEVICES, "broken", "import os; os.abort()")
    monkeypatch.setitem(doctor._DEVICES, "absent", "import no_such_framework")
    assert doctor.ask_devices("broken").startswith("cannot be imported")
    assert "No module named 'no_such_framework'" in doctor.ask_devices("absent")


def test_every_extra_is_explained() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(doctor.ADDS)


def test_the_table_of_ops(isomorph: Command) -> None:
    from isomorph.convert.rules.registry import load_rules

    document = isomorph("ops", "--json").document
    assert {row["op"] for row in document["ops"]} == set(load_rules())
    table = isomorph("ops").out
    assert all(key in table for key in load_rules())

"""The blessing file, as TFX' Evaluator leaves it for its Pusher."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.gate import blessing
from isomorph.parity.record import EXIT_CODES, Record, Result

POLICY = {"file": "isomorph.toml", "version": 1, "sha256": "0" * 64}
PASS = Record((Result("m::check[cpu,both]", "PASS"),), policy=POLICY)


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_whole_pass_is_blessed_by_an_empty_file(tmp_path: Path) -> None:
    path = blessing.write(tmp_path / "deep" / "blessing", PASS)
    assert (path.name, path.read_bytes(), left(path.parent)) == ("BLESSED", b"", ["BLESSED"])


@pytest.mark.parametrize("status", [status for status in EXIT_CODES if status != "PASS"])
def test_anything_else_is_not_and_takes_an_earlier_blessing_away(tmp_path: Path, status: str) -> None:
    blessing.write(tmp_path, PASS)
    blessing.write(tmp_path, replace(PASS, results=(*PASS.results, Result("n", status))))  # type: ignore[arg-type]
    assert left(tmp_path) == ["NOT_BLESSED"]
    blessing.write(tmp_path, PASS)
    assert left(tmp_path) == ["BLESSED"]


@pytest.mark.parametrize("record", [replace(PASS, results=()), replace(PASS, policy=None),
                                    replace(PASS, policy={**POLICY, "partial": True})])  # fmt: skip
def test_nothing_a_part_or_what_is_no_gate_is_not_blessed(tmp_path: Path, record: Record) -> None:
    assert blessing.write(tmp_path, record).name == "NOT_BLESSED"


def test_while_a_run_goes_on_there_is_none(tmp_path: Path) -> None:
    blessing.write(tmp_path, PASS)
    blessing.clear(tmp_path)
    assert left(tmp_path) == []


def test_where_it_cannot_be_written_the_user_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="a blessing cannot be written there"):
        blessing.write(tmp_path / "file", PASS)
    (tmp_path / "BLESSED").mkdir()
    with pytest.raises(UsageError, match="a blessing cannot be written there"):
        blessing.write(tmp_path, PASS)

"""Every row of every case table, in both regimes. The fast suite runs the first row that covers each op."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from .harness import Case, params, prepare, run_concrete, run_emitted

TABLES = sorted(p.stem for p in Path(__file__).parent.glob("cases_*.py"))
CASES: list[Case] = [c for t in TABLES for c in importlib.import_module(f"tests.rules.{t}").CASES]


@pytest.mark.parametrize("case", params(CASES))
def test_row(case: Case, tmp_path: Path) -> None:
    row = prepare(case)
    run_concrete(case, row)
    run_emitted(case, tmp_path, row)

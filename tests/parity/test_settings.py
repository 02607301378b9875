"""Arguments of a check, and profiles of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.database import InMemoryExampleDatabase

from isomorph.convert.errors import UsageError
from isomorph.parity.cli import parser
from isomorph.parity.cli_check import specs
from isomorph.parity.settings import LEVELS, PROFILES, Settings, settings_of_profile


def test_steps_replace_the_level_s() -> None:
    assert Settings(level="quick", steps=4).how.steps == 4
    assert Settings(level="full", steps=0).how.steps == 0
    assert Settings(level="full").how == LEVELS["full"]
    assert LEVELS["quick"].steps == 0  # the table itself stays as it is


@pytest.mark.parametrize("steps", [-1, True])
def test_wrong_steps_are_refused(steps: Any) -> None:
    with pytest.raises(UsageError, match="steps must be 0 or more"):
        Settings(steps=steps)


def test_the_command_line_gives_steps_and_modules(tmp_path: Path) -> None:
    line = ["check", "a.keras", "b.keras", "--steps", "0", "--modules", "--database", str(tmp_path)]
    _, _, settings = specs(parser().parse_args(line))
    assert (settings.steps, settings.profile) == (0, True)
    _, _, settings = specs(parser().parse_args(line[:3]))
    assert (settings.steps, settings.profile) == (None, False)


def test_profiles_are_arguments_of_settings() -> None:
    assert {name: settings_of_profile(name).level for name in PROFILES} == {
        "dev": "quick", "ci": "full", "thorough": "thorough",
    }  # fmt: skip
    assert settings_of_profile("ci").database is None
    found = settings_of_profile("ci", examples=5, level="quick", database="here", seed=3)
    assert (found.examples, found.level, found.database, found.seed) == (5, "quick", "here", 3)


def test_a_profile_of_hypothesis_is_honoured() -> None:
    kept = InMemoryExampleDatabase()
    profiles = {
        "isomorph-test-kept": hypothesis_settings(max_examples=7, database=kept),
        "isomorph-test-fixed": hypothesis_settings(max_examples=9, derandomize=True, database=None),
    }
    for name, profile in profiles.items():
        hypothesis_settings.register_profile(name, profile)
    found = settings_of_profile("isomorph-test-kept", seed=4)
    assert (found.examples, found.seed) == (7, 4)
    assert found.database is kept
    fixed = settings_of_profile("isomorph-test-fixed")
    assert (fixed.examples, fixed.seed, fixed.database) == (9, 0, None)


def test_an_unknown_profile_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match=r"^profile 'fast' is none of 'dev', 'ci', 'thorough', and no hypothesis"):
        settings_of_profile("fast")

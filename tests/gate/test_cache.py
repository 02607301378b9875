"""What is kept of a run, what a changed byte does to it, and what is never taken from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isomorph.parity.gate import cache as caching
from isomorph.parity.gate.cache import Cache, environment_facts, key_of
from isomorph.parity.record import EXIT_CODES, BudgetLine, Place, Result, Status, Subject

from .fake_gate import judge, write

KEY = "ab" * 32
RESULT = Result(
    "net::check[cpu,both]", "FAIL", "output 0: value", verdict={"status": "FAIL", "checks": [{"worst": "inf"}]},
    budgets=(BudgetLine("size", 1.0, None, "bytes"),), subjects=(Subject("original", "net"),), place=Place("a.toml", 3),
)  # fmt: skip


def only_file(folder: Path) -> Path:
    (file,) = (path for path in folder.rglob("*.json") if path.is_file())
    return file


def test_what_is_kept_is_what_was_reached(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get(KEY) is None
    cache.put(KEY, RESULT)
    assert cache.get(KEY) == RESULT
    assert cache.get("cd" * 32) is None
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == [f"{KEY}.json"]


@pytest.mark.parametrize("status", EXIT_CODES)
def test_only_what_was_decided_is_kept(tmp_path: Path, status: Status) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, Result("a", status))
    assert (cache.get(KEY) is not None) == (status in ("PASS", "FAIL", "NOTHING_COMPARED", "BUDGET"))


def test_without_a_key_nothing_is_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(None, RESULT)
    assert cache.get(None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"FAIL"', '"PASS"'),
        lambda text: text.replace("isomorph.cache/1", "isomorph.cache/0"),
        lambda text: text.replace(KEY, "cd" * 32),
        lambda text: json.dumps({**json.loads(text), "result": None}),
    ],
    ids=["half", "empty", "list", "another status", "another schema", "another key", "no result"],
)
def test_a_damaged_entry_is_none(tmp_path: Path, damage: Callable[[str], str]) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, RESULT)
    file = only_file(tmp_path)
    damaged = damage(file.read_text())
    assert damaged != file.read_text()
    file.write_text(damaged)
    assert cache.get(KEY) is None


def test_an_entry_whose_files_are_gone_is_none(tmp_path: Path) -> None:
    file = tmp_path / "reproducer"
    file.write_text("")
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, Result("a", "FAIL", artifacts={"reproducer": str(file)}))
    assert cache.get(KEY) is not None
    file.unlink()
    assert cache.get(KEY) is None


def test_a_folder_that_takes_nothing_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    cache.put(KEY, RESULT)
    assert "file" in cache.trouble
    assert cache.get(KEY) is None


def test_a_second_run_takes_everything_from_the_cache(tmp_path: Path) -> None:
    file, cache = write(tmp_path, "pass-a", "fail-b", "error-c"), tmp_path / "cache"
    first = judge(file, cache)
    assert [result.cached for result in first.results] == [False, False, False]
    second = judge(file, cache)
    assert [(result.status, result.cached) for result in second.results] == [
        ("PASS", True), ("FAIL", True), ("ERROR", False),
    ]  # fmt: skip
    assert [result.name for result in second.results] == [result.name for result in first.results]
    assert second.status == first.status == "ERROR"
    assert not any(result.cached for result in judge(file, cache, fresh=True).results)
    assert not any(result.cached for result in judge(file).results)


CHANGES: dict[str, tuple[str, bytes]] = {
    "the artifact": ("pass-a.keras", b"pass-A"),
    "the weights": ("net.weights", b"Weights"),
    "the code": ("net.py", b"import parts\nclass Net:\n    size = 4\n"),
    "code that it imports": ("parts.py", b"FACTOR = 3\n"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_byte_is_judged_anew(tmp_path: Path, what: str) -> None:
    file, cache = write(tmp_path, "pass-a"), tmp_path / "cache"
    judge(file, cache)
    name, content = CHANGES[what]
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    assert [result.cached for result in judge(file, cache).results] == [False]
    (tmp_path / name).write_bytes(before)
    assert [result.cached for result in judge(file, cache).results] == [True]


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("float32[b,3]", "float32[b,3]:0..1", True),
        ("inputs =", "seed = 1\ninputs =", True),
        ("inputs =", 'level = "quick"\ninputs =', True),
        ("inputs =", 'modes = ["eval"]\ninputs =', True),
        ("version = 4", "version = 5", False),
        ('name = "pass-a"', 'name = "pass-renamed"', False),
        ("[gate]", "# moved down\n[gate]", False),
    ],
)
def test_a_changed_setting_is_judged_anew_and_a_name_is_not(tmp_path: Path, old: str, new: str, again: bool) -> None:
    file, cache = write(tmp_path, "pass-a"), tmp_path / "cache"
    judge(file, cache)
    file.write_text(file.read_text().replace(old, new))
    (found,) = judge(file, cache).results
    assert found.cached != again
    assert found.name == ("pass-renamed::check[cpu,both]" if "renamed" in new else "pass-a::check[cpu,both]")
    assert found.place == Place(str(file), file.read_text()[: file.read_text().index("[[model]]")].count("\n") + 1)


def test_a_moved_folder_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    file = write(tmp_path / "one", "pass-a")
    judge(file, tmp_path / "cache")
    moved = file.parent.rename(tmp_path / "two") / file.name
    assert [result.cached for result in judge(moved, tmp_path / "cache").results] == [True]


def test_versions_variables_and_sources_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str | None:
        caching._own_facts.cache_clear()
        return key_of({"seed": 0}, "hash", environment_facts())

    first = key()
    assert key() == first
    seen = {first}
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    seen.add(key())
    monkeypatch.setattr(caching, "sources_sha256", lambda: "other code")
    seen.add(key())
    monkeypatch.setattr(caching.metadata, "distributions", list)
    seen.add(key())
    monkeypatch.setattr(caching.sys, "version", "4.0")
    seen.add(key())
    assert len(seen) == 5
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")  # how much is said is no matter
    assert key() in seen
    monkeypatch.undo()
    caching._own_facts.cache_clear()


def test_the_sources_are_hashed_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import isomorph.parity

    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(isomorph.parity, "__path__", [str(tmp_path)])
    found = set()
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "a.py").write_text(text)
        caching.sources_sha256.cache_clear()
        found.add(caching.sources_sha256())
    caching.sources_sha256.cache_clear()
    assert len(found) == 2


def test_another_interpreter_says_what_it_has(tmp_path: Path) -> None:
    import sys

    here = environment_facts(sys.executable)["elsewhere"]
    assert here[0] == sys.version
    assert any(line.startswith("numpy==") for line in here[1])
    nowhere = tmp_path / "python"
    caching._elsewhere.cache_clear()
    first = environment_facts(str(nowhere))
    caching._elsewhere.cache_clear()
    assert environment_facts(str(nowhere)) != first  # nobody knows: never the same

"""What is kept of a run, what a changed byte does to it, and what is never taken from it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from isomorph.parity.gate import cache as caching
from isomorph.parity.gate.cache import Cache, environment_facts, key_of
from isomorph.parity.gate.reads import reads, state
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
    assert cache.get(KEY, tmp_path) is None
    cache.put(KEY, tmp_path, RESULT)
    assert cache.get(KEY, tmp_path) == RESULT
    assert cache.get("cd" * 32, tmp_path) is None
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == [f"{KEY}.json"]


@pytest.mark.parametrize("status", EXIT_CODES)
def test_only_what_was_decided_is_kept(tmp_path: Path, status: Status) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, tmp_path, Result("a", status))
    assert (cache.get(KEY, tmp_path) is not None) == (status in ("PASS", "FAIL", "NOTHING_COMPARED", "BUDGET"))


def test_without_a_key_nothing_is_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(None, tmp_path, RESULT)
    assert cache.get(None, tmp_path) is None
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
    cache.put(KEY, tmp_path, RESULT)
    file = only_file(tmp_path)
    damaged = damage(file.read_text())
    assert damaged != file.read_text()
    file.write_text(damaged)
    assert cache.get(KEY, tmp_path) is None


def test_an_entry_whose_files_are_gone_is_none(tmp_path: Path) -> None:
    file = tmp_path / "reproducer"
    file.write_text("")
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, tmp_path, Result("a", "FAIL", artifacts={"reproducer": str(file)}))
    assert cache.get(KEY, tmp_path) is not None
    file.unlink()
    assert cache.get(KEY, tmp_path) is None


HIDDEN = """
import importlib
from pathlib import Path
class Net:
    size = len((Path(__file__).parent / "data" / f"{'net'}.bin").read_bytes())
    more = importlib.import_module("un" + "seen").MORE
"""


@pytest.mark.parametrize("engine", ["process", "inline"])
@pytest.mark.parametrize("name", ["data/net.bin", "unseen.py", "../beside.txt"])
def test_a_file_that_is_read_at_run_time_counts_as_well(
    tmp_path: Path, engine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing in the code says which one it will be."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))  # the tests' own folders lie in the system's
    (tmp_path / "gate" / "data").mkdir(parents=True)
    file, cache = write(tmp_path / "gate", "load-a", "load-b"), tmp_path / "cache"
    (file.parent / "net.py").write_text(HIDDEN)
    for other in ("data/net.bin", "unseen.py", "../beside.txt"):
        (file.parent / other).write_text("MORE = 1\n")

    def cached() -> list[bool]:
        sys.modules.pop("unseen", None)
        return [result.cached for result in judge(file, cache, engine=engine).results]

    assert cached() == [False, False]
    assert cached() == [True, True]
    (file.parent / name).write_text("MORE = 2  # another length\n")
    assert cached() == [False, False]
    assert cached() == [True, True]
    (file.parent / name).unlink()
    assert cached() == [False, False]


SOUGHT = """
import os
from pathlib import Path
HERE = Path(__file__).parent
class Net:
    scale = os.environ.get("MODEL_SCALE", "1")
    last = sorted((HERE / ("da" + "ta")).glob("*.txt"))[-1].name
    linked = open(HERE / ("la" + "test")).read()
    try:
        more = open(HERE / ("mo" + "re")).read()
    except FileNotFoundError:
        more = ""
"""


@pytest.mark.parametrize("engine", ["process", "inline"])
@pytest.mark.parametrize("change", ["another", "link", "more", "variable"])
def test_what_was_sought_and_listed_counts_as_well(
    tmp_path: Path, engine: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of several files, a link that leads elsewhere, a file that is there by now, a variable."""
    (tmp_path / "gate" / "data").mkdir(parents=True)
    file, cache = write(tmp_path / "gate", "load-a", "load-b"), tmp_path / "cache"
    folder = file.parent
    (folder / "net.py").write_text(SOUGHT)
    for name in ("data/1.txt", "one", "two", "../beside.txt"):
        (folder / name).write_text(name)
    (folder / "latest").symlink_to("one")

    def cached() -> list[bool]:
        return [result.cached for result in judge(file, cache, engine=engine).results]

    assert cached() == [False, False]
    assert cached() == [True, True]
    if change == "another":
        (folder / "data" / "2.txt").write_text("2")
    elif change == "link":
        (folder / "latest").unlink()
        (folder / "latest").symlink_to("two")
    elif change == "more":
        (folder / "more").write_text("more")
    else:
        monkeypatch.setenv("OTHER_SCALE", "2")
        assert cached() == [True, True], "nobody asked for it"
        monkeypatch.setenv("MODEL_SCALE", "2")
    assert cached() == [False, False]


@pytest.mark.parametrize("more", ["isolate = true", 'memory_limit = "8 GB"'])
def test_code_in_a_process_of_its_own_is_not_vouched_for(tmp_path: Path, more: str) -> None:
    """Nobody hears what it opens there."""
    file = write(tmp_path, "pass-a", "pass-b", more=f"{more}\n")
    for expected in ([False, False], [True, False]):
        assert [result.cached for result in judge(file, tmp_path / "cache").results] == expected


@pytest.mark.parametrize(
    ("more", "kept"),
    [('backend = "jax"', False), ('devices = ["cuda"]', False), ("[model.budgets]\nmemory = 5", True), ("", True)],
)
def test_an_artifact_of_code_is_kept_where_it_is_heard(tmp_path: Path, more: str, kept: bool) -> None:
    file = write(tmp_path, "pass-a", more=f"{more}\n")
    file.write_text(file.read_text().replace("pass-a.keras", "net.py:Net"))
    judge(file, tmp_path / "cache")
    first, *rest = judge(file, tmp_path / "cache").results
    assert first.cached is kept
    assert not any(result.cached for result in rest), "memory is measured in another process"


def test_the_state_of_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    seen = [state(folder)]
    folder.mkdir()
    for name in ("a", "b", "__pycache__"):
        seen.append(state(folder))
        (folder / name).write_text(name)
    assert len(set(seen)) == 4
    assert state(folder) == seen[-1], "what Python compiles is no news"
    assert state(folder / "a") != state(folder / "b")


def test_a_file_that_is_written_to_meanwhile_is_not_vouched_for(tmp_path: Path) -> None:
    file, cache = tmp_path / "read.txt", Cache(tmp_path / "cache")
    file.write_text("")
    for since, kept in ((file.stat().st_mtime - 1, False), (file.stat().st_mtime + 1, True)):
        cache.put(KEY, tmp_path, RESULT, (str(file),), since)
        assert (cache.get(KEY, tmp_path) is not None) == kept


def test_what_is_installed_and_what_is_temporary_is_no_file_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "task/a.txt",
        "task/env/site-packages/b.py",
        "scratch/c.txt",
        "other/d.txt",
        "out/e.txt",
        "task/f.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path / "task")
    with reads(tmp_path / "task", [tmp_path / "out"]) as found:
        for name in ("a.txt", "env/site-packages/b.py", "../scratch/c.txt", "../other/d.txt", "../out/e.txt"):
            Path(name).read_text()
        Path("f.txt").write_text("only written")
        Path("gone.txt").write_text("")
        Path("gone.txt").read_text()
        Path("gone.txt").unlink()
        Path(json.__file__).read_text()
        os.listdir("env")
        os.listdir("../scratch")
        with suppress(FileNotFoundError):
            Path("sought.txt").read_text()
        monkeypatch.chdir(tmp_path)
    here = [path for path in found.files() if path.startswith(str(tmp_path))]
    assert here == [str(tmp_path / name) for name in ("other/d.txt", "task/a.txt", "task/env", "task/sought.txt")]
    assert str(Path(__file__).resolve()) in found.files()  # a module that was loaded before
    with reads(tmp_path) as found:
        pass
    (tmp_path / "task/a.txt").read_text()
    assert not any(path.startswith(str(tmp_path)) for path in found.files())


def test_a_folder_that_takes_nothing_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    cache.put(KEY, tmp_path, RESULT)
    assert "file" in cache.trouble
    assert cache.get(KEY, tmp_path) is None


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
    here = environment_facts(sys.executable)["elsewhere"]
    assert here[0] == sys.version
    assert any(line.startswith("numpy==") for line in here[1])
    nowhere = tmp_path / "python"
    caching._elsewhere.cache_clear()
    first = environment_facts(str(nowhere))
    caching._elsewhere.cache_clear()
    assert environment_facts(str(nowhere)) != first  # nobody knows: never the same

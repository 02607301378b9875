"""`isomorph gate verify`: this very file, or a refusal. What is not as it should be never passes."""

from __future__ import annotations

import base64
import copy
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isomorph.parity.cli import parser
from isomorph.parity.console import Console
from isomorph.parity.gate import digest, statement, verify
from isomorph.parity.gate.policy import load
from isomorph.parity.gate.verify import CHANGED, EXPIRED, NOT_PASSED, OLDER_POLICY, PASSED, UNREADABLE

from .verdicts import NOW, POLICY, Subject, passed, record, result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was passed, and the verdict that says so."""
    made = tmp_path_factory.mktemp("served")
    (made / "isomorph.toml").write_text(POLICY)
    (made / "verdict.json").write_text(json.dumps(passed(made, sha256=load(made / "isomorph.toml").sha256), indent=2))
    return made


@pytest.fixture
def said(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "verdict.json").read_text()))


def asked(folder: Path, document: Any = None, **how: Any) -> verify.Verified:
    return verify.verify(folder / "verdict.json" if document is None else document, folder / "net.keras",
                         **{"policy": folder / "isomorph.toml", "at": NOW, **how})  # fmt: skip


# ------------------------------------------------------------------------------------------------------- what it is for
def test_the_very_file_is_passed(folder: Path) -> None:
    found = asked(folder)
    assert (found.code, found.model, found.notes) == (PASSED, "digits", ())
    assert found
    assert found.passed
    assert found.message == "passed as digits, until 2026-12-20T12:00:00Z"


@pytest.mark.parametrize("at", range(9))
def test_any_changed_byte_is_refused(folder: Path, tmp_path: Path, at: int) -> None:
    path = tmp_path / "net.keras"
    data = bytearray((folder / "net.keras").read_bytes())
    path.write_bytes(data)
    assert verify.verify(folder / "verdict.json", path, at=NOW).code == PASSED
    data[at] ^= 1
    path.write_bytes(data)
    found = verify.verify(folder / "verdict.json", path, at=NOW)
    assert found.code == CHANGED
    assert not found
    assert "is not the net.keras that was passed" in found.message


def test_another_file_and_the_original_are_refused(folder: Path) -> None:
    stranger = verify.verify(folder / "verdict.json", folder / "isomorph.toml", at=NOW)
    assert (stranger.code, "none of the models" in stranger.message) == (CHANGED, True)
    original = verify.verify(folder / "verdict.json", folder / "net.pt", at=NOW)
    assert (original.code, "is an original" in original.message) == (CHANGED, True)
    absent = verify.verify(folder / "verdict.json", folder / "absent.keras", at=NOW)
    assert (absent.code, "cannot be read" in absent.message) == (UNREADABLE, True)


def test_a_name_does_not_matter(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "served.bin").write_bytes((folder / "net.keras").read_bytes())
    assert verify.verify(folder / "verdict.json", tmp_path / "served.bin", at=NOW).passed


@pytest.mark.parametrize("status", ["FAIL", "ERROR", "NOT_FOUND", "BUDGET", "INCOMPLETE", "WAIVER_EXPIRED", "pass", ""])
def test_what_is_no_pass_is_refused(folder: Path, said: dict[str, Any], status: str) -> None:
    said["predicate"]["status"] = status
    found = asked(folder, said)
    assert (found.code, found.message) == (NOT_PASSED, f"the verdict is no PASS but {status}")


def test_an_older_policy_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "isomorph.toml"
    path.write_text(POLICY.replace("version = 3", "version = 4"))
    found = asked(folder, policy=path)
    assert (found.code, found.message) == (
        OLDER_POLICY, "made under version 3 of the policy; isomorph.toml is version 4"
    )  # fmt: skip
    path.write_text(POLICY.replace("version = 3", "version = 2"))
    newer = asked(folder, policy=path)
    assert (newer.code, newer.notes) == (
        PASSED, ("made under version 3 of the policy; isomorph.toml is version 2",)
    )  # fmt: skip
    path.write_text(POLICY + "# another text\n")
    found = asked(folder, policy=path)
    assert (found.code, "another policy that is version 3 too" in found.message) == (OLDER_POLICY, True)
    path.write_text("[gate]\nversoin = 3\n")
    assert asked(folder, policy=path).code == UNREADABLE
    unasked = asked(folder, policy=None)
    assert (unasked.code, unasked.notes) == (PASSED, ("the policy's version was not checked: no --policy",))


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (NOW + timedelta(days=30), PASSED),
        (NOW + timedelta(days=30, seconds=1), EXPIRED),
        (NOW - timedelta(minutes=5), PASSED),  # a clock that is a little behind
        (NOW - timedelta(minutes=5, seconds=1), EXPIRED),
        ("2026-12-19", PASSED),
        ("2026-12-20", EXPIRED),  # a date is its last second
        (date(2026, 11, 20), PASSED),
        (datetime(2026, 12, 20, 12), PASSED),  # UTC where no timezone is named
        ("2026-12-20T13:00:00+02:00", PASSED),
        ("0001-01-01", EXPIRED),
        ("9999-12-31", EXPIRED),
        ("tomorrow", UNREADABLE),
        ("2026-13-01", UNREADABLE),
    ],
)
def test_a_verdict_holds_for_its_time(folder: Path, at: Any, code: int) -> None:
    assert asked(folder, at=at).code == code


def test_a_directory_is_passed_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_text("x")
    saved = tmp_path / "saved"
    (saved / "variables").mkdir(parents=True)
    (saved / "variables" / "data").write_text("1")
    found = result(tmp_path, subjects=digest.subjects("converted", "saved", saved))
    said = statement.of(record(found), [found.name], 30, NOW)
    assert verify.verify(said, saved, at=NOW).passed
    assert verify.verify(said, saved / "variables" / "data", at=NOW).code == CHANGED
    (saved / "more").write_text("")
    assert verify.verify(said, saved, at=NOW).code == CHANGED


def test_the_data_beside_an_onnx_have_to_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("model")
    (tmp_path / "weights").mkdir()
    data = tmp_path / "weights" / "net.data"
    data.write_text("weights")
    subjects = (Subject("converted", "net.onnx", *digest.of(tmp_path / "net.onnx")),
                Subject("converted", "weights/net.data", "data", *digest.of(data)[1:]))  # fmt: skip
    found = result(tmp_path, subjects=subjects)
    said = statement.of(record(found), [found.name], 30, NOW)
    assert verify.verify(said, tmp_path / "net.onnx", at=NOW).passed
    assert "is a part of a model" in verify.verify(said, data, at=NOW).message
    data.write_text("Weights")
    changed = verify.verify(said, tmp_path / "net.onnx", at=NOW)
    assert (changed.code, "belongs to net.onnx" in changed.message) == (CHANGED, True)
    data.unlink()
    assert verify.verify(said, tmp_path / "net.onnx", at=NOW).code == CHANGED


# ------------------------------------------------------------------------------------------------ signed and in bundles
def enveloped(text: str) -> dict[str, Any]:
    payload = base64.b64encode(text.encode()).decode()
    return {
        "payloadType": "application/vnd.in-toto+json",
        "payload": payload,
        "signatures": [{"keyid": "", "sig": "x"}],
    }


@pytest.mark.parametrize("bundle", [False, True])
def test_an_envelopes_payload_is_read_and_its_signature_is_not(
    folder: Path, said: dict[str, Any], bundle: bool
) -> None:
    envelope = enveloped(json.dumps(said))
    document = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    found = asked(folder, document if bundle else envelope)
    assert (found.code, len(found.notes)) == (PASSED, 1)
    assert "the signature was not checked" in found.notes[0]


@pytest.mark.parametrize(
    "document",
    [
        enveloped("no json"),
        enveloped("[]"),
        enveloped('{"_type": 1, "_type": 2}'),
        {**enveloped("{}"), "payloadType": "text/plain"},
        {**enveloped("{}"), "payload": "*"},
        {**enveloped("{}"), "payload": 5},
        {"dsseEnvelope": 5},
        {},
    ],
)
def test_an_envelope_of_something_else_is_unreadable(folder: Path, document: dict[str, Any]) -> None:
    assert asked(folder, document).code == UNREADABLE


def test_an_envelope_says_what_is_in_it(folder: Path, said: dict[str, Any]) -> None:
    envelope = enveloped(json.dumps(said))
    assert asked(folder, envelope).passed
    assert asked(folder, {**envelope, "payloadType": "application/json"}).code == UNREADABLE


# ------------------------------------------------------------------------------------------------------ it fails closed
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-2],
        lambda text: "[" * 100_000,
        lambda text: "\ufeff" + text,
        lambda text: text.replace('"status": "PASS"', '"status": "FAIL", "status": "PASS"', 1),
        lambda text: text.replace('"seed": 7', '"seed": NaN'),
        lambda text: text.replace('"seed": 7', f'"seed": {"7" * 5000}'),
        lambda text: text.replace('"version": 3', '"version": true'),
        lambda text: text.replace('"version": 3', '"version": 3.0'),
        lambda text: text.replace('"version": 3', '"version": "3"'),
        lambda text: text.replace("2026-12-20T12:00:00Z", "2026-12-20 12:00:00"),
        lambda text: text.replace("2026-12-20T12:00:00Z", "2026-11-19T12:00:00Z"),
        lambda text: text.replace("2026-12-20T12:00:00Z", "9999-99-99T12:00:00Z"),
        lambda text: text.replace("Statement/v1", "Statement/v0.1"),
        lambda text: text.replace("isomorph-gate-verdict/v1", "isomorph-gate-verdict/v2"),
        lambda text: text.replace('"complete": true', '"complete": false'),
        lambda text: text.replace('"missing": []', '"missing": ["digits::budget[size]"]'),
    ],
    ids=range(17),
)
def test_a_damaged_verdict_is_unreadable(folder: Path, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    text = (folder / "verdict.json").read_text()
    assert spoil(text) != text
    path = tmp_path / "verdict.json"
    path.write_text(spoil(text))
    assert asked(folder, path).code == UNREADABLE


def test_a_verdict_that_is_no_text_no_file_or_too_large_is_unreadable(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    assert asked(folder, path).code == UNREADABLE
    assert asked(folder, tmp_path).code == UNREADABLE
    path.write_bytes(b"\xff\xfe{}")
    assert asked(folder, path).code == UNREADABLE
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # sparse: it takes no room, and reading it all would take ten gigabytes
    assert "is no verdict" in asked(folder, path).message


def test_a_pass_that_its_results_contradict_is_unreadable(folder: Path, said: dict[str, Any]) -> None:
    model = said["predicate"]["models"][0]
    for place in (model, model["results"][0]):
        place["status"] = "FAIL"
        assert "contradict" in asked(folder, said).message
        place["status"] = "PASS"
    model["results"].clear()
    assert asked(folder, said).code == UNREADABLE


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": {"status": "FAIL", "mismatches_in_all": 0}},
        {"verdict": {"status": "PASS", "mismatches_in_all": 1}},
        {"budgets": [{"kept": False, "measured": None, "limit": 1}]},
        {"budgets": [{"kept": True, "measured": 2, "limit": 1}]},
    ],
)
def test_a_result_that_says_what_stands_against_it_is_no_pass(
    folder: Path, said: dict[str, Any], change: dict[str, Any]
) -> None:
    (result,) = said["predicate"]["models"][0]["results"]
    result.update(change)
    assert result["waivers"], "somebody answers for it"
    assert asked(folder, said).passed
    result["waivers"] = []
    found = asked(folder, said)
    assert (found.code, "contradict" in found.message) == (UNREADABLE, True)


def test_a_verdict_that_holds_longer_than_its_policy_says_is_unreadable(folder: Path, said: dict[str, Any]) -> None:
    said["predicate"]["expires"] = "2026-12-20T12:00:01Z"
    found = asked(folder, said)
    assert (found.code, "expire after 30 days" in found.message) == (UNREADABLE, True)
    assert asked(folder, said, policy=None).passed, "nobody says how long it may be"


def test_a_verdict_of_code_alone_passes_no_file(folder: Path, said: dict[str, Any]) -> None:
    said["predicate"]["models"][0]["converted"] = []
    found = asked(folder, said)
    assert (found.code, "it passes no file and no directory" in found.message) == (CHANGED, True)


def test_a_part_outside_of_the_folder_is_unreadable(folder: Path, said: dict[str, Any]) -> None:
    for name in ("../net.pt", "/etc/passwd", "", ".", "a//b", "a\\b", "a\0b"):
        part = {"name": name, "size": 6, "digest": {"sha256": digest.of(folder / "net.pt").sha256}}
        said["predicate"]["models"][0]["converted"][0]["parts"] = [part]
        assert asked(folder, said).code == UNREADABLE


def test_a_part_that_no_signature_of_the_subjects_covers_is_unreadable(folder: Path, said: dict[str, Any]) -> None:
    part = {"name": "net.pt", "size": 6, "digest": {"sha256": digest.of(folder / "net.pt").sha256}}
    said["predicate"]["models"][0]["converted"][0]["parts"] = [part]
    assert asked(folder, said).passed  # net.pt is among the subjects
    said["subject"] = said["subject"][:1]
    assert "is not among its subjects" in asked(folder, said).message


@pytest.mark.parametrize("sha256", ["", "b" * 63, "B" * 64, "b" * 64 + "\n"])
def test_a_hash_that_is_none_is_unreadable(folder: Path, said: dict[str, Any], sha256: str) -> None:
    said["predicate"]["policy"]["sha256"] = sha256
    assert asked(folder, said, policy=None).code == UNREADABLE


def entails(said: Any, sha256: str) -> bool:
    """By another way than the code's: does this document, as it stands, say that the file was passed at `NOW`?"""
    try:
        predicate = said["predicate"]
        models = predicate["models"]
        statuses = [predicate["status"], *(m["status"] for m in models), *(r["status"] for m in models
                                                                         for r in m["results"])]  # fmt: skip
        return (
            said["_type"] == "https://in-toto.io/Statement/v1"
            and said["predicateType"] == statement.PREDICATE
            and set(statuses) == {"PASS"}
            and predicate["complete"] is True
            and predicate["missing"] == []
            and predicate["created"] <= "2026-11-20T12:05:00Z"
            and predicate["expires"] >= "2026-11-20T12:00:00Z"
            and (type(predicate["policy"]["version"]), predicate["policy"]["version"] >= 3) == (int, True)
            and sha256 in [subject["digest"].get("sha256") for subject in said["subject"]]
            and sha256 in [artifact["digest"].get("sha256") for m in models for artifact in m["converted"]]
        )
    except (KeyError, TypeError, AttributeError):
        return False


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


LIKELY = ["PASS", "FAIL", "2026-11-20T12:00:00Z", "2030-01-01T00:00:00Z", "2026-12-31", "0" * 64, "../x", "sha256"]
NUMBERS = st.integers() | st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(LIKELY)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=5)  # fmt: skip
FUZZ = settings(max_examples=300, deadline=None, database=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@FUZZ
@given(st.data())
def test_no_change_of_a_verdict_makes_it_pass_wrongly(folder: Path, data: st.DataObject) -> None:
    original = json.loads((folder / "verdict.json").read_text())
    changed = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([path for path in places(changed) if path]))
        place = changed
        for key in way:
            place = place[key]
        if data.draw(st.booleans()):
            place[last] = data.draw(VALUES)
        else:
            del place[last]
    path = folder / "fuzzed.json"
    path.write_text(json.dumps(changed))
    found = asked(folder, path)
    assert found.code in (PASSED, NOT_PASSED, UNREADABLE, CHANGED, OLDER_POLICY, EXPIRED)
    assert "\n" not in found.message
    if found.passed:
        assert entails(changed, digest.of(folder / "net.keras").sha256)


@FUZZ
@given(st.data())
def test_no_change_of_a_verdicts_bytes_makes_it_pass_wrongly(folder: Path, data: st.DataObject) -> None:
    text = bytearray((folder / "verdict.json").read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 3))] = data.draw(
        st.binary(max_size=3) | st.sampled_from([b'"', b"}", b"{"])
    )
    path = folder / "fuzzed.json"
    path.write_bytes(text)
    if asked(folder, path).passed:
        assert entails(json.loads(text), digest.of(folder / "net.keras").sha256)


@FUZZ
@given(VALUES)
def test_whatever_else_is_given_is_refused(folder: Path, value: Any) -> None:
    path = folder / "fuzzed.json"
    path.write_text(json.dumps(value))
    assert asked(folder, path).code == UNREADABLE


# ---------------------------------------------------------------------------------------------------- light and quick
# What the interpreter itself loads at its start (.pth files) is not the command's.
PROBE = """
import sys
before = set(sys.modules)
from isomorph.parity.gate.verify import verify
answer = verify(*sys.argv[1:4])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"isomorph"}
print(answer.code, sorted(loaded), sep="|")
"""


def test_it_loads_the_standard_library_only(folder: Path) -> None:
    files = [str(folder / name) for name in ("verdict.json", "net.keras", "isomorph.toml")]
    done = subprocess.run([sys.executable, "-c", PROBE, *files], capture_output=True, text=True, check=True)
    assert done.stdout.split("|")[1].strip() == "[]"


# --------------------------------------------------------------------------------------------------------- the command
def command(folder: Path, *arguments: str, model: str = "net.keras") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    options = parser().parse_args(["gate verify", str(folder / "verdict.json"), str(folder / model), *arguments])
    return verify.run(options, Console(out, err)), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("code", "model", "arguments", "told"),
    [
        (PASSED, "net.keras", (), "PASS {}: passed as digits, until 2026-12-20T12:00:00Z"),
        (CHANGED, "net.pt", (), "REFUSED {}: {} is an original, which others were compared with"),
        (UNREADABLE, "absent.keras", (), "REFUSED {}: {} cannot be read: No such file or directory"),
        (EXPIRED, "net.keras", ("--at", "2027-01-01"), "REFUSED {}: the verdict expired at 2026-12-20T12:00:00Z"),
        (UNREADABLE, "net.keras", ("--at", "soon"), "REFUSED {}: --at: 'soon' is no date or time of ISO 8601"),
        (UNREADABLE, "net.keras", ("--policy", "absent.toml"), "REFUSED {}: absent.toml: no such file"),
    ],
)
def test_the_command_answers_in_a_line(
    folder: Path, code: int, model: str, arguments: tuple[str, ...], told: str
) -> None:
    at = () if "--at" in arguments else ("--at", "2026-12-01")
    found, out, err = command(folder, *arguments, *at, model=model)
    assert found == code
    assert out.startswith(told.replace("{}", str(folder / model)))
    assert out.count("\n") == 1
    assert err in ("", "note: the policy's version was not checked: no --policy\n")


def test_the_command_refuses_all_when_one_is_refused(folder: Path) -> None:
    code, out, _ = command(folder, str(folder / "net.pt"), "--at", "2026-12-01")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (CHANGED, ["PASS", "REFUSED"])


def test_the_command_in_json(folder: Path) -> None:
    code, out, err = command(folder, str(folder / "net.pt"), "--at", "2026-12-01", "--json")
    said = json.loads(out)
    assert (code, said["exit_code"], said["status"], err) == (CHANGED, CHANGED, "REFUSED", "")
    assert [(m["passed"], m["exit_code"], m["model"]) for m in said["models"]] == [(True, 0, "digits"), (False, 11, "")]


def test_the_whole_command_takes_a_fraction_of_a_second_and_loads_no_framework(folder: Path) -> None:
    """In user and system time of its process, as another process may have the machine meanwhile."""
    probe = (
        "import resource, sys; before = set(sys.modules)\n"
        "from isomorph.parity.cli import main; code = main(sys.argv[1:])\n"
        "loaded = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "loaded -= {*sys.stdlib_module_names, 'isomorph'}\n"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(code, used.ru_utime + used.ru_stime, *loaded)"
    )
    command = ["gate", "verify", str(folder / "verdict.json"), str(folder / "net.keras"), "--at", "2026-12-01",
               "--policy", str(folder / "isomorph.toml")]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", probe, *command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PASS")
    code, used, *loaded = done.stdout.splitlines()[1].split()
    assert (code, loaded) == ("0", [])
    assert float(used) < 0.5

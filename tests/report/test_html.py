"""The page as text: the same for the same record, closed to markup, whole without a verdict; and its figures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.record import EXIT_CODES, Record
from isomorph.parity.report import html, html_data, html_text
from isomorph.parity.report.html_case import counterexample, located
from isomorph.parity.report.html_png import png_uri
from tests.report import nasty, records, verdicts

MAKERS = [records.passed, records.failed, records.gate, records.hostile, nasty.record, nasty.empty]


class Markup(HTMLParser):
    """Every element's name, attributes and, of scripts and styles, content."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[str, dict[str, str], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag in ("script", "style"):
            self.raw.append((*self.elements[-1], ""))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style") and self.cdata_elem:
            tag, attributes, text = self.raw[-1]
            self.raw[-1] = (tag, attributes, text + data)


def embedded(page: str) -> list[dict[str, Any]]:
    """The data of each result."""
    return [json.loads(text) for _, said, text in Markup(page).raw if said.get("type") == "application/json"]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: f"{make.__module__.split('.')[-1]}.{make.__name__}")
def test_the_same_record_gives_the_same_text(make: Callable[[], Record]) -> None:
    page = html.render(make())
    assert page == html.render(make())
    assert page.startswith("<!doctype html>")
    assert page.encode("utf-8")


def test_a_record_that_was_read_gives_the_same_page() -> None:
    record = records.gate()
    assert html.render(Record.from_dict(json.loads(json.dumps(record.to_dict())))) == html.render(record)


@pytest.mark.parametrize("make", [records.hostile, nasty.record], ids=["hostile", "nasty"])
def test_names_are_no_markup(make: Callable[[], Record]) -> None:
    """The elements are those of a page whose names are harmless; only their number differs with the number of rows."""
    found = Markup(html.render(make()))
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in Markup(html.render(records.gate())).elements}
    assert not [said for _, said in found.elements if any(key.startswith("on") or key == "style" for key in said)]
    scripts = [said.get("type", "") for tag, said, _ in found.raw if tag == "script"]
    assert scripts == [*["application/json"] * len(make().results), "text/plain", ""]
    raw = [text for _, said, text in found.raw if said.get("type") == "application/json"]
    assert not any(sign in text for text in raw for sign in "<>&")


def test_nothing_outside_the_file_is_named() -> None:
    for tag, said in Markup(html.render(records.failed())).elements:
        for key in ("src", "href", "data", "action", "srcset"):
            link = said.get(key, "")
            assert link.startswith(("#", "data:")) or not link, (tag, link)


def test_the_policy_holds_the_hashes_of_what_may_run() -> None:
    found = Markup(html.render(records.failed()))
    policy = next(said["content"] for tag, said in found.elements if said.get("http-equiv"))
    for tag, said, text in found.raw:
        if said.get("type") != "application/json":
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy, tag
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["jinja2", "vl_convert"])
def test_a_missing_library_is_said_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    html._vega.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'isomorph\[report\]'") as caught:
        html.render(records.passed())
    assert "\n" not in str(caught.value)


def test_every_status_and_what_comes_with_it_is_said() -> None:
    page = html.render(records.gate())
    for status in EXIT_CODES:
        assert status.replace("_", " ") in page, status
    for said in (
        "2 of 11 results pass.", "1.93×", "1.2 MB", "20 MB", "not measured", "Ada Lovelace", "2027-03-01",
        "value/parameter gradient/stem.weight", "3f" * 32, "5c" * 32, "a planted error was not noticed",
        "the verdict itself is FAIL", "2 results were taken from the cache", "isomorph.toml:12",
        "No verdict was reached.",
    ):  # fmt: skip
        assert said in page, said


def test_a_pass_says_what_was_not_judged() -> None:
    page = html.render(records.passed())
    for said in (
        "1 parameter whose gradient is zero or not finite in every example: head.bias", "a kink at 0 of relu was let",
        "gradients of the .onnx artifact: its runtime gives none", "24 in eval mode, 8 in train mode", "1 of 1",
    ):  # fmt: skip
        assert said in page, said


def test_how_to_see_it_again() -> None:
    record = records.failed()
    page = html.render(record)
    assert "python -m pytest reproducers/digits" in page
    assert "isomorph check package.net:Net digits.keras --examples 24 --seed 0" in page
    settings = {"level": "quick", "modes": ["eval"], "strict": False, "inputs": ["x=float32[b,1,8,8]:0..1"]}
    result = replace(record.results[0], settings=settings, device="cuda:0", original="a b.py:net")
    said = dict(html_text.commands(result, record, result.verdict or {}))["These two models"]
    assert said == (
        "isomorph check 'a b.py:net' digits.keras --input 'x=float32[b,1,8,8]:0..1' --level quick --mode eval"
        " --no-strict --device cuda:0 --seed 0"
    )


def test_a_file_becomes_a_link_where_it_lies_beside_the_page(tmp_path: Path) -> None:
    record = records.failed()
    assert 'href="reproducers/digits"' not in html.render(record, tmp_path)
    (tmp_path / "reproducers" / "digits").mkdir(parents=True)
    assert 'href="reproducers/digits"' in html.render(record, tmp_path)
    (tmp_path / "javascript:alert(1)").touch()
    evil = record.results[0].__class__("x", "PASS", artifacts={"a": "javascript:alert(1)"})
    assert 'href="javascript%3Aalert%281%29"' in html.render(records.record(evil), tmp_path)


def test_the_data_is_the_evidence_in_columns() -> None:
    verdict = records.failed().results[0].verdict
    assert verdict is not None
    data = html_data.compact(verdict)
    assert data["lines"] == len(verdict["evidence"])
    assert data["omitted"] == 0
    rows, at = data["rows"], 40
    line, group = verdict["evidence"][at], data["groups"][rows["group"][at]]
    assert group == [line["stage"], line["quantity"], line["mode"], line["dtype"]]
    name, module = data["arrays"][rows["array"][at]]
    assert f"{data['paths'][module]}.{name}" == line["name"]
    assert rows["error"][at] == pytest.approx(line["error"], rel=5e-3)
    assert [data["paths"][i] for i in data["order"]] == [item["path"] for item in verdict["modules"]]


def test_of_very_much_evidence_the_worst_is_kept() -> None:
    verdict = records.failed().results[0].verdict
    assert verdict is not None
    data = html_data.compact(verdict, 30)
    assert (data["lines"], data["omitted"]) == (30, len(verdict["evidence"]) - 30)
    failed = sum(1 for line in verdict["evidence"] if line["failed"])
    assert sum(1 for count in data["rows"]["failed"] if count) == min(30, failed)


def test_a_vote_in_the_precision_stage_is_no_failure() -> None:
    """One example of 24 beyond what is allowed: the verdict is a PASS, and nothing of it is shown as failed."""
    good = verdicts.good()
    votes = tuple(replace(e, failed=1, equal=e.equal - 1) if e.stage == "precision" else e for e in good.evidence)
    voted = replace(good, evidence=votes, checks=verdicts.checks(votes))
    assert html_data.compact(voted.to_dict())["rows"]["differs"] == 0
    assert 'class="number bad"' not in html.render(records.record(records.result("voted", voted)))
    failed = verdicts.bad()
    rows = html_data.compact(failed.to_dict())["rows"]
    assert 0 < sum(rows["differs"]) < len(rows["differs"])
    assert 'class="number bad"' in html.render(records.record(records.result("failed", failed)))


def test_a_module_called_twice_keeps_its_larger_error() -> None:
    first = {"path": "a", "kind": "K", "counterpart": "", "forward": 1e-7, "forward_floor": 1e-7, "gradient": None,
             "gradient_floor": None, "parameters": []}  # fmt: skip
    data = html_data.compact({"modules": [first, {**first, "forward": 3e-7, "gradient": "nan"}]})
    assert (data["paths"], data["forward"], data["gradient"], data["order"]) == (["a"], [3e-7], ["nan"], [0])


def test_the_picture_holds_the_pixels() -> None:
    for channels in (1, 3):
        said = verdicts.preview(5, 7, channels)
        data = base64.b64decode(png_uri(said).partition(",")[2])
        assert struct.unpack(">IIBB", data[16:26]) == (7, 5, 8, 2 if channels == 3 else 0)
        length = struct.unpack(">I", data[33:37])[0]
        lines = zlib.decompress(data[41 : 41 + length])
        row = 7 * channels + 1
        assert b"".join(lines[i + 1 : i + row] for i in range(0, len(lines), row)) == base64.b64decode(said["pixels"])


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ([2, 3], [("[0, :]", 3), ("[1, :]", 3)]),
        ([2, 20], [("[0, 0]", 16), ("[0, 16]", 4), ("[1, 0]", 16), ("[1, 16]", 4)]),
        ([2, 1, 2], [("[0, 0, :]", 2), ("[1, 0, :]", 2)]),
        ([3], [("[:]", 3)]),
        ([], [("[]", 1)]),
        ([0], []),
    ],
)
def test_values_stand_where_they_belong(shape: list[int], rows: list[tuple[str, int]]) -> None:
    size = 1
    for length in shape:
        size *= length
    said = verdicts.bad().to_dict()["counterexample"]
    array = {"shape": shape, "dtype": "float32", "nonzero": 0, "values": [float(i) for i in range(size)]}
    found = counterexample({**said, "inputs": {"x": array}})
    assert found is not None
    table = found["arrays"][0]["rows"]
    assert [(index, len(cells)) for index, cells in table] == rows
    assert [cell for _, cells in table for cell, _ in cells] == [str(i) for i in range(size)]


def test_modules_around_the_one_where_they_part_are_listed() -> None:
    said = verdicts.bad(modules=200, at="blocks.5.mlp.act").to_dict()["located"][0]
    several = {**said, "modules": [{**said["modules"][0], "path": f"m{i}"} for i in range(30)], "module": "m15"}
    found = located(several)
    assert (found["before"], found["after"]) == (7, 6)
    assert [module["path"] for module in found["modules"] if module["here"]] == ["m15"]


@pytest.mark.parametrize(
    ("said", "text"),
    [(2.345e-7, "2.3e-7"), (0.0, "0"), (None, "–"), ("nan", "nan"), (float("-inf"), "-inf"), (1.0, "1.0e0")],
)
def test_a_figure(said: Any, text: str) -> None:
    assert html_text.figure(said) == text


def test_sizes_and_durations() -> None:
    assert [html_text.size(n) for n in (0, 999, 1_204_224, 20e9)] == ["", "999 bytes", "1.2 MB", "20 GB"]
    assert [html_text.seconds(n) for n in (0.123, 59, 61.4, 7300)] == ["0.12 s", "59 s", "1 min 1 s", "2 h 1 min"]


def test_two_thousand_modules_are_a_small_file() -> None:
    page = html.render(records.large(2000))
    assert len(page.encode()) < 2_500_000  # of 5 MB that it may be; 0.9 of them are the plots' library
    assert len(embedded(page)[0]["order"]) == 2000


def test_every_asset_is_used() -> None:
    """What lies in page/ is part of the page: a script that is not listed would be dead."""
    folder = Path(html.__file__).parent / "page"
    templates = "".join(file.read_text() for file in folder.glob("*.j2"))
    for file in folder.iterdir():
        named = file.name in html.SCRIPTS or file.name in ("page.j2", "style.css")
        assert named or re.search(rf'(include|import) "{re.escape(file.name)}"', templates), file.name

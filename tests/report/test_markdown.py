"""Markdown as GitHub would show it: rendered by a CommonMark parser with tables, and read back as text."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from isomorph.parity.record import Record, Result
from isomorph.parity.report import markdown
from isomorph.parity.report.texts import line
from tests.report import nasty, records

ALL = (records.passed, records.failed, records.gate, records.hostile, records.large, nasty.record, nasty.empty)
OURS = {
    "h2",
    "p",
    "pre",
    "code",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "details",
    "summary",
    "ul",
    "li",
    "strong",
}


class Page(HTMLParser):
    """tags: all that are opened; cells: text of the first table, row by row; items, summaries, blocks of code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: dict[str, list[str]] = {"td": [], "li": [], "summary": [], "pre": [], "h2": [], "p": []}
        self._open: list[str] = []
        parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        self.html = parser.render(text)
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        if tag in self.found:
            self.found[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            if tag in self.found:
                self.found[tag][-1] += data


@pytest.mark.parametrize("make", ALL)
def test_no_name_is_markup(make: Callable[[], Record]) -> None:
    """Only our own tags are there, as many as we write, and each row of each table has its cells."""
    record = make()
    page = Page(markdown.draw(record))
    assert set(page.tags) <= OURS
    assert page.tags.count("h2") == 1
    assert page.tags.count("details") == len(record.results)
    assert page.tags.count("table") == bool(record.results) + sum(
        result.verdict is not None and bool(result.verdict["checks"]) for result in record.results
    )


def test_names_of_all_signs_are_shown_as_they_are() -> None:
    record = nasty.record()
    page = Page(markdown.draw(record))
    name = line(nasty.SIGNS)
    rows = [page.found["td"][i : i + 5] for i in range(0, 15, 5)]
    assert [row[1] for row in rows if row[0] == "❌ FAIL"] == [name]
    assert page.found["h2"] == [f"❌ ERROR: {name}"]
    assert any(item.startswith("output ") and name in item for item in page.found["li"])
    assert any(name in summary for summary in page.found["summary"])
    assert f"{name} float32[1]: ['nan']\n" in page.found["pre"]


def test_a_page_says_what_was_decided_and_on_what_evidence() -> None:
    page = Page(markdown.draw(records.failed()))
    cells, items = page.found["td"], page.found["li"]
    assert cells[:2] == ["❌ FAIL", "digits"]
    assert cells[3].endswith("(randomised, output)")
    assert "4.8e-01 / 2.9e-11" in cells[3]
    assert any("parameter gradient stem.weight: value" in item for item in items)
    assert "likely: approximate='tanh', not 'none'" in items
    assert "reproducer: reproducers/digits" in items
    assert any("x float32[1, 3, 24, 32]: 2214 elements are not zero" in block for block in page.found["pre"])
    assert "isomorph gate isomorph.toml --report report.html\n" in page.found["pre"]


def test_a_result_that_names_no_models_has_no_line_of_them() -> None:
    text = markdown.draw(Record((Result("t.py::test", "ERROR", "it raised"),)))
    assert " on cpu" not in text
    assert "it raised" in text


def test_gaps_are_shown_though_it_passed() -> None:
    items = Page(markdown.draw(records.passed())).found["li"]
    assert "not checked: gradients of the .onnx artifact: its runtime gives none" in items
    assert any("1 parameter whose gradient is zero" in item and "head.bias" in item for item in items)
    assert "warning: a kink at 0 of relu was let pass in 2 examples" in items


def test_the_gravest_comes_first_and_only_what_failed_is_open() -> None:
    text = markdown.draw(records.gate())
    states = [cell.split()[1] for cell in Page(text).found["td"][:55:5]]
    assert states == ["ERROR", "FAIL", "NOT_FOUND", "UNSUPPORTED", "NOTHING_COMPARED", "REGRESSION", "BUDGET",
                      "WAIVER_EXPIRED", "WAIVER_UNUSED", "PASS", "PASS"]  # fmt: skip
    assert (text.count("<details open>"), text.count("<details>")) == (9, 2)


def test_budgets_waivers_policy_and_notes() -> None:
    page = Page(markdown.draw(records.gate()))
    items = page.found["li"]
    assert "latency_ratio: 1.93x of 1.5x allowed, not kept (median of 30 runs, side by side)" in items
    assert "size: 1.204 MB of 20 MB allowed" in items
    assert any(
        item.startswith("gelu-tanh: value/parameter gradient/stem.weight (the runtime has no erf") for item in items
    )
    assert any(item.endswith("[waived: gelu-tanh]") for item in items)
    assert "2 results were taken from the cache" in items
    assert any(text.startswith("Policy: file isomorph.toml, version 3") for text in page.found["p"])


def test_nothing_is_no_success() -> None:
    text = markdown.draw(nasty.empty())
    assert text.startswith("## ⚠️ NOTHING_COMPARED: isomorph gate")
    assert "nothing was proven" in text


# --------------------------------------------------------------------------------------------------------------- size
@pytest.mark.parametrize("limit", [2_000, 5_000, 20_000, 100_000])
def test_a_page_keeps_its_limit_and_says_what_was_left_out(limit: int) -> None:
    record = records.gate()
    text = markdown.draw(record, limit)
    assert len(text.encode()) <= limit
    page = Page(text)
    shown = page.tags.count("details")
    left = [word for said in page.found["p"] for word in said.split(".") if "have their details left out" in word]
    if shown == len(record.results):
        assert left == []
    else:
        assert left[0].strip().startswith(f"{len(record.results) - shown} results")
    assert page.html.count("</details>") == shown, "no detail is cut in its middle"


def test_a_very_long_run_keeps_its_limit() -> None:
    record = records.record(*(Result(f"model-{i}" * 20, "FAIL", "x" * 900) for i in range(9_000)))
    text = markdown.draw(record)
    assert 400_000 < len(text.encode()) <= markdown.LIMIT
    assert "rows left out" in text
    assert "9000 results: 9000 FAIL" in text


def test_the_fence_is_longer_than_what_it_holds() -> None:
    record = records.record(Result("a", "PASS"), command="echo '````' && true")
    assert Page(markdown.draw(record)).found["pre"] == ["echo '````' && true\n"]

"""A real browser for the tests of the page: one headless Chromium for all tests of a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from isomorph.parity.record import Record
from isomorph.parity.report import html

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing is asked of the network, and no sandbox, which a container's root cannot have.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Opened:
    """A page that was opened, and everything it complained of or asked for."""

    page: Any
    path: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def draw(self) -> Any:
        """The page with everything opened and drawn, as for the printer."""
        self.page.evaluate("() => { window.dispatchEvent(new Event('beforeprint')) }")
        self.page.wait_for_function("() => !document.querySelector('[data-draw]:not([data-drawn])')")
        return self.page

    def clean(self) -> None:
        """Nothing was complained of, and nothing but the file itself was loaded."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("data:")] == [self.path.as_uri()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright. Skipped where there is none; under CI, which installs it, that fails."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if executable is None or sync_playwright is None:
        missing = "no chromium on the PATH" if executable is None else "playwright is not installed"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """`show(record, **context)`: the record's page, opened in a context of its own."""
    contexts = []

    def opened(record: Record, **context: Any) -> Opened:
        path = tmp_path / "report.html"
        path.write_text(html.render(record), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}))
        found = Opened(contexts[-1].new_page(), path)
        found.page.set_default_timeout(10_000)
        found.page.on("console", lambda said: found.complaints.append(f"{said.type}: {said.text}"))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()

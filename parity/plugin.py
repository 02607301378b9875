"""The pytest plugin's door: what every pytest run loads that has isomorph installed. Standard library and pytest only.

    fixture `parity` -> pytest_plugin.fixture -> Result -> item.stash[RESULTS] -> report.isomorph_results, across xdist
    report -> Scribe (in the controller) -> pytest_plugin.merge.Collector -> the report's files, the terminal summary

Everything else is in `isomorph.parity.pytest_plugin` and is imported on use: see docs/pytest.md.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isomorph.convert.errors import ParityError, UsageError

if TYPE_CHECKING:
    from isomorph.parity.pytest_plugin.fixture import Parity
    from isomorph.parity.pytest_plugin.merge import Collector
    from isomorph.parity.verdict import Verdict

__all__ = ["BASELINES", "REPRODUCERS", "RESULTS", "ParityFailure"]

# What a test has checked and no report has carried away yet: `Result.to_dict()`, JSON-able.
RESULTS: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
# Likewise, what `baseline.Baselines` found that is to be written to the file of baselines: JSON-able entries.
BASELINES: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
# The folder of reproducers, in that of the reports or in pytest's cache. It holds tests, which are run when named only.
REPRODUCERS = "parity-reproducers"

PROFILES = ("ci", "dev", "thorough")
# Name, what argparse is told. Each is an ini value as well, by the same name: `parity_device = "cuda"`.
OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("device", "cpu|cuda|all", "where the models are compared: all means cpu and each kind of device that is there"),
    ("examples", "N", "how many examples are drawn in eval mode; a third of it in train mode"),
    ("budget", "SECONDS", "seconds per check after which no further example is drawn"),
    ("profile", "|".join(PROFILES), "how thorough a check is; ci where the environment variable CI is set, else dev"),
    ("seed", "N", "of every draw; without it --hypothesis-seed, else 0"),
    ("report", "DIR", "folder that gets the reports of all checks in every format, and the reproducers of failures"),
)
MARKER = (
    "parity(examples=, device=, backward=, train_steps=, dtype=, budget=, level=, seed=, modes=, strict=): "
    "how the fixture `parity` compares models in this test, class or module; the closest mark wins"
)


class ParityFailure(ParityError, AssertionError):
    """The fixture's failure: two models are not the same. verdict: what the check said."""

    def __init__(self, message: str, verdict: Verdict | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--parity-*`, and ini values of the same meaning."""
    group = parser.getgroup("parity", "isomorph: parity of models")
    for name, shape, text in OPTIONS:
        group.addoption(f"--parity-{name}", metavar=shape, default=None, help=f"{text} (ini: parity_{name})")
        parser.addini(f"parity_{name}", f"{text} ({shape})", default=None)
    text = "record the errors of this run as baselines; later runs fail on what is worse beyond noise"
    group.addoption("--parity-update-baseline", action="store_true", default=False, help=text)
    parser.addini("parity_baseline", "the file of baselines, beside the ini file (parity-baseline.json)", default=None)
    text = "whether gate files (isomorph.toml) are collected where they are found, not only where they are named"
    parser.addini("parity_gate", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """The marker; the options are judged, where there are any; the controller gets its scribe."""
    config.addinivalue_line("markers", MARKER)
    try:
        config.getini("parity_gate")  # here, not at each file that is collected
    except (ValueError, pytest.UsageError) as error:
        said = str(error)
        where = "" if "parity_gate" in said else f"parity_gate ({config.inipath or 'ini'}): "
        raise pytest.UsageError(where + said) from None
    given = any(
        config.getoption(f"parity_{name}") is not None or config.getini(f"parity_{name}") for name, _, _ in OPTIONS
    )
    if given:
        from isomorph.parity.pytest_plugin.options import judge_options

        judge_options(config)
    _configure_baselines(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Scribe(config), "isomorph-scribe")


def _configure_baselines(config: pytest.Config) -> None:
    """pytest.UsageError: the file of baselines is there and cannot be read."""
    folder = config.inipath.parent if config.inipath else config.rootpath
    update = config.getoption("parity_update_baseline")
    if update or (folder / (config.getini("parity_baseline") or "parity-baseline.json")).exists():
        from isomorph.parity.pytest_plugin.baseline import baselines_of

        try:
            baselines_of(config)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    if update:
        from isomorph.parity.pytest_plugin.census import Census

        config.pluginmanager.register(Census(config), Census.NAME)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Reproducers of earlier failures are no tests of this run, unless they are named."""
    return True if collection_path.name == REPRODUCERS else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A gate file that is named (`pytest isomorph.toml`) is a collector of its models and checks."""
    if file_path.suffix != ".toml" or not (parent.session.isinitpath(file_path) or parent.config.getini("parity_gate")):
        return None
    from isomorph.parity.pytest_plugin.collect import collect_gate

    return collect_gate(file_path, parent)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is to be in the record; a mark that says nothing fails its test. A mark `parity` of a test that does not use
    the fixture is another project's, and means what it means there."""
    if "parity" not in getattr(item, "fixturenames", ()) or not _is_ours(item):
        return
    item.stash.setdefault(RESULTS, [])
    if item.get_closest_marker("parity") is not None:
        from isomorph.parity.pytest_plugin.options import judge_marks

        judge_marks(item)


def _is_ours(item: pytest.Item) -> bool:
    """Whether the test's fixture `parity` is the one below, or one of the project's own that is made from it."""
    for found in reversed(item.session._fixturemanager.getfixturedefs("parity", item) or ()):
        if found.func.__module__ == __name__:
            return True
        if "parity" not in found.argnames:
            return False
    return False


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Compare two models, and fail the test where they differ.

    parity(torch_module, keras_model, inputs=...) -> Verdict        every argument of `isomorph.check`
    parity.convert(module, example_inputs, ...) -> Conversion       converts, then compares
    """
    from isomorph.parity.pytest_plugin.fixture import Parity

    return Parity(request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the test has checked since its last report travels with this one: xdist sends a report's attributes."""
    report = yield
    if RESULTS in item.stash:
        _carry(item, report)
    return report


def _carry(item: pytest.Item, report: pytest.TestReport) -> None:
    """isomorph_results, isomorph_baselines: lists, of every report of a test that checks something."""
    for key, name in ((RESULTS, "isomorph_results"), (BASELINES, "isomorph_baselines")):
        found = item.stash.setdefault(key, [])
        setattr(report, name, list(found))
        found.clear()


class Scribe:
    """In the controller: gathers the results of all reports, has the report's files written, and the summary."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = time.time()
        self.collector: Collector | None = None
        self.uncollected: dict[str, pytest.CollectReport] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What a file that cannot be collected would have checked is missing from the record."""
        if report.failed:
            self.uncollected[report.nodeid] = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reports of this process, or of xdist's workers."""
        known = self.collector is not None and self.collector.knows(report.nodeid)  # its worker may have died since
        if known or hasattr(report, "isomorph_results"):
            self._collector().add(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Before the terminal's summary, JUnit's file and the cache: what ends here may still fail."""
        if self.collector is not None or self.config.getoption("parity_report") or self.config.getini("parity_report"):
            self._collector().finish(session, self.uncollected.values())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The section "parity", where something was checked."""
        if self.collector is not None:
            from isomorph.parity.pytest_plugin.summary import write

            write(terminalreporter, self.collector)

    def _collector(self) -> Collector:
        if self.collector is None:
            from isomorph.parity.pytest_plugin.merge import Collector

            self.collector = Collector(self.config, self.started)
        return self.collector

"""Which tests there are, so that baselines of tests that are gone can be dropped: all that were collected, also those
that were deselected afterwards. Registered for `--parity-update-baseline` only, in each process; xdist's workers, which
alone collect, hand theirs over when they end."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["Census"]

_KEY = "isomorph_collected"


class Census:
    """A plugin of one session."""

    NAME = "isomorph-census"

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._found: set[str] = set()
        self._counted = False  # whether a collection came to its end without an error
        self._broken = False

    def knows(self, node_id: str) -> bool:
        """Whether there is such a test."""
        return node_id in self._found

    def whole(self) -> bool:
        """Whether all tests of the project were looked for and found: no path, -k, --lf or --ignore that leaves some
        out, and no file that could not be collected."""
        option = self._config.option
        narrowed = ("keyword", "lf", "ignore", "ignore_glob", "deselect", "last_failed", "stepwise")
        left_out = any(getattr(option, name, None) for name in narrowed)
        return self._counted and not self._broken and not left_out and self._everywhere()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Before anything is deselected."""
        self._found.add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected may hold any test."""
        self._broken |= report.failed

    def pytest_collection_finish(self) -> None:
        """In a process that collects; xdist's controller does not."""
        self._counted = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """A worker's is sent when it ends."""
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_KEY] = sorted(self._found) if self._counted and not self._broken else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """In xdist's controller. Every worker collects the same tests; one that crashed says nothing."""
        output = getattr(node, "workeroutput", None) or {}
        if _KEY in output:
            self._broken |= output[_KEY] is None
            self._found.update(output[_KEY] or ())
            self._counted = True

    def _everywhere(self) -> bool:
        """Whether the paths that were given are, or hold, all that a run without any would take."""
        config = self._config
        if config.args_source == config.ArgsSource.TESTPATHS:
            return True
        given = [(config.invocation_params.dir / arg).resolve() for arg in config.args if "::" not in arg]
        if config.args_source == config.ArgsSource.INVOCATION_DIR:
            given = [config.invocation_params.dir.resolve()]
        wanted = [(config.rootpath / path).resolve() for path in config.getini("testpaths")] or [config.rootpath]
        return all(any(path.is_relative_to(top) for top in given) for path in wanted)

"""hypothesis as a partner in conversation: it proposes values, the caller says which of them is what is searched for.

hypothesis runs in a thread of its own, the caller's judgement in the caller's: a search works inside a test of
somebody's own `@given` (which allows no second one in the same thread), and frameworks see one thread only. Nothing is
printed, and nothing written but to the database that is given.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from unittest import SkipTest

from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.configuration import set_hypothesis_home_dir, storage_directory
from hypothesis.errors import Flaky, Unsatisfiable
from hypothesis.strategies import SearchStrategy

__all__ = ["QUIET", "ask", "no_litter"]

QUIET = settings(
    verbosity=Verbosity.quiet,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    derandomize=False,
    database=None,
    print_blob=False,
    stateful_step_count=1,
    backend="hypothesis",
)


class _Found(Exception):
    """The value is one that was searched for."""


class _Stop(BaseException):
    """Ends hypothesis' thread."""


def ask(strategy: SearchStrategy[Any], over: Callable[[Any], bool], how: settings, key: bytes, seed: str) -> None:
    """A search for a value for which `over` is true; what `over` raises ends it and passes through.

    That nothing was found, or not the same twice, is no error: the caller has seen every value. key: what the failure
    is stored under, if `how` has a database.

    Not `hypothesis.find`: with a seed that one uses no database, and without one it shrinks differently each time.
    """
    asked: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    told: SimpleQueue[bool | None] = SimpleQueue()

    def trial(value: Any) -> None:
        asked.put(("value", value))
        answer = told.get()
        if answer is None:
            raise _Stop
        if answer:
            raise _Found

    def search() -> None:
        error: BaseException | None = None
        try:
            test: Any = how(seeded(seed)(given(strategy)(trial)))  # in this order: `seed` switches the database off
            test._hypothesis_internal_database_key = key  # as `find` does; there is no other way to say it
            test()
        except (_Found, _Stop, Flaky, Unsatisfiable, SkipTest):
            pass  # SkipTest: nothing was stored
        except BaseException as unforeseen:
            error = unforeseen
        asked.put(("over", error))

    searching = _threads(os.getpid()).submit(search)
    try:
        while (message := asked.get())[0] == "value":
            told.put(over(message[1]))
    except BaseException:
        told.put(None)
        raise
    finally:
        searching.result()
    if message[1] is not None:
        raise message[1]


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads hypothesis runs in: several, as a judge may search itself; kept, as each new one costs hypothesis a
    garbage collection; others after a fork, which takes no thread along."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="isomorph-search")


class _Home:
    """hypothesis' folder for caches, while searches run."""

    lock = threading.Lock()
    searches = 0
    before: Any = None
    folder: Any = None


@contextlib.contextmanager
def no_litter() -> Iterator[None]:
    """hypothesis' caches go to a folder that is removed, until the last of the searches that run at once is over. A
    database that was made before keeps its place."""
    with _Home.lock:
        if not _Home.searches:
            _Home.before = storage_directory(intent_to_write=False).path
            _Home.folder = tempfile.TemporaryDirectory(prefix="isomorph-", ignore_cleanup_errors=True)
            set_hypothesis_home_dir(_Home.folder.name)
        _Home.searches += 1
    try:
        yield
    finally:
        with _Home.lock:
            _Home.searches -= 1
            if not _Home.searches:
                set_hypothesis_home_dir(_Home.before)
                _Home.folder.cleanup()

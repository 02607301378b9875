"""A gate file as tests: `pytest isomorph.toml` has one item for each task of its policy.

    isomorph.toml::digits::check[cpu,both]           the same tasks, done by the same code, as in `isomorph gate`
    isomorph.toml::digits::budget[latency_ratio]

A gate file is one named isomorph.toml or NAME.isomorph.toml, and a pyproject.toml with [tool.isomorph]. It is collected
where the command line names it; with the ini value `parity_gate = true` also where it is found.

Waivers count in each item. Those that have expired, or that a complete run of their model does not need, fail the run
at its end, when the results of all processes are there: as `isomorph.toml::waiver::NAME`.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from isomorph.convert.errors import IsomorphError, ParityError
from isomorph.parity.plugin import BASELINES, REPRODUCERS, RESULTS
from isomorph.parity.record import Place, Result

if TYPE_CHECKING:
    from isomorph.parity.gate.policy import Policy
    from isomorph.parity.gate.tasks import Task

__all__ = ["GateFailure", "GateFile", "GateItem", "GateModel", "collect_gate", "waiver_reports"]

FILE, SUFFIX, PYPROJECT = "isomorph.toml", ".isomorph.toml", "pyproject.toml"


def collect_gate(file_path: Path, parent: pytest.Collector) -> GateFile | None:
    """The collector of a gate file; None for a file that is none, or was not asked for."""
    named = parent.session.isinitpath(file_path)
    if file_path.name == PYPROJECT:
        wanted = named or (_found_ones(parent.config) and _has_section(file_path))
    elif file_path.name == FILE or file_path.name.endswith(SUFFIX):
        wanted = named or _found_ones(parent.config)
    else:
        wanted = False
    return GateFile.from_parent(parent, path=file_path) if wanted else None


class GateFailure(ParityError):
    """A task of a gate that did not pass. result: as it is in the record."""

    def __init__(self, text: str, result: Result) -> None:
        super().__init__(text)
        self.result = result


class GateFile(pytest.File):
    """A gate file. CollectError, in one line: it is not understood."""

    def collect(self) -> Iterator[GateModel]:
        """One collector for each model."""
        from isomorph.parity.gate.policy import load
        from isomorph.parity.gate.tasks import tasks_of

        try:
            policy = load(self.path)
        except IsomorphError as error:
            raise self.CollectError(str(error)) from None
        tasks = tasks_of(policy)
        for entry in policy.models:
            mine = [task for task in tasks if task.model == entry.name]
            yield GateModel.from_parent(self, name=entry.name, policy=policy, tasks=mine)


class GateModel(pytest.Collector):
    """A `[[model]]`."""

    def __init__(self, *, policy: Policy, tasks: Sequence[Task], **more: Any) -> None:
        super().__init__(**more)
        self.policy, self.tasks = policy, tasks

    def collect(self) -> Iterator[GateItem]:
        """One item for each task."""
        for task in self.tasks:
            name = task.name.removeprefix(f"{self.name}::")
            # Said in full: pytest 9.2 reads the brackets of a text, as it finds them in --lf's cache, as parameters,
            # and those of a name as part of it.
            node_id = f"{self.nodeid}::{name}"
            yield GateItem.from_parent(self, name=name, nodeid=node_id, policy=self.policy, task=task)


class GateItem(pytest.Item):
    """A task."""

    def __init__(self, *, policy: Policy, task: Task, **more: Any) -> None:
        super().__init__(**more)
        self.policy, self.task = policy, task
        self.stash[RESULTS] = []  # that it has a result is expected: without one it is an ERROR of the record

    def runtest(self) -> None:
        """Do the task; a GateFailure where it did not pass."""
        failure = self._done()
        if failure is not None:
            raise failure

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """The model's line in the gate file."""
        return self.path, self.task.place.line - 1, self.task.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **more: Any) -> Any:
        """A result is told as it is; whatever else went wrong, as in any item."""
        if isinstance(excinfo.value, GateFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **more)

    # ------------------------------------------------------------------------------------------------ the task
    def _done(self) -> GateFailure | None:
        from isomorph.parity.gate import execute, waivers
        from isomorph.parity.pytest_plugin import keeping

        os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # read by Keras when it is imported
        folder, top = self._artifacts()
        result = execute.execute(self.task, None, folder)
        result = self._judged(result)
        result = waivers.apply((result,), self.policy)[0][0]
        kept = {name: _relative(path, top) for name, path in result.artifacts.items()}
        keeping.keep(self, replace(result, name=self.nodeid, artifacts=kept))
        return None if result.passed else GateFailure(self._text(result), result)

    def _judged(self, result: Result) -> Result:
        """The result of a check, held against its baseline."""
        from isomorph.parity.gate import execute
        from isomorph.parity.pytest_plugin.baseline import baselines_of

        if self.task.kind != "check":
            return result
        entry = self.task.entry

        def again(seed: int, how: Mapping[str, Any]) -> Mapping[str, Any]:
            changed: dict[str, Any] = {**how, "modes": tuple(how["modes"]), "seed": seed}
            task = replace(self.task, dtype=changed.pop("dtype"), entry=replace(entry, **changed))
            return execute.execute(task).verdict or {"status": "ERROR", "checks": ()}

        how = {"level": entry.level, "examples": entry.examples, "modes": entry.modes, "dtype": self.task.dtype,
               "backward": entry.backward, "steps": entry.steps}  # fmt: skip
        baselines = baselines_of(self.config)
        result = baselines.judge(result, self.nodeid, 1, entry.seed, how, again)
        self.stash.setdefault(BASELINES, []).extend(baselines.take(self.nodeid))
        return result

    def _artifacts(self) -> tuple[Path | None, Path | None]:
        """The folder of this item's reproducer, emptied; and that of the reports, which it lies in."""
        from isomorph.parity.pytest_plugin.options import option
        from isomorph.parity.pytest_plugin.reproducer import cached, slug

        reports = option(self.config, "report")
        top = self.config.invocation_params.dir / reports if reports else None
        above = top / REPRODUCERS if top else cached(self.config)
        if above is None:
            return None, None
        folder = above / slug(self.nodeid)
        shutil.rmtree(folder, ignore_errors=True)
        return folder, top

    def _text(self, result: Result) -> str:
        """What a failure says."""
        from isomorph.parity.pytest_plugin import keeping
        from isomorph.parity.pytest_plugin.message import failure_text
        from isomorph.parity.report.restore import restore

        verdict = restore(result.verdict)
        if verdict is None:
            return f"{result.status}: {result.original} and {result.converted}: {result.message}"
        again = keeping.again(self, verdict.seed, None).partition(" --parity-seed")[0]
        return failure_text(result, verdict, result.artifacts.get("reproducer", ""), again)


def waiver_reports(config: pytest.Config, results: Iterable[Result]) -> Iterator[pytest.TestReport]:
    """Reports about waivers, of the results of a whole session: failed, and passed for those that were needed, so that
    --lf forgets what has been put right. results: named by node id. UsageError: a gate file cannot be read any more."""
    by_file: dict[str, list[Result]] = {}
    for result in results:
        file, _, name = result.name.partition("::")
        if file.endswith(".toml") and name:  # else it could not be collected
            by_file.setdefault(file, []).append(replace(result, name=name))
    for file, found in by_file.items():
        yield from _reports_of(file, _file_of(config, file), found)


def _reports_of(node_id: str, file: Path, found: Sequence[Result]) -> Iterator[pytest.TestReport]:
    from isomorph.parity.gate import waivers
    from isomorph.parity.gate.policy import load

    policy = load(file)
    failing = {extra.name: extra for extra in waivers.apply(found, policy)[1]}
    needed = {f"waiver::{waived.name}" for result in found for waived in result.waived}
    for waiver in policy.waivers:
        name = f"waiver::{waiver.name}"
        extra, full = failing.get(name), f"{node_id}::{name}"
        if extra is None and name not in needed:
            continue
        outcome: Literal["passed", "failed"] = "passed" if extra is None else "failed"
        text = None if extra is None else f"{extra.status}: {extra.message}"
        report = pytest.TestReport(full, (node_id, waiver.line - 1, name), {}, outcome, text, "call")
        if extra is not None:
            placed = replace(extra, name=full, place=Place(node_id, waiver.line))
            report.__dict__["isomorph_results"] = [placed.to_dict()]
        yield report


def _file_of(config: pytest.Config, file: str) -> Path:
    """The file in a node id: below rootdir, or where the command line named it."""
    given = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    candidates = [config.rootpath / file, *(path for path in given if path.name == Path(file).name)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _found_ones(config: pytest.Config) -> bool:
    """Whether gate files that nobody named are collected."""
    return bool(config.getini("parity_gate"))


def _has_section(file: Path) -> bool:
    try:
        return "isomorph" in tomllib.loads(file.read_text("utf-8")).get("tool", {})
    except (OSError, ValueError):
        return False  # whoever needs the file says what is wrong with it


def _relative(path: str, top: Path | None) -> str:
    """Relative to the reports' folder, if it lies there."""
    return Path(path).relative_to(top).as_posix() if top is not None and Path(path).is_relative_to(top) else path

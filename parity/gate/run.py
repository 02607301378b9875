"""A policy becomes a record: its tasks, those that are known already, those that are done now, waivers, the whole.

    policy --tasks_of--> tasks --cache--> known | --engine--> results --waivers--> Record

Imports no framework; the engines' processes do.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.routes import is_code
from isomorph.parity.gate import waivers
from isomorph.parity.gate.cache import Cache, environment_facts, hash_of, key_of, machine_facts, software
from isomorph.parity.gate.child import Reached
from isomorph.parity.gate.engines import PERFORM, Engine, Job, engine_of
from isomorph.parity.gate.identity import of_model
from isomorph.parity.gate.policy import Policy
from isomorph.parity.gate.progress import Progress
from isomorph.parity.gate.selection import select
from isomorph.parity.gate.tasks import Task, tasks_of
from isomorph.parity.record import Record, Result

__all__ = ["PATIENCE", "How", "run"]

PATIENCE = 10  # times the timeout of one run of a model: as long a task may show no progress
_ALONE = ("latency_ratio",)  # kinds whose figures a neighbour on the same machine would change
_MEASURED = ("latency_ratio", "memory")  # kinds whose figures depend on the machine


@dataclass(frozen=True)
class How:
    """How a run is done, beside what it is. engine: a name of `engines.ENGINES`. cache: None keeps and reads nothing.
    artifacts: a folder for what belongs to results, such as reproducers; None makes none. only: patterns of models'
    names, or of tasks' names where they hold "::". fail_fast: begin nothing new after a result that is no PASS."""

    jobs: int = 1
    engine: str = "process"
    ray_address: str | None = None
    cache: Cache | None = None
    artifacts: Path | None = None
    only: tuple[str, ...] = ()
    fail_fast: bool = False
    perform: str = PERFORM


def run(policy: Policy, how: How = How(), progress: Progress | None = None, today: date | None = None) -> Record:
    """Do what a policy asks for. today: the day waivers are judged on, by default the current one (UTC).

    UsageError: `only` names no model, the engine is not known or cannot be had. KeyboardInterrupt: what was reached by
    then is in the cache.
    """
    progress, since, created = progress or Progress(), time.monotonic(), datetime.now(UTC)
    today = today or created.date()
    everything = tasks_of(policy)
    tasks = select(everything, how.only)
    engine = engine_of(how.engine, how.ray_address)
    progress.expects(len(tasks))
    found, known = dict[str, Result](), dict[str, Any]()
    plans = (_plan(task, how, known) for task in tasks)  # as they are asked for: to hash large models takes its time
    with contextlib.closing(_results(plans, engine, how, progress)) as results:
        for result in results:
            found[result.name] = result
            (judged,), _ = waivers.apply((result,), policy, today)
            progress.finished(judged)
            if how.fail_fast and not judged.passed:
                break
    reached = [found[task.name] for task in tasks if task.name in found]
    whole, extra = waivers.apply(reached, policy, today)
    return Record(
        results=(*whole, *extra), created=created.isoformat(timespec="seconds"), title=f"isomorph gate {policy.file}",
        environment={**software(), "engine": how.engine}, seconds=round(time.monotonic() - since, 3),
        policy={"file": policy.file, "version": policy.version, "sha256": policy.sha256,
                "valid_days": policy.valid_days, "partial": len(reached) < len(everything)},
        notes=tuple(_notes(len(reached), len(tasks), len(everything), how)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """A task and what is known of it. key: of its result in the cache, None where it can have none."""

    task: Task
    job: Job
    key: str | None
    identity: Any


def _plan(task: Task, how: How, known: dict[str, Any]) -> _Plan:
    """known: identities by model, to which this one's is added."""
    entry = task.entry
    if task.model not in known:
        known[task.model] = _identity(task)
    identity = known[task.model]
    elsewhere = how.engine == "ray" and task.kind in _MEASURED  # figures of whatever machine it comes to
    measured = machine_facts() if task.kind in _MEASURED else None
    key = (
        None
        if elsewhere or _unseen(task)
        else key_of(task.settings, identity, environment_facts(entry.python), measured)
    )
    lost = Result(
        task.name, "ERROR", original=entry.source, converted=entry.converted, device=task.device, place=task.place,
        settings=task.settings,
    )  # fmt: skip
    folder = None if how.artifacts is None else str(how.artifacts / (key or hash_of([task.folder, task.name]))[:20])
    expected = {"software": software(), "models": identity} if how.engine == "ray" else {}
    job = Job(task.name, task.to_dict(), lost, entry.timeout * PATIENCE, folder, how.perform, expected)
    return _Plan(task, job, key, identity)


def _unseen(task: Task) -> bool:
    """Whether code is run in a process of its own: what it opens there is not heard of (`reads`)."""
    entry = task.entry
    both = entry.isolate or entry.memory_limit is not None
    artifact = both or entry.backend is not None or entry.python is not None or task.device != "cpu"
    artifact = artifact or task.kind in _MEASURED
    return (both and is_code(entry.source)) or (artifact and is_code(entry.artifact or ""))


def _identity(task: Task) -> Any:
    """None also where a file cannot be read: what that means is for the task to say."""
    try:
        return of_model(task)
    except UsageError:
        return None


def _results(plans: Iterable[_Plan], engine: Engine, how: How, progress: Progress) -> Generator[Result, None, None]:
    """What is known, then what is reached, each kept before it is given on; last what has to be done alone."""
    new = list[_Plan]()
    for plan in plans:
        known = None if how.cache is None else how.cache.get(plan.key, Path(plan.task.folder))
        if known is None:
            new.append(plan)
        else:
            yield replace(known, name=plan.task.name, place=plan.task.place, cached=True)
    for alone in (False, True):
        group = {plan.job.name: plan for plan in new if (plan.task.kind in _ALONE) == alone}
        for plan in group.values():
            if plan.job.artifacts is not None:
                shutil.rmtree(plan.job.artifacts, ignore_errors=True)
        if group:
            jobs, since = [plan.job for plan in group.values()], time.time()
            with contextlib.closing(engine(jobs, 1 if alone else how.jobs, progress)) as done:
                for reached in done:
                    yield _kept(reached, group[reached.result.name], how.cache, since)


def _kept(reached: Reached, plan: _Plan, cache: Cache | None, since: float) -> Result:
    artifacts = reached.result.artifacts
    there = {name: path for name, path in artifacts.items() if Path(path).exists()}  # else on another machine
    result = replace(reached.result, artifacts=there)
    # A model that was written to in the meantime is not the one that the key speaks of.
    if cache is not None and plan.key is not None and _identity(plan.task) == plan.identity:
        cache.put(plan.key, Path(plan.task.folder), result, reached.read, since)
    return result


def _notes(reached: int, chosen: int, whole: int, how: How) -> Iterator[str]:
    if how.only:
        yield f"a part of the gate: {chosen} of {whole} tasks ({', '.join(how.only)}); it does not speak for the whole"
    if reached < chosen:
        yield f"stopped after a failure: {chosen - reached} of {chosen} tasks were not done"
    if how.cache is not None and how.cache.trouble:
        yield f"results could not be kept: {how.cache.trouble}"

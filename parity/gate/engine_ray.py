"""Tasks spread over the machines of a Ray cluster. Each is done there as `engines.processes` does it: in a fresh child
of the Ray worker, so that a result is the same wherever it was reached. The extra `ray`.

Every machine needs the same files under the same paths (a shared file system) and the same environment. That is looked
at, not taken on trust: a machine that has other versions or other models gives ERROR and no result. The variables that
the frameworks read are made those of the gate: Ray sets some of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from isomorph.convert.errors import UsageError, one_line
from isomorph.parity.gate.cache import variables
from isomorph.parity.gate.child import Reached
from isomorph.parity.gate.engines import Engine, Job, Results, processes
from isomorph.parity.gate.progress import Progress
from isomorph.parity.record import Result

__all__ = ["differing", "ray_at"]

LOCAL = "local"
_REACH = 10.0  # seconds in which a cluster must answer
_HEED = 5.0  # seconds that an interrupted task has
_TICK = 0.5  # seconds between two looks at the cluster


def ray_at(address: str | None) -> Engine:
    """The engine of one cluster. address: "auto", "HOST:PORT" or "ray://HOST:PORT"; None and "local" start one on this
    machine and end it afterwards. UsageError: the extra is missing."""
    if find_spec("ray") is None:
        raise UsageError("--engine ray needs ray: pip install 'isomorph[ray]'")

    def engine(jobs: Sequence[Job], count: int, progress: Progress) -> Results:
        with _cluster(address, count) as ray:
            yield from _spread(ray, jobs, count, progress)

    return engine


@contextlib.contextmanager
def _cluster(address: str | None, count: int) -> Iterator[Any]:
    """ray, connected. UsageError: it cannot be."""
    # Ray sends figures of its use to its makers otherwise; a gate sends nothing to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():  # by whoever calls this: theirs to end
        if address not in (None, "auto"):
            raise UsageError(f"--ray-address {address}: this process is connected to another cluster already")
        yield ray
        return
    own = address in (None, LOCAL)
    how: dict[str, Any] = {"num_cpus": count, "include_dashboard": False} if own else {}
    try:
        _reach(address)
        ray.init(address=LOCAL if own else address, **how, log_to_driver=False, logging_level=logging.ERROR,
                 configure_logging=False)  # fmt: skip
    except Exception as error:  # ConnectionError, RuntimeError, ValueError and more, by the kind of address
        where = "on this machine" if own else f"at {address}"
        raise UsageError(f"--engine ray: no cluster {where}: {one_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """OSError: nobody answers at HOST:PORT or ray://HOST:PORT. Ray itself would go on trying for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH):
            pass


def _spread(ray: Any, jobs: Sequence[Job], count: int, progress: Progress) -> Results:
    """`count` at a time: no more than that is asked of a cluster that others use as well."""
    remote = ray.remote(num_cpus=1, max_retries=0)(_there)
    own, gpus = _variables(), ray.cluster_resources().get("GPU", 0)
    waiting, running = list(jobs), dict[Any, tuple[Job, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < count:
                job = waiting.pop(0)
                progress.started(job.name)
                needed = _gpus(job)
                if needed > gpus:  # Ray would wait for one to come
                    yield Reached(job.failed(f"{job.lost.device} is asked for, and the cluster has {gpus:g} GPUs", 0.0))
                    continue
                reference = remote.options(num_gpus=needed).remote(_portable(job), sys.path, own)
                running[reference] = job, time.monotonic()
            done, _ = ray.wait(list(running), num_returns=1, timeout=_TICK) if running else ([], [])
            for reference in done:
                job, since = running[reference]
                reached = _fetched(ray, reference, job, since)
                del running[reference]
                yield reached
    finally:
        _end(ray, list(running))


def _end(ray: Any, references: list[Any]) -> None:
    """What still runs is interrupted, so that it can end its own child; what does not heed that is killed."""
    with contextlib.suppress(Exception):  # the cluster may be gone
        for reference in references:
            ray.cancel(reference)
        _, left = ray.wait(references, num_returns=len(references), timeout=_HEED) if references else ([], [])
        for reference in left:
            ray.cancel(reference, force=True)


def _fetched(ray: Any, reference: Any, job: Job, since: float) -> Reached:
    try:
        said, read = ray.get(reference)
        return Reached(Result.from_dict(said), tuple(read))
    except Exception as error:  # the worker died, its machine did, or it was out of memory
        return Reached(job.failed(f"its Ray worker failed: {one_line(error)}", time.monotonic() - since))


def _portable(job: Job) -> dict[str, Any]:
    """A job in plain values: the other machine's pickle needs nothing of ours."""
    return {**{name: getattr(job, name) for name in ("name", "task", "timeout", "artifacts", "perform", "expected")},
            "lost": job.lost.to_dict()}  # fmt: skip


def _gpus(job: Job) -> int:
    """How many a task must be given, so that the device that it names is among them."""
    kind, _, number = job.lost.device.partition(":")
    return int(number or 0) + 1 if kind == "cuda" else 0


def _variables() -> dict[str, str]:
    """Without the one by which Ray says which GPUs a task was given."""
    return {name: value for name, value in variables().items() if name != "CUDA_VISIBLE_DEVICES"}


def _there(
    said: Mapping[str, Any], path: Sequence[str], own: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Runs in a Ray worker: the job in a child of it, if this machine is what the gate thinks it is.

    path: where the gate's process looks for modules. own: its `_variables`."""
    sys.path.extend(entry for entry in path if entry not in sys.path)
    for name in _variables().keys() - own.keys():
        del os.environ[name]
    os.environ.update(own)
    job = Job(**{**said, "lost": Result.from_dict(said["lost"])})
    wrong = differing(job)
    if wrong:
        return job.failed(f"the machine {os.uname().nodename} cannot stand for this one: {wrong}", 0.0).to_dict(), ()
    (reached,) = processes([job], 1, Progress())
    return reached.result.to_dict(), reached.read


def differing(job: Job) -> str:
    """What this machine has otherwise than `job.expected` says; "" where nothing is."""
    if not job.expected:
        return ""
    from isomorph.parity.gate.cache import software
    from isomorph.parity.gate.identity import of_model
    from isomorph.parity.gate.tasks import Task

    expected, found = job.expected["software"], software()
    names = [name for name, value in expected.items() if found.get(name) != value]
    wrong = [f"{name} is {found.get(name)}, not {expected[name]}" for name in names]
    if not wrong and job.expected["models"] != of_model(Task.from_dict(job.task)):
        wrong = ["its files are others; the models must lie on a file system that all machines share"]
    return "; ".join(wrong[:3])

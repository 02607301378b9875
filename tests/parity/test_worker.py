"""Models in worker processes: what they answer, what they raise, and every way in which they can fail to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from isomorph.convert.conversion import Conversion
from isomorph.convert.errors import UnsupportedError, UsageError, WeightError
from isomorph.parity.runners import base, process, remote
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.runners.open import open_runner
from isomorph.parity.runners.remote import RemoteError, RemoteRunner
from isomorph.parity.runners.spec import ModelSpec, Opened, WorkerError
from scripts.package import ROOT, tree_modules
from tests.meta.test_imports import imports
from tests.parity.test_wire import same

MODELS = """
import ctypes, os, subprocess, sys, time
import numpy as np

def double(x): return 2 * x
def pair(x, y): return {"sum": x + y, "parts": [x, y]}
def pid(x): return np.array(os.getpid())
def where(x): return np.frombuffer(sys.executable.encode(), np.uint8)
def big(x):  # armed, so that opening, which may run the function, gets past it
    return x if len(x) < 5 else np.empty(1 << 30)
def exits(x):
    if len(x) == 5:
        print("the last words", flush=True)
        os._exit(7)
    return x
def segfault(x):
    if len(x) == 5:
        print("the last words", flush=True)
        ctypes.string_at(0)
    return x
def hangs(x):
    if len(x) == 5: time.sleep(1000)
    return x
def child(x):
    # a process that holds every descriptor it can, and outlives its parent if nobody ends it
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)
    return np.array([os.getpid(), started.pid])
class RandomSiteError(RuntimeError): ...
def raises(x):
    from isomorph.convert import errors
    if len(x) < 5: return x
    kinds = [ValueError("no such luck"), KeyError("a key"), RandomSiteError("sites"), errors.UsageError("usage"),
             errors.WeightError("weights"), errors.UnsupportedError("unsupported"), SystemExit("left"),
             MemoryError("none left"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
    raise kinds[int(x[0])]
"""
X5 = np.ones(5, np.float32)


class Open(Protocol):
    def __call__(self, name: str, **options: Any) -> Opened: ...


@pytest.fixture
def models(tmp_path: Path) -> Path:
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    return file


@pytest.fixture
def opened(models: Path) -> Iterator[Open]:
    """`name` of MODELS in a worker of its own; closed after the test."""
    runners: list[Runner] = []

    def start(name: str, **options: Any) -> Opened:
        options = {"inputs": ("x=float32[b]",), "isolate": True, "timeout": 20.0, **options}
        found = open_runner(ModelSpec(f"{models}:{name}", **options))
        runners.append(found.runner)
        return found

    yield start
    for runner in runners:
        runner.close()


def ask(runner: Runner, *arrays: np.ndarray, backward: bool = False) -> base.Response:
    return runner.respond(Request(arrays, "eval", backward))


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether a process has ended (a zombie that nobody reaps has)."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


# --- what a worker answers ----------------------------------------------------------------------------------------


def test_a_function_answers_from_another_process(opened: Open) -> None:
    runner = opened("double").runner
    assert isinstance(runner, RemoteRunner)
    np.testing.assert_array_equal(ask(runner, X5).outputs[0], 2 * X5)
    pair = opened("pair", inputs=("x=float32[b]", "y=float32[b]"))
    assert pair.example is not None
    response = ask(pair.runner, *pair.example)
    assert response.structure == {"sum": 0, "parts": [1, 2]}
    assert ask(opened("pid").runner, X5).outputs[0] != os.getpid()
    assert runner.about().environment["worker"] == "own interpreter"


def test_a_torch_module_answers_as_it_does_here() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
    spec = ModelSpec(net, example=torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    here, there = open_runner(spec), open_runner(replace_spec(spec, isolate=True))
    try:
        assert isinstance(there.runner, RemoteRunner)
        assert same(here.example, there.example)
        for one, other in ((here.runner, there.runner), (here.runner.to_float64(), there.runner.to_float64())):
            assert one.dtype == other.dtype
            assert one.about().inputs == other.about().inputs
            assert same(dict(one.state()), other.state())
            assert same(dict(one.parameters()), other.parameters())
            assert same(dict(one.buffers()), other.buffers())
            assert one.index_bounds() == other.index_bounds()
            request = Request(here.example or (), "train", seed=3)
            assert same(one.respond(request), other.respond(request))
            assert same(one.trace(request), other.trace(request))
        there.runner.load({"0.bias": np.full(3, 7.0, np.float32)})
        np.testing.assert_array_equal(there.runner.state()["0.bias"], np.full(3, 7.0))
    finally:
        there.runner.close()


def replace_spec(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return ModelSpec(**{**{f.name: getattr(spec, f.name) for f in fields(spec)}, **changes})


@needs_proc
def test_a_twin_is_a_second_runner_of_the_same_process(opened: Open) -> None:
    runner = opened("pid").runner
    twin = runner.to_float64()
    number = int(ask(runner, X5).outputs[0])
    assert int(ask(twin, X5).outputs[0]) == number
    twin.close()
    twin.close()
    assert int(ask(runner, X5).outputs[0]) == number
    runner.close()
    runner.close()
    assert gone(number)
    with pytest.raises(WorkerError, match="the worker was closed"):
        ask(runner, X5)


def test_exactly_the_methods_of_the_protocol_are_forwarded() -> None:
    """A method that the protocol gets later is not forgotten here."""
    from isomorph.parity.runners.worker import METHODS

    methods = {name for name, value in vars(Runner).items() if callable(value) and not name.startswith("_")}
    methods |= {name for name, value in vars(base.Responder).items() if callable(value) and not name.startswith("_")}
    assert methods == METHODS - {"call_alone"} | {"to_float64", "close"}
    assert all(callable(getattr(RemoteRunner, name)) for name in methods)


# --- what a model raises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "name", "kind", "message"),
    [
        (0, "ValueError", ValueError, "no such luck"),
        (1, "KeyError", KeyError, "'a key'"),
        (2, "RandomSiteError", RuntimeError, "sites"),
        (3, "UsageError", UsageError, "usage"),
        (4, "WeightError", WeightError, "weights"),
        (5, "UnsupportedError", UnsupportedError, "unsupported"),
        (6, "SystemExit", RemoteError, "left"),
    ],
)
def test_an_exception_keeps_its_name(
    opened: Open, case: int, name: str, kind: type[Exception], message: str
) -> None:  # fmt: skip
    runner = opened("raises").runner
    with pytest.raises(kind) as caught:
        ask(runner, X5 * case)
    assert type(caught.value).__name__ == name
    assert str(caught.value) == message
    np.testing.assert_array_equal(ask(runner, X5[:2]).outputs[0], X5[:2])  # it goes on answering


@pytest.mark.parametrize("case", [7, 8])
def test_no_memory_left_is_the_workers_failure(opened: Open, case: int) -> None:
    runner = opened("raises").runner
    with pytest.raises(WorkerError, match="ran out of memory"):
        ask(runner, X5 * case)
    with pytest.raises(WorkerError, match="ran out of memory"):  # and stays so
        ask(runner, X5[:2])


def test_memory_is_limited(opened: Open) -> None:
    runner = opened("big", memory=4 << 30, isolate=False).runner
    assert isinstance(runner, RemoteRunner)  # a limit needs a process
    with pytest.raises(WorkerError, match=r"ran out of memory of 4294967296 bytes: MemoryError: Unable to"):
        ask(runner, X5)


# --- how a worker ends --------------------------------------------------------------------------------------------


def test_a_worker_that_exits(opened: Open) -> None:
    runner = opened("exits").runner
    with pytest.raises(WorkerError, match=r"models\.py:exits ended with exit status 7; .*\n  the last words"):
        ask(runner, X5)


def test_a_worker_that_crashes(opened: Open) -> None:
    runner = opened("segfault").runner
    with pytest.raises(WorkerError, match=r"was killed by SIGSEGV") as caught:
        ask(runner, X5)
    lines = str(caught.value).splitlines()
    assert "  the last words" in lines
    assert any("in segfault" in line for line in lines)
    assert len(lines) <= 1 + process.LINES


@needs_proc
def test_a_worker_that_hangs_is_killed(opened: Open, models: Path) -> None:
    runner = opened("hangs", timeout=1.0).runner
    number = runner._worker._process.pid  # type: ignore[attr-defined]
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"gave no answer within 1 s \(respond\(\)\)"):
        ask(runner, X5)
    assert time.monotonic() - start < 10
    assert gone(number)


def test_a_worker_that_takes_nothing_is_killed(opened: Open) -> None:
    """A request larger than the pipe, to a process that has been stopped."""
    runner = opened("double", timeout=1.0).runner
    os.kill(runner._worker._process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    with pytest.raises(WorkerError, match="gave no answer within 1 s"):
        ask(runner, np.zeros(1 << 22))


def test_what_is_no_request_ends_a_worker(opened: Open) -> None:
    runner = opened("double").runner
    os.write(runner._worker._requests, b"something else entirely")  # type: ignore[attr-defined]
    with pytest.raises(WorkerError, match=r"(?s)ended with exit status 1; .*not a frame: it starts with b'something e"):
        ask(runner, X5)


def test_a_worker_that_hangs_on_the_way_in(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "START", 2.0)
    models.write_text("import time\ntime.sleep(1000)\n")
    with pytest.raises(WorkerError, match=r"gave no answer within 3 s \(opening the model\)"):
        open_runner(ModelSpec(f"{models}:f", inputs=("x=float32[b]",), isolate=True, timeout=1.0))


@needs_proc
def test_what_a_worker_started_ends_with_it(opened: Open) -> None:
    runner = opened("child").runner
    worker, started = map(int, ask(runner, X5).outputs[0])
    assert not gone(started, within=0.1)
    runner.close()
    assert gone(worker)
    assert gone(started)


@needs_proc
def test_a_death_is_seen_though_a_child_holds_the_pipe(opened: Open) -> None:
    """The pipe does not end when the worker is killed: its own child has inherited it."""
    runner = opened("child").runner
    worker, started = map(int, ask(runner, X5).outputs[0])
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        ask(runner, X5)
    assert gone(started)


PARENT = """
import sys, time
import numpy as np
from isomorph.parity.runners.base import Request
from isomorph.parity.runners.open import open_runner
from isomorph.parity.runners.spec import ModelSpec
runner = open_runner(ModelSpec(sys.argv[1], inputs=("x=float32[b]",), isolate=True)).runner
request = Request((np.ones(2, np.float32),), "eval", False)
print(*map(int, runner.respond(request).outputs[0]), flush=True)
if sys.argv[2] == "waits":
    time.sleep(1000)
"""


@needs_proc
@pytest.mark.parametrize("end", ["returns", "waits"])
def test_a_worker_ends_with_its_parent(models: Path, end: str) -> None:
    """Its parent returns without closing it; its parent is killed. Nothing is left in either case."""
    place = models.parent / "temporary"
    place.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{models}:child", end],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    assert parent.stdout is not None
    worker, started = map(int, parent.stdout.readline().split())
    if end == "waits":
        assert not gone(worker, within=0.1)
        parent.kill()
    assert parent.wait(20) in (0, -signal.SIGKILL)
    parent.stdout.close()
    assert gone(worker)
    assert gone(started)
    assert list(place.iterdir()) == []


def test_no_folder_is_left(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(process.tempfile, "tempdir", str(place))
    runner = opened("double").runner
    assert len(list(place.iterdir())) == 1
    runner.close()
    assert list(place.iterdir()) == []


def test_objects_that_cannot_be_sent(models: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be sent to a worker process.*name it as pkg\.module:callable"):
        open_runner(ModelSpec(lambda x: x, example=(X5,), isolate=True))

    class Unwritable(Conversion):
        def save(self, path: object) -> None:
            raise RuntimeError("the disk is full")

    with pytest.raises(UsageError, match=r"cannot be written for a worker process \(RuntimeError: the disk is full\)"):
        open_runner(ModelSpec(Unwritable(None, (), (), (), 0), isolate=True))
    made = type("Local", (torch.nn.Linear,), {"__module__": "nowhere.to_be_found"})(2, 2)
    with pytest.raises(UsageError, match="cannot be sent to a worker process"):
        open_runner(ModelSpec(made, example=(torch.ones(1, 2),), isolate=True))


# --- another interpreter ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A virtual environment of its own that holds the named packages and nothing else."""

    def make(*packages: str) -> str:
        folder = tmp_path_factory.mktemp("other")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        (site,) = folder.glob("lib/python*/site-packages")
        for name in packages:
            origin = Path(str(__import__(name).__file__)).parent
            for found in (origin, *origin.parent.glob(f"{name}.libs")):
                (site / found.name).symlink_to(found, target_is_directory=True)
        return str(folder / "bin" / "python")

    return make


@pytest.fixture(scope="module")
def other(bare: Callable[..., str]) -> str:
    return bare("numpy", "safetensors")


def test_another_interpreter_answers(opened: Open, other: str) -> None:
    found = opened("where", python=other)
    assert ask(found.runner, X5).outputs[0].tobytes().decode() == other
    said = found.runner.about().environment
    assert said["worker"] == other
    assert said["numpy"] == np.__version__
    assert "torch" not in said


def test_another_interpreter_gets_our_package_and_nothing_else_of_ours(
    models: Path, opened: Open, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither torch nor hypothesis is there, and our PYTHONPATH does not bring them."""
    site = str(Path(torch.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, os.environ.get("PYTHONPATH", "")]))
    models.write_text(
        textwrap.dedent("""
        import importlib.util, sys
        import numpy as np
        NAMES = ("torch", "keras", "hypothesis", "rich", "numpy", "isomorph.parity.runners.wire")
        def seen(x):
            loaded = [name for name in NAMES if importlib.util.find_spec(name)]
            return np.frombuffer(" ".join(loaded).encode(), np.uint8)
        """)
    )
    answer = ask(opened("seen", python=other).runner, X5).outputs[0].tobytes().decode()
    assert answer == "numpy isomorph.parity.runners.wire"


def test_the_package_is_found_in_a_wheels_layout(models: Path, tmp_path: Path, other: str) -> None:
    """Installed from a wheel, `isomorph` is one folder; in the tree it is three."""
    site = tmp_path / "site"
    for name in ("convert", "parity"):
        ignored = shutil.ignore_patterns("__pycache__", "_facade")
        shutil.copytree(ROOT / name, site / "isomorph" / name, ignore=ignored)
    shutil.copy(ROOT / "convert" / "_facade" / "__init__.py", site / "isomorph")
    models.write_text(
        "import os, numpy as np, isomorph.convert, isomorph.parity\n"
        "def seen(x):\n"
        "    packages = (isomorph.convert, isomorph.parity)\n"
        "    text = ' '.join(os.path.realpath(p.__path__[0]) for p in packages)\n"
        "    return np.frombuffer(text.encode(), np.uint8)\n"
    )
    program = PARENT.replace("print(*map(int, runner.respond(request).outputs[0]), flush=True)", "print(SAID)")
    program = program.replace("isolate=True", f"python={other!r}")
    program = program.replace("SAID", "runner.respond(request).outputs[0].tobytes().decode()")
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", program, f"{models}:seen", "returns"]
    run = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str((site / "isomorph" / name).resolve()) for name in ("convert", "parity")]


def test_no_runner_needs_hypothesis() -> None:
    """Not even by a module that it imports later: another interpreter has none."""
    modules = tree_modules()
    reached, new = set(), {name for name in modules if name.startswith("isomorph.parity.runners")}
    assert "isomorph.parity.runners.worker" in new
    while new:
        reached |= new
        targets = {target for name in new for target, _, typing_only in imports(name) if not typing_only}
        assert not {target for target in targets if target.partition(".")[0] == "hypothesis"}
        new = {name for t in targets for name in (t, t.rpartition(".")[0]) if name in modules} - reached


def test_tensors_reach_an_interpreter_without_torch(models: Path, other: str) -> None:
    found = open_runner(ModelSpec(f"{models}:double", example=(torch.ones(3),), python=other))
    assert found.example is not None
    np.testing.assert_array_equal(ask(found.runner, *found.example).outputs[0], np.full(3, 2.0))
    found.runner.close()


def test_an_interpreter_that_is_missing(opened: Open) -> None:
    with pytest.raises(UsageError, match=r"nowhere/python: no such interpreter"):
        opened("double", python="nowhere/python")


def test_an_interpreter_that_cannot_be_run(opened: Open, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_bytes(b"\x7fELF and no more")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match=r"python cannot be run: Exec format error"):
        opened("double", python=str(broken))
    with pytest.raises(WorkerError, match=r"models\.py:double ended with exit status"):
        opened("double", python="false")


def test_an_interpreter_without_safetensors(opened: Open, bare: Callable[..., str]) -> None:
    with pytest.raises(WorkerError) as caught:
        opened("double", python=bare("numpy"))
    assert "a worker needs numpy and safetensors in" in str(caught.value)
    assert "No module named 'safetensors'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_whose_imports_fail_there(models: Path, opened: Open, other: str) -> None:
    models.write_text("import keras\n")
    with pytest.raises(UsageError, match=r"importing .* raised ModuleNotFoundError: No module named 'keras'"):
        opened("f", python=other)


def test_a_framework_that_is_missing_there(tmp_path: Path, other: str) -> None:
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(UsageError, match=r"model\.keras: keras is needed to run it, and is not installed in .*python"):
        open_runner(ModelSpec(str(tmp_path / "model.keras"), python=other))


def test_an_object_is_not_for_another_interpreter(other: str) -> None:
    with pytest.raises(UsageError, match=r"an object of this process.*name it as text"):
        open_runner(ModelSpec(torch.nn.Linear(2, 2), example=(torch.ones(1, 2),), python=other))

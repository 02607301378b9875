"""Damaged ONNX models: each is converted or refused in one line; nothing else is raised, opened or written, and nothing
crashes or hangs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from isomorph.convert.errors import IsomorphError
from tests.convert.onnx_models import RIGHT, beside, nested, saved
from tests.convert.onnx_mutations import Draw, damaged_bytes, damaged_fields

DAMAGE: dict[str, Callable[[Any, Draw], Any]] = {
    "bytes": lambda model, draw: damaged_bytes(saved(model), draw),
    "fields": damaged_fields,
}
EXAMPLES = {"read": 300, "to_torch": 120}
FILES = 400  # read in a process of their own


def door(name: str) -> Callable[[Any], Any]:
    """Without the process that onnx's own checks have for files and bytes: hundreds of them would take minutes."""
    if name == "read":
        from isomorph.convert.onnx_in.reading import read

        return lambda source: read(source, apart=False)
    from isomorph.convert.onnx_in.api import to_torch

    return lambda source: to_torch(parsed(source))


def parsed(source: Any) -> Any:
    """Bytes as a model, if they are one."""
    import onnx

    try:
        return onnx.ModelProto.FromString(source) if isinstance(source, bytes) else source
    except Exception:  # for the converter to say
        return source


def outcome(function: Callable[[Any], Any], source: Any) -> str:
    """What became of it; whatever is not an error of ours is raised."""
    try:
        function(source)
    except IsomorphError as error:
        refused = error
    else:
        return "read"
    assert str(refused).strip()
    assert "\n" not in str(refused)
    assert refused.exit_code in (2, 3)
    return type(refused).__name__


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", EXAMPLES)
def test_damage_is_refused_or_harmless(name: str, damage: str) -> None:
    seen: set[str] = set()
    function = door(name)

    @settings(
        max_examples=EXAMPLES[name],
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(RIGHT)), st.randoms(use_true_random=False))
    def one(base: str, source: random.Random) -> None:
        seen.add(outcome(function, DAMAGE[damage](RIGHT[base](), source.randrange)))

    one()
    assert seen >= {"read", "UsageError"}  # neither all refused nor all let through


def test_nothing_outside_the_folder_is_touched(tmp_path: Path) -> None:
    """Hundreds of damaged files in a process of their own, which notes every file, process and connection opened."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(9600))
    here = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import watched; watched({str(home)!r})"],
        cwd=here, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"{FILES} files; outside: []; ")
    assert "'read'" in lines[-1]
    assert "'UsageError'" in lines[-1]
    assert sorted(p.name for p in home.iterdir()) == ["link.bin", "m.onnx", "weights.bin"]


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    assert not opened("open", (str(tmp_path / "m.onnx"), "rb", 0), tmp_path)
    assert opened("open", (str(tmp_path / "m.onnx"), "wb", 0), tmp_path)
    assert opened("open", (str(tmp_path / ".." / "secret.bin"), "rb", 0), tmp_path)
    assert opened("subprocess.Popen", ("ls",), tmp_path)
    assert opened("os.remove", ("x", -1), tmp_path)


def watched(folder: str) -> None:
    """The child: damage a file with data beside it, read it and all its weights, and say what was opened."""
    read, home = door("read"), Path(folder).resolve()
    touched: list[str] = []
    path = beside(home)
    good, weights = path.read_bytes(), (home / "weights.bin").read_bytes()
    (home / "link.bin").symlink_to("../secret.bin")
    hostile = [saved(nested(depth)) for depth in (3, 24, 30)]
    for location in ("../secret.bin", "link.bin", str(home.parent / "secret.bin"), "../home/../secret.bin"):
        hostile.append(beside(home, location=location).read_bytes())
    path.write_bytes(good)
    assert every(read, path) == "read"  # what is imported late is imported now
    outcome(read, hostile[0])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and (noted := opened(event, args, home)):
            touched.append(noted)

    watching = False
    sys.addaudithook(hook)
    counts: dict[str, int] = {}
    for seed in range(FILES):
        draw = random.Random(seed).randrange
        data = hostile[seed // 20 % len(hostile)] if seed % 20 == 18 else damaged_bytes(good, draw)
        if seed % 2:
            import onnx

            data = damaged_fields(onnx.ModelProto.FromString(good), draw).SerializePartialToString()
        path.write_bytes(data)
        (home / "weights.bin").write_bytes(weights[: 9600 if seed % 5 else draw(9601)])
        watching = True
        result = every(read, path)
        watching = False
        counts[result] = counts.get(result, 0) + 1
    print(f"{FILES} files; outside: {touched[:5]}; {counts}")


QUIET = ("os.listdir", "os.scandir")
LOUD = ("os.", "socket.", "subprocess.", "shutil.", "ctypes.dlopen", "tempfile.")


def opened(event: str, args: tuple[Any, ...], home: Path) -> str:
    """What an audit event touches that is none of the reader's business, "" for nothing."""
    if event != "open":
        return event if event.startswith(LOUD) and event not in QUIET else ""
    if isinstance(args[0], int):
        return ""
    path = Path(os.fsdecode(args[0]))
    reads = args[1] in ("r", "rb", None)
    source = path.suffix == ".py" and path.is_relative_to(sys.prefix)  # an exception that looks up its own lines
    return "" if reads and (source or path.resolve().is_relative_to(home)) else f"open {path} {args[1]}"


def every(read: Callable[[Any], Any], path: Path) -> str:
    """Read a file and, if that can be done, all its weights."""

    def whole(source: Path) -> None:
        for value in read(source).graph.initializers.values():
            value.const_value.numpy()

    return outcome(whole, path)

"""onnx's checker and shape inference on a model from outside, in a process of their own.

They are C++ that does not expect damage: a Split with one output too many, or an axis of 2^63 - 1, ends the process
that asks (onnx 1.23). What crashes there is an error here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import onnx

from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError

from .inference import inferred

__all__ = ["inferred_apart", "main"]

SECONDS = 600
CODE = "import sys; sys.path[:] = {path!r}; from {module} import main; main()"


def inferred_apart(model: Any, opsets: dict[str, int], notes: list[str], where: str) -> Any:
    """What `inferred` returns and raises; UsageError also where the process ends or takes more than SECONDS."""
    if not sys.executable:
        return inferred(model, opsets, notes, where)
    head = json.dumps({"opsets": opsets, "where": where}).encode()
    code = CODE.format(path=[p for p in sys.path if p], module=__name__)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=head + b"\n" + model.SerializeToString(), capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{where}: onnx checks it for more than {SECONDS} s") from error
    except OSError:  # no more processes: then without the fence
        return inferred(model, opsets, notes, where)
    if done.returncode < 0:
        raise UsageError(f"{where}: damaged: onnx's own checks crash on it (signal {-done.returncode})")
    if done.returncode or b"\n" not in done.stdout:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
        raise UsageError(f"{where}: onnx's own checks fail on it: {last[:200]}")
    line, _, body = done.stdout.partition(b"\n")
    said = json.loads(line)
    if "error" in said:
        raise (UnsupportedError if said["code"] == UnsupportedError.exit_code else UsageError)(said["error"])
    notes += said["notes"]
    return onnx.ModelProto.FromString(body)


def main() -> None:
    """The other process: a model comes on standard input, and goes back on standard output."""
    head, _, body = sys.stdin.buffer.read().partition(b"\n")
    asked, notes = json.loads(head), list[str]()
    said: dict[str, Any] = {"notes": notes}
    found = b""
    try:
        model = inferred(onnx.ModelProto.FromString(body), asked["opsets"], notes, asked["where"])
        found = model.SerializeToString()
    except IsomorphError as error:
        said = {"error": str(error), "code": error.exit_code}
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + found)
    sys.stdout.buffer.flush()

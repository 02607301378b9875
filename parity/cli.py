"""The command `isomorph`: its arguments, and how an error reaches the user.

    isomorph convert SOURCE --to keras -o model.keras
    isomorph check A B
    isomorph gate [FILE]
    isomorph gate verify VERDICT MODEL
    isomorph report RECORD
    isomorph routes
    isomorph ops [SOURCE]
    isomorph doctor

Light: no framework is imported before a command runs. Each command lives in its own file, as `run(options, console)`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from isomorph.convert.errors import IsomorphError, UsageError, first_line
from isomorph.convert.named_code import suggest

from .console import TRACEBACK, Console, console, debugging
from .gate.options import VERIFY, add_gate
from .report.options import add_report, add_report_options

COMMANDS = {
    "convert": ".cli_convert",
    "check": ".cli_check",
    "ops": ".cli_ops",
    "routes": ".cli_routes",
    "doctor": ".doctor",
    "gate": ".cli_gate",
    "gate verify": ".gate.verify",
    "report": ".cli_report",
}
EXIT_CODES = """exit codes:
  0  converted, and the same model        3  an op is not supported
  1  converted, but not the same model    4  an error in isomorph or in a framework
  2  a wrong option, file or input        5  nothing could be compared"""
SOURCES = """SOURCE is one of
  model.pt2             an archive of torch.export.save
  pkg.module:factory    a function or class that makes the module; also path/to/file.py:factory
  hf:DIR                a local directory of Hugging Face transformers
  timm:NAME             a timm architecture
  torchvision:NAME      a torchvision architecture"""
KERAS_SOURCES = """
  model.keras, model.h5   a Keras model, to ONNX or PyTorch; also code that makes one
  model.onnx            an ONNX model, to PyTorch or Keras"""
CHECK_CODES = """exit codes:
  0  PASS: the same model                 3  UNSUPPORTED: no way to run one of them
  1  FAIL: not the same model             4  ERROR: a model or its worker process failed
  2  a wrong option, file or input        5  NOTHING_COMPARED: no conclusive comparison"""
MODELS = """A and B are each one of
  model.keras, model.h5     a Keras model, isomorph's or anyone's
  DIR                       a TensorFlow SavedModel
  model.tflite              a LiteRT model
  model.onnx                an ONNX model, run in ONNX Runtime
  pkg.module:callable       what makes a torch module or Keras model, or a function from arrays to arrays
  or any other SOURCE of isomorph convert (model.pt2, hf:DIR, timm:NAME, torchvision:NAME)"""
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Errors are raised, and so reach the user in the same form as all others. A command judges its own arguments."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        option = next((text for text in unknown if text.startswith("-")), None)
        if option is not None:
            near = suggest(option.partition("=")[0], list(self._option_string_actions))
            self.error(f"unrecognized argument: {option}{near}")
        return found, unknown


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    root = _Parser(
        prog="isomorph",
        formatter_class=raw,
        allow_abbrev=False,
        epilog=EXIT_CODES,
        description="A PyTorch model becomes a trainable Keras model, and is proven equal.",
    )
    root.add_argument("--version", action="store_true", help="print the version and stop")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    convert = commands.add_parser(
        "convert",
        help="convert a model, verify it, write it",
        formatter_class=raw,
        allow_abbrev=False,
        description="Convert a model to Keras, ONNX or PyTorch, verify that it is the same model, and write it.\n\n"
        + SOURCES
        + KERAS_SOURCES,
        epilog=EXIT_CODES,
    )
    convert.add_argument("source", metavar="SOURCE")
    convert.add_argument("--to", choices=["keras", "onnx", "torch"], help="the target (default: by the file's name)")
    convert.add_argument("-o", "--output", required=True, type=Path, metavar="FILE",
                         help="the file to write: .keras, .onnx, .pt2 or .safetensors")  # fmt: skip
    _add_source_options(convert)
    convert.add_argument(
        "--layout",
        choices=["keras", "torch", "source"],
        help="axis order of the inputs and outputs: channels last, or as in torch; to torch: torch's, or the source's",
    )
    convert.add_argument(
        "--mode",
        choices=["both", "eval"],
        help="both: one model for training and inference (default); eval: inference only",
    )
    convert.add_argument(
        "--dtype",
        choices=["float64", "float32", "float16", "bfloat16"],
        help="of weights and computation (default: the module's own)",
    )
    convert.add_argument(
        "--batchnorm",
        choices=["torch", "keras"],
        help="to Keras: whose update of the running variance, torch's unbiased one (default) or Keras' own",
    )
    convert.add_argument("--opset", type=_count, metavar="N",
                         help="of the .onnx file (default: the newest that ONNX Runtime supports)")  # fmt: skip
    convert.add_argument("--trainable", choices=["auto", "all", "none"],
                         help="from ONNX: which initializers are trainable (default: auto)")  # fmt: skip
    convert.add_argument(
        "--verify",
        choices=["full", "quick", "none"],
        default="full",
        help="how much is compared before the file is written (default: full)",
    )
    convert.add_argument("--report", type=Path, metavar="FILE.json", help="write everything that --json prints there")
    convert.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    _add_json(convert)

    _add_check(commands)
    add_gate(commands)
    add_report(commands)

    ops = commands.add_parser(
        "ops",
        help="the ops that are supported; with a SOURCE, what it lacks",
        formatter_class=raw,
        allow_abbrev=False,
        description=f"The table of supported ops. With a SOURCE: the ops it needs that are missing, and where.\n\n"
        f"{SOURCES}",
    )
    ops.add_argument("source", metavar="SOURCE", nargs="?")
    ops.add_argument("--onnx", action="store_true", help="the table of ONNX ops that become torch")
    _add_source_options(ops)
    ops.add_argument("--mode", choices=["both", "eval"], help="which modes to capture (default: both)")
    _add_json(ops)

    ways = commands.add_parser(
        "routes",
        help="the converters, and the way from each format to each other",
        allow_abbrev=False,
        description="The converters, what each keeps, and the way from each format to each other one.",
    )
    _add_json(ways)

    doctor = commands.add_parser(
        "doctor",
        help="versions, devices, and what each extra would add",
        allow_abbrev=False,
        description="Versions, devices, and what each extra would add. Exit code 4 when something needed is missing.",
    )
    doctor.add_argument("--no-devices", action="store_true", help="do not start the frameworks to ask for devices")
    _add_json(doctor)
    return root


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="are two models the same model, forward and backward?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description="Compare two models: outputs, gradients of every input and parameter, buffers, training steps.\n\n"
        + MODELS,
        epilog=CHECK_CODES,
    )
    check.add_argument("original", metavar="A")
    check.add_argument("converted", metavar="B")
    _add_source_options(check)
    check.add_argument("--weights-b", type=Path, metavar="FILE", help="likewise, for B")
    check.add_argument("--level", choices=["quick", "full", "thorough"], default="full",
                       help="3, 24 or 200 examples; quick leaves out whole stages (default: full)")  # fmt: skip
    check.add_argument("--examples", type=_count, metavar="N", help="in eval mode; a third of it in train mode")
    check.add_argument("--steps", type=_whole, metavar="N", help="of each optimizer, 0 for none (default: the level's)")
    check.add_argument("--budget", type=_seconds, metavar="SECONDS", help="start nothing new after so long")
    check.add_argument("--mode", choices=["both", "eval", "train"], default="both", help="(default: both)")
    check.add_argument("--no-backward", action="store_true", help="compare outputs and buffers only")
    check.add_argument("--dtype", choices=["both", "float64", "own"], default="both",
                       help="float64: structure only; own: precision only (default: both)")  # fmt: skip
    check.add_argument("--strict", action=argparse.BooleanOptionalAction, default=None,
                       help="whether kinks and leaks fail (default: for isomorph's own conversions)")  # fmt: skip
    check.add_argument("--tolerance", action="append", default=[], metavar="KIND=VALUE",
                       help="relative error a quantised artifact may have, e.g. int8=0.05; repeatable")  # fmt: skip
    for option, meant in (("device", "cpu, cuda or cuda:N"), ("backend", "Keras' backend"), ("python", "interpreter")):
        for side in ("a", "b"):
            check.add_argument(f"--{option}-{side}", metavar=option.upper(), help=f"{meant} of {side.upper()}")
    check.add_argument("--device", default="cpu", metavar="DEVICE", help="of both (default: cpu)")
    check.add_argument("--isolate", action="store_true", help="run both models in worker processes")
    check.add_argument("--timeout", type=_seconds, default=600.0, metavar="SECONDS",
                       help="for one run of a model in a worker process (default: 600)")  # fmt: skip
    check.add_argument("--memory", type=_gigabytes, metavar="GB", help="address space of a worker process")
    check.add_argument("--database", type=Path, metavar="DIR",
                       help="keep failing examples there, replay them first (default: isomorph's cache)")  # fmt: skip
    check.add_argument("--modules", action="store_true", help="measure the error of every module on one example")
    check.add_argument("--reproduce", type=Path, metavar="DIR", help="on a failure, write a pytest folder")
    check.add_argument("--json", metavar="FILE", help="write the verdict there as JSON; - for stdout")
    add_report_options(check)
    check.add_argument("-q", "--quiet", action="store_true", help="print the verdict line only")


def _add_source_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors, .pt, .pth, .ckpt or .bin")
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=DTYPE[DIMS]",
        help='an example input, e.g. "x=float32[b,3,224,224]"; names are dynamic axes; repeatable',
    )
    command.add_argument(
        "--seed",
        type=_whole,
        default=0,
        metavar="N",
        help="of example inputs, random weights and the verification (default: 0)",
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    return _positive(text, "a number of seconds")


def _gigabytes(text: str) -> float:
    return _positive(text, "a number of gigabytes")


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code; never raises but SystemExit
    for --help."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] == VERIFY.split():
        arguments[:2] = [VERIFY]
    # Known before the arguments are parsed: also what is wrong with them is told in JSON then.
    in_json = _wants_json(arguments)
    try:
        options = parser().parse_args(arguments)
        options.arguments = tuple(arguments)  # as they can be given again
        if options.version:
            import isomorph

            sys.stdout.write(f"isomorph {isomorph.__version__}\n")
            return 0
        if options.command is None:
            raise UsageError("no command given; see isomorph --help")
    except IsomorphError as error:
        return fail(error, Console(sys.stdout, sys.stderr), in_json)
    with console() as streams:
        try:
            command: Any = import_module(COMMANDS[options.command], __package__)
            return int(command.run(options, streams))
        except BrokenPipeError:
            # The reader of a pipe has gone; nothing may be written to it when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), streams.out.fileno())
            return 0
        except (Exception, KeyboardInterrupt) as error:
            return fail(error, streams, in_json)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether stdout is to be one JSON document: `--json`, or `check --json -`, `gate --json -`."""
    if arguments[:1] not in (["check"], ["gate"]):
        return "--json" in arguments
    return "--json=-" in arguments or ("--json", "-") in pairwise(arguments)


def fail(error: BaseException, streams: Console, in_json: bool) -> int:
    """Tell the user in one line (and, with --json, as a document) and return the exit code."""
    if debugging():
        traceback.print_exception(error, file=streams.err)
    document = error_document(error)
    streams.message(f"isomorph: error: {document['message']}")
    if in_json:
        streams.json({"status": document["status"], "exit_code": document["exit_code"], "error": document})
    return int(document["exit_code"])


def gap_document(gap: Any) -> dict[str, Any]:
    """An unsupported op (isomorph.convert.support.Missing, or a text) as it stands in JSON; `where` holds its first
    places."""
    if isinstance(gap, str):
        return {"op": gap, "count": 1, "where": []}
    return {"op": gap.op, "count": gap.count, "where": [str(origin) for origin in gap.origins]}


_STATUS = {1: "FAIL", 2: "USAGE", 3: "UNSUPPORTED", 5: "NOTHING_COMPARED", INTERRUPTED: "INTERRUPTED"}


def error_document(error: BaseException) -> dict[str, Any]:
    """status, exit_code, type, message and, for unsupported ops, their list: as it stands in JSON."""
    ops: list[dict[str, Any]] = []
    if isinstance(error, IsomorphError):
        code, message = error.exit_code, str(error)
        ops = [gap_document(gap) for gap in getattr(error, "ops", ())]
    elif isinstance(error, KeyboardInterrupt):
        code, message = INTERRUPTED, "interrupted; nothing was written"
    else:
        code = 4
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        said = f"{type(error).__name__}: {first_line(error, 300)}{where}"
        message = f"internal: {said}; set {TRACEBACK}=1 for the traceback"
    status = _STATUS.get(code, "ERROR")
    return {"status": status, "exit_code": code, "type": type(error).__name__, "message": message, "ops": ops}


if __name__ == "__main__":
    sys.exit(main())

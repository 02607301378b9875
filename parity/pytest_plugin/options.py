"""What a check is asked for, from the profile up: profile < ini < command line < marks, the closest last < the call.

chosen(item, {"examples": 3}) -> Choice(arguments={"examples": 3, "seed": 7, ...}, devices=("cpu",), ...)
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.convert.named_code import suggest
from isomorph.parity import settings
from isomorph.parity.plugin import OPTIONS, PROFILES

__all__ = ["MARK_KEYS", "Choice", "chosen", "devices_of", "judge_marks", "judge_options", "profile_of"]


def _whole(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        found = int(value) if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value) else value
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return found

    return parse


def _seconds(value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (found > 0 and math.isfinite(found)):
        raise ValueError("must be a number of seconds above 0")
    return found


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|all|cuda(:\d+)?", value):
        raise ValueError("must be cpu, cuda, cuda:N or all")
    return value


def _one_of(*known: Any) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if not any(value is each or (isinstance(value, str) and value == each) for each in known):
            raise ValueError(f"must be {', '.join(map(str, known[:-1]))} or {known[-1]}")
        return value

    return parse


def _modes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or set(map(str, value)) - {"eval", "train"}:
        raise ValueError("must be some of 'eval' and 'train', in a tuple")
    return tuple(value)


def _folder(value: Any) -> str:
    name = str(value)
    if not name.strip() or (name.endswith((".json", ".html", ".md", ".xml", ".sarif")) and not os.path.isdir(name)):
        raise ValueError("must name a folder, which gets the reports in every format")
    return name


_OPTION_KINDS: Mapping[str, Callable[[Any], Any]] = {
    "device": _device,
    "examples": _whole(1),
    "budget": _seconds,
    "profile": _one_of(*PROFILES),
    "seed": _whole(0),
    "report": _folder,
}
MARK_KEYS: Mapping[str, Callable[[Any], Any]] = {
    "examples": _whole(1),
    "device": _device,
    "backward": _one_of(True, False),
    "train_steps": _whole(0),
    "dtype": _one_of("both", "float64", "own"),
    "budget": _seconds,
    "level": _one_of("quick", "full", "thorough"),
    "seed": _whole(0),
    "modes": _modes,
    "strict": _one_of(True, False, None),
}


@dataclass(frozen=True)
class Choice:
    """How a check is made. arguments: of `isomorph.check`. devices: one check each; None leaves the device to the
    models. profile: the name of the profile that everything else stands on."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[str | None, ...] = (None,)
    profile: str = "dev"


def judge_options(config: pytest.Config) -> None:
    """pytest.UsageError: an option or ini value that cannot be; a folder of reports that cannot be written."""
    for name, _, _ in OPTIONS:
        option(config, name)
    report = option(config, "report")
    if report is not None and not hasattr(config, "workerinput") and not config.option.collectonly:
        from isomorph.parity.report.faces import check_path

        of_ini = config.getoption("parity_report") is None
        where = f"parity_report ({config.inipath or 'ini'})" if of_ini else "--parity-report"
        folder = config.invocation_params.dir / report
        if folder.exists() and not folder.is_dir():
            raise pytest.UsageError(f"{where} {folder}: a folder is wanted, and this is a file")
        try:
            check_path(os.path.join(folder, ""), where)  # with a slash: a folder, whatever its name ends in
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None


def option(config: pytest.Config, name: str) -> Any:
    """The value of `--parity-NAME`, else of the ini's `parity_NAME`, where a path is relative to the ini file; None
    where neither is given. pytest.UsageError."""
    where, value = f"--parity-{name}", config.getoption(f"parity_{name}", None)
    of_ini = value is None
    if of_ini:
        where, value = f"parity_{name} ({config.inipath or 'ini'})", config.getini(f"parity_{name}") or None
    if value is None:
        return None
    try:
        found = _OPTION_KINDS[name](value)
    except ValueError as error:
        raise pytest.UsageError(f"{where} {error}, not {value!r}") from None
    beside = config.inipath.parent if config.inipath else config.rootpath
    return str(beside / found) if name == "report" and of_ini else found


def judge_marks(item: pytest.Item) -> None:
    """Fail the test in one line where a mark `parity` on it, its class or its module says nothing."""
    __tracebackhide__ = True
    said = ""
    try:
        _of_marks(item)
    except UsageError as error:
        said = str(error)
    if said:
        pytest.fail(said, pytrace=False)


def chosen(item: pytest.Item, call: Mapping[str, Any]) -> Choice:
    """What a check of this test is asked for. call: the keyword arguments of the fixture's call. UsageError."""
    config = item.config
    profile = profile_of(config)
    given = {**_of_config(config), **_of_marks(item), **call}
    # hypothesis' own settings have a database; a report shows every module's error
    default = {"database": "default", "profile": option(config, "report") is not None}
    arguments = {**default, **settings.PROFILES[profile], **_of_hypothesis(config), **given}
    device = arguments.pop("device", None)
    return Choice(arguments, devices_of(device), profile)


def profile_of(config: pytest.Config) -> str:
    """The profile's name: as given, else "ci" where the environment variable CI is set, else "dev"."""
    return option(config, "profile") or ("ci" if os.environ.get("CI", "") not in ("", "0", "false") else "dev")


def devices_of(device: str | None) -> tuple[str | None, ...]:
    """The devices of one check each. UsageError: a GPU that is not there was asked for."""
    if device is None or device == "cpu":
        return (device,)
    from isomorph.parity.runners.device import require_torch

    if device != "all":
        require_torch(device)
        return (device,)
    try:
        require_torch("cuda")
    except UsageError:
        return ("cpu",)
    return ("cpu", "cuda")


def _of_config(config: pytest.Config) -> dict[str, Any]:
    found = {name: option(config, name) for name in ("device", "examples", "budget", "seed")}
    return {name: value for name, value in found.items() if value is not None}


def _of_marks(item: pytest.Item) -> dict[str, Any]:
    """Module, class, function: the closest mark last."""
    found: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("parity"))):
        known = ", ".join(MARK_KEYS)
        if mark.args:
            raise UsageError(f"@pytest.mark.parity takes keywords only, not {mark.args[0]!r}; known are {known}")
        for key, value in mark.kwargs.items():
            if key not in MARK_KEYS:
                near = suggest(key, list(MARK_KEYS)) or f"; known are {known}"
                raise UsageError(f"@pytest.mark.parity: unknown keyword {key!r}{near}")
            try:
                found["steps" if key == "train_steps" else key] = MARK_KEYS[key](value)
            except ValueError as error:
                raise UsageError(f"@pytest.mark.parity: {key} {error}, not {value!r}") from None
    return found


def _of_hypothesis(config: pytest.Config) -> dict[str, Any]:
    """What hypothesis' own options say about a check, where its plugin is on."""
    found: dict[str, Any] = {}
    profile = config.getoption("hypothesis_profile", None)
    seed = config.getoption("hypothesis_seed", None)
    if seed is not None:
        found["seed"] = int(seed) if str(seed).isdecimal() else zlib.crc32(str(seed).encode())
    if profile is not None:
        from isomorph.parity.drawing.engine import profile_settings

        said = profile_settings(profile)
        found |= {"examples": said.examples, "database": said.database}
        if said.derandomize:
            found["seed"] = 0  # as hypothesis itself: no seed from outside
    return found

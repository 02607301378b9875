"""Every error a user can meet: one clear line (what, where, what to do) and the exit code of the command."""

from __future__ import annotations


class IsomorphError(Exception):
    """Base of the errors that are shown to a user without a traceback. `exit_code` is the command's."""

    exit_code = 4


class UsageError(IsomorphError):
    """The request does not fit: a bad option, a missing file, an input spec or weight that does not match."""

    exit_code = 2


class CaptureError(UsageError):
    """torch.export could not turn the module into a graph (a data-dependent branch, a wrong example input)."""


class WeightError(UsageError):
    """A checkpoint does not fit the module: missing, unexpected or wrongly shaped entries."""


class UnsupportedError(IsomorphError):
    """Some ops have no rule and no decomposition; `ops` lists each with its count and origin."""

    exit_code = 3

    def __init__(self, message: str, ops: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.ops = ops


class ParityError(IsomorphError):
    """The converted model is not the same model; the verdict says where."""

    exit_code = 1


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an exception's text, "" if it has none, cut off after `limit` characters."""
    return (str(error).strip().splitlines() or [""])[0][:limit]


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's type and its whole text in one line, cut off after `limit` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]

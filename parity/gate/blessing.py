"""A blessing as TFX's Evaluator leaves it: an empty file BLESSED or NOT_BLESSED in a folder, which a Pusher looks for.

TFX's InfraValidator calls its own INFRA_BLESSED and INFRA_NOT_BLESSED; a gate stands where the Evaluator does. A
blessing names no model and does not expire: whoever can, asks `isomorph gate verify`. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path

from isomorph.convert.errors import UsageError
from isomorph.convert.whole import whole

from ..record import Record

__all__ = ["BLESSED", "NOT_BLESSED", "clear", "write"]

BLESSED, NOT_BLESSED = "BLESSED", "NOT_BLESSED"


def write(folder: str | os.PathLike[str], record: Record) -> Path:
    """Leave the one file that a run deserves, and not the other: BLESSED where the whole policy passed.

    At no moment are both there. UsageError: the folder cannot be made or written to."""
    whole_policy = record.policy is not None and not record.policy.get("partial", False)
    folder = Path(folder)
    clear(folder)
    path = folder / (BLESSED if record.status == "PASS" and whole_policy else NOT_BLESSED)
    with whole(path) as file:
        file.touch()
    return path


def clear(folder: str | os.PathLike[str]) -> None:
    """Make the folder, without a blessing: what an earlier run left must not stand while another goes on.

    UsageError: it cannot be made, or the blessing not be taken away."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (BLESSED, NOT_BLESSED):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: a blessing cannot be written there: {error.strerror or error}") from error

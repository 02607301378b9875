"""What TensorFlow and tf2onnx log while they work is for their own developers: it is collected, not shown."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from isomorph.convert.errors import one_line

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """While open, what tf2onnx and TensorFlow log is collected and not shown."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                text = record.getMessage().splitlines()[0]
                error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
                said.append(text + (f": {one_line(error)}" if error is not None else ""))

    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow", "root")]
    before = [(log, log.handlers[:], log.propagate) for log in loggers]
    collect = Collect()
    for log in loggers:
        log.handlers, log.propagate = [collect], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for log, handlers, propagate in before:
            log.handlers, log.propagate = handlers, propagate

"""The fixture `parity`: checks made in a test, each a `Result` of the run, the first that is no PASS its failure."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from isomorph.convert.errors import IsomorphError, UnsupportedError, one_line
from isomorph.parity.plugin import ParityFailure
from isomorph.parity.pytest_plugin import keeping, models
from isomorph.parity.pytest_plugin.message import failure_text, headline
from isomorph.parity.pytest_plugin.options import Choice, chosen
from isomorph.parity.pytest_plugin.reproducer import Reproducers
from isomorph.parity.record import Result, Status
from isomorph.parity.verdict import Verdict

__all__ = ["Parity"]

# Tests may check in threads; what a check sets for its time (warnings, seeds, precision) is the whole process'.
_ALONE = threading.RLock()


class Parity:
    """What the fixture gives a test. It may be called several times."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._item: pytest.Item = request.node
        self._reproducers = Reproducers(request)
        self._count = 0
        # read by Keras when it is imported; what the user has set stays, as in the command
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")

    def __repr__(self) -> str:
        return "<isomorph: parity>"

    def __call__(self, original: Any, converted: Any, inputs: Any = None, **options: Any) -> Verdict:
        """Compare two models and return the verdict, which is PASS: of the last device where there are several.

        original, converted, inputs, options: as of `isomorph.check`; also train_steps, of each optimizer. What is not
        given is taken from the marks, the command line, the ini file and the profile, in this order.

        Raises:
            ParityFailure: an AssertionError; the models differ, nothing was compared, or they could not be judged.
            UsageError: an argument that cannot be, or a model that cannot be opened.
        """
        __tracebackhide__ = True
        with _ALONE:
            verdict, error = self._check(original, converted, inputs, options)
        if error is not None:
            raise error.with_traceback(None) from None
        return cast(Verdict, verdict)

    def convert(self, model: Any, inputs: Any = None, **options: Any) -> Any:
        """Convert a model, compare it with what it became, and return the conversion.

        model: a torch module (or TorchConversion), which becomes a Keras model: `isomorph.to_keras`; or whatever
            `isomorph.to_torch` takes, a Keras model above all.
        inputs: what the model is called with: a tensor, a tuple of arguments, a dict of keyword arguments or (args,
            kwargs). options: of the conversion and of the check, by their names; `dtype` is the conversion's.

        Raises:
            ParityFailure, UsageError: as above. CaptureError, UnsupportedError: it cannot be converted.
        """
        __tracebackhide__ = True
        with _ALONE:
            conversion, error = self._convert(model, inputs, options)
        if error is not None:
            raise error.with_traceback(None) from None
        return conversion

    def _convert(self, model: Any, inputs: Any, options: Mapping[str, Any]) -> tuple[Any, IsomorphError | None]:
        try:
            with models.quiet():
                conversion, example, rest = models.convert(model, inputs, options)
        except IsomorphError as error:
            self._count += 1
            status: Status = "UNSUPPORTED" if isinstance(error, UnsupportedError) else "ERROR"
            result = Result(keeping.name_of(self._item, self._count), status, one_line(error), models.described(model))
            keeping.keep(self._item, result)
            return None, error
        return conversion, self._check(model, conversion, example, rest)[1]

    # -------------------------------------------------------------------------------------------------------- one check
    def _check(
        self, original: Any, converted: Any, inputs: Any, options: Mapping[str, Any]
    ) -> tuple[Verdict | None, IsomorphError | None]:
        """On each device that is asked for: the verdict of the last, and the first failure. Or the caller's mistake."""
        self._count += 1
        name, pair = keeping.name_of(self._item, self._count), (original, converted)
        verdict, failure = None, None
        try:
            with models.quiet():
                choice = chosen(self._item, models.named(options))
                for device in choice.devices:
                    label = f"{name}[{device}]" if len(choice.devices) > 1 else name
                    verdict, failed = self._on_device(label, pair, inputs, choice, device)
                    failure = failure or failed
        except Exception as error:
            first, second = map(models.described, pair)
            keeping.keep(self._item, Result(name, "ERROR", one_line(error), first, second))
            if isinstance(error, IsomorphError):
                return None, error
            raise
        return verdict, failure

    def _on_device(
        self, name: str, pair: tuple[Any, Any], inputs: Any, choice: Choice, device: str | None
    ) -> tuple[Verdict, ParityFailure | None]:
        begun = time.monotonic()
        original, converted = models.specs(pair, inputs, choice, device)
        verdict = models.check(original, converted, choice)
        first, second = map(models.described, pair)
        reproducer = self._reproducers.write(name, verdict, original, converted)
        if reproducer.folder:
            verdict = replace(verdict, artifacts={**verdict.artifacts, "reproducer": str(reproducer.folder)})
        result = Result(
            name, verdict.status, headline(verdict), first, second, verdict=verdict.to_dict(), device=original.device,
            subjects=models.subjects(pair), settings=models.plain_settings(choice), artifacts=reproducer.artifacts,
        )  # fmt: skip
        result = keeping.judged(self._item, self._count, result, (original, converted), choice)
        keeping.keep(self._item, replace(result, seconds=round(time.monotonic() - begun, 3)))
        if result.passed:
            return verdict, None
        again = keeping.again(self._item, verdict.seed, device)
        return verdict, ParityFailure(failure_text(result, verdict, reproducer.text, again), verdict)

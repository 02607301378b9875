"""Which checks a verdict must hold, and whether each compared something. Pure; reads a verdict as `to_dict` gives it.

| check | it compared something if |
| --- | --- |
| outputs | an output was judged, in float64 or in the artifact's own dtype |
| gradients | a gradient was judged, and one of a parameter where the original has trainable ones |
| buffers | a buffer was judged after a run |
| train | an output was judged in train mode |
| special | the original accepted inputs with NaN or infinities |
| randomised | an array was judged with randomised weights |
| steps | a parameter or buffer was judged after steps of an optimizer |
| relations | a relation of the batch holds for the original, and was put to the converted model |
| determinism | the converted model was asked the same thing twice |
| dropout | the law of random draws was judged |

"Judged" is equal or failed: neither inconclusive nor vacuous. A policy that names its checks requires exactly those,
and `outputs`. Where it names none, every check is required that the level does, but for what these two models cannot
do: a format without gradients, a model without buffers, without parameters, without random draws. What that is the
verdict says; it is kept with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from isomorph.parity.gate.policy import ModelEntry
from isomorph.parity.gate.policy_keys import CHECKS
from isomorph.parity.gate.policy_sense import undone

__all__ = ["Required", "judge", "names", "unmet_text"]

Verdict = Mapping[str, Any]
GRADIENTS = ("input gradient", "parameter gradient")
JUDGED = ("structure", "precision", "quantised")
AFTER = frozenset({"special", "randomised", "steps", "relations", "dropout"})  # not begun where a mismatch was found


class Gap(NamedTuple):
    """Why a check compared nothing. own: it lies in what the two models are."""

    reason: str
    own: bool = False


@dataclass(frozen=True)
class Required:
    """names: of the required checks. unmet: check -> why it compared nothing. excused: likewise, of those that no
    policy names and these models cannot do."""

    names: tuple[str, ...]
    unmet: Mapping[str, str]
    excused: Mapping[str, str]

    @property
    def message(self) -> str:
        """What is lacking, in one line."""
        return unmet_text(self.unmet)


def unmet_text(unmet: Mapping[str, str]) -> str:
    """unmet: check -> why it compared nothing."""
    told = "; ".join(f"{name} ({reason})" for name, reason in unmet.items())
    return f"required, and nothing was compared: {told}"


def names(entry: ModelEntry, dtype: str) -> tuple[str, ...]:
    """The checks that a model must hold in one dtype: those its entry names, else all that its settings do."""
    if entry.checks is not None:
        return tuple(dict.fromkeys(("outputs", *entry.checks)))
    left_out = undone(entry, (dtype,))
    return tuple(check for check in CHECKS if check not in left_out)


def judge(verdict: Verdict, entry: ModelEntry, dtype: str) -> Required:
    """What became of the required checks in a verdict."""
    wanted = names(entry, dtype)
    gaps = {name: gap for name in wanted if (gap := _gap(name, verdict)) is not None}
    lenient = entry.checks is None
    excused = {name: gap.reason for name, gap in gaps.items() if lenient and gap.own}
    unmet = {name: gap.reason for name, gap in gaps.items() if name not in excused}
    return Required(tuple(name for name in wanted if name not in excused), unmet, excused)


def _gap(name: str, verdict: Verdict) -> Gap | None:
    gap = _GAPS[name](verdict)
    if gap is not None and name in AFTER and verdict["status"] == "FAIL":
        return Gap("not begun, as the models were found to differ before", own=True)
    return gap


# ---------------------------------------------------------------------------------------------------- one after another
def _outputs(verdict: Verdict) -> Gap | None:
    return (
        None
        if _judged(verdict, quantity=("output",), stage=JUDGED)
        else Gap(_reason(verdict) or "no output was judged")
    )


def _gradients(verdict: Verdict) -> Gap | None:
    parameters = _covered(verdict, "parameters")
    trainable = [name for kind in ("compared", "untested", "chaotic") for name in parameters.get(kind, ())]
    some = _judged(verdict, quantity=GRADIENTS)
    if some and (parameters.get("compared") or not trainable):
        return None
    lacking = _said(verdict, "gradients: ") or "; ".join(_covered(verdict, "no_gradient").values())
    if lacking:
        return Gap(lacking, own=True)
    if not trainable and not any(c["quantity"] in GRADIENTS and c["compared"] for c in verdict["checks"]):
        return Gap("no input is floating, and no parameter trainable", own=verdict["status"] == "PASS")
    return Gap("every gradient of a parameter is zero, not finite or too ill-conditioned" if some or trainable
               else "every gradient is zero, not finite or too ill-conditioned")  # fmt: skip


def _buffers(verdict: Verdict) -> Gap | None:
    if _judged(verdict, quantity=("buffer",)):
        return None
    if any(c["quantity"] == "buffer" and c["compared"] for c in verdict["checks"]):
        return Gap("every buffer is empty, zero, not finite or too ill-conditioned")
    absent = _covered(verdict, "buffers").get("absent")
    return Gap("the converted model holds none of the buffers" if absent else "the original has no buffers that a run "
               "could be compared by", own=True)  # fmt: skip


def _train(verdict: Verdict) -> Gap | None:
    if _judged(verdict, quantity=("output",), mode=("train",)):
        return None
    lacking = _said(verdict, "train mode: ")
    return Gap(lacking, own=True) if lacking else Gap(_reason(verdict) or "no output was judged in train mode")


def _special(verdict: Verdict) -> Gap | None:
    if _covered(verdict, "special").get("cases"):
        return None
    return _lacking(verdict, "special values: ", "eval mode: ")


def _randomised(verdict: Verdict) -> Gap | None:
    if _judged(verdict, stage=("randomised",)):
        return None
    return _lacking(verdict, "randomised weights: ", "structure in float64: ")


def _steps(verdict: Verdict) -> Gap | None:
    done = _covered(verdict, "steps").get("optimizers", {}).values()
    if any(said.get("compared", 0) > len(said.get("inconclusive", ())) for said in done):
        return None
    for gap in (_gradients(verdict), _train(verdict)):
        if gap is not None and gap.own and not done:
            return gap
    return _lacking(verdict, "optimizer steps: ")


def _relations(verdict: Verdict) -> Gap | None:
    said = _covered(verdict, "relations")
    if any(said.get("held", {}).values()):
        return None
    if said:
        return Gap("no relation of a batch holds for the original", own=True)
    return _lacking(verdict, "relations of a batch: ", "eval mode: ")


def _determinism(verdict: Verdict) -> Gap | None:
    if any("converted" in said for said in _covered(verdict, "determinism").values()):
        return None
    return _lacking(verdict, "determinism of the converted model")


def _dropout(verdict: Verdict) -> Gap | None:
    said = _covered(verdict, "random").values()
    if any(found["elements"] for found in said):
        return None
    gap = _lacking(verdict, "the law of random draws", "train mode: ")
    return gap if gap.own else Gap("the original draws nothing at random", own=not said)


_GAPS: Mapping[str, Callable[[Verdict], Gap | None]] = {
    "outputs": _outputs, "gradients": _gradients, "buffers": _buffers, "train": _train, "special": _special,
    "randomised": _randomised, "steps": _steps, "relations": _relations, "determinism": _determinism,
    "dropout": _dropout,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- reading
def _judged(verdict: Verdict, **wanted: tuple[str, ...]) -> int:
    """How many arrays were judged; wanted: field of a `Check` -> the values that count."""
    picked = (c for c in verdict["checks"] if all(c[name] in values for name, values in wanted.items()))
    return sum(c["equal"] + c["failed"] for c in picked)


def _covered(verdict: Verdict, key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = verdict["coverage"].get(key) or {}
    return found


def _said(verdict: Verdict, start: str) -> str:
    """What the verdict says was not checked, of the texts that begin so; "" for none."""
    found: str = next((t for t in verdict["coverage"].get("not_checked", ()) if t.startswith(start)), "")
    return found


def _lacking(verdict: Verdict, *starts: str) -> Gap:
    """The reason that the verdict gives, which lies in the models unless time was short; else that there is none."""
    said = next((text for start in starts if (text := _said(verdict, start))), "")
    if said:
        return Gap(said, own="budget of" not in said)
    return Gap(_reason(verdict) or "nothing was compared")


def _reason(verdict: Verdict) -> str:
    return str(verdict["coverage"].get("reason") or "")

"""A failure as a folder of its own: a test that fails the same way with nothing but isomorph installed.

test_reproduce.py    asserts that the two models agree: on the example, and in a check
inputs.safetensors   the example: input.0 ..., cotangent.0 ... (the original's order and axes)
original.*, converted.*    the models, or their sources where they are code
versions.json        what differed, on what case, with which settings and versions
README.md
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.errors import IsomorphError, UsageError, first_line
from isomorph.parity.compare import AGREES
from isomorph.parity.contract import prepare
from isomorph.parity.judging.randomise import randomised
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings
from isomorph.parity.signature import check_signature
from isomorph.parity.stages import Example, compare_at_precision, compare_in_float64
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case, Mismatch, Verdict

__all__ = ["example", "replay", "reproduce"]

INPUTS, FACTS, SCHEMA = "inputs.safetensors", "versions.json", "isomorph.reproduction/1"


def reproduce(verdict: Verdict, original: Any, converted: Any, folder: Path) -> Path:
    """Write the folder of a failed check and return it.

    verdict: what `check` said. original, converted: what it was given, or `ModelSpec`s. A torch module is exported in
    the mode that failed, a Conversion or a Keras model saved, a file or directory copied; "module:callable" stays a
    text, and needs that code.

    Raises:
        UsageError: the verdict is no failure, the folder exists, or a model is an object that cannot be written down.
        UnsupportedError: torch.export cannot export the module.
    """
    folder = Path(folder)
    if verdict.status != "FAIL":
        raise UsageError(f"only a failure can be reproduced: the verdict is {verdict.status}")
    if folder.exists():
        raise UsageError(f"{folder} exists already; nothing was written")
    if not folder.resolve().parent.is_dir():
        raise UsageError(f"{folder}: the folder {folder.parent} does not exist")
    specs = [m if isinstance(m, ModelSpec) else ModelSpec(m) for m in (original, converted)]
    whole = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.resolve().parent))
    try:
        _write(whole, verdict, specs[0], specs[1])
        os.chmod(whole, 0o755)
        os.rename(whole, folder)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return folder


def replay(folder: Path | str) -> tuple[Mismatch, ...]:
    """What differs, now, on the example in a folder that `reproduce` wrote; empty where the models agree on it.

    UsageError: the folder is none, or a model in it cannot be opened.
    """
    folder = Path(folder)
    facts = _facts(folder)
    arrays = _arrays(folder)
    inputs, cotangents = _ordered(arrays, "input"), _ordered(arrays, "cotangent")
    ledger, settings = Ledger(), Settings(modes=(facts["mode"],), seed=facts["seed"], dtype=facts["dtype"])
    pair = prepare(
        _spec(folder, facts, "original", inputs), _spec(folder, facts, "converted", None), settings, ledger, {}
    )
    if pair is None:
        return ledger.mismatches
    try:
        check_signature(pair.original, pair.converted, ledger)
        if inputs:
            _compare(pair, facts, inputs, cotangents, ledger)
        return ledger.mismatches
    finally:
        pair.close()


def example(folder: Path | str) -> tuple[Array, ...] | None:
    """The inputs in a folder that `reproduce` wrote; None where it has none."""
    return _ordered(_arrays(Path(folder)), "input") or None


# ------------------------------------------------------------------------------------------------------------ replaying
def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no reproduction: {FACTS} cannot be read") from error
    if facts.get("schema") != SCHEMA:
        raise UsageError(f"{folder}: {FACTS} is not of the schema {SCHEMA}")
    return facts


def _arrays(folder: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file

    path = folder / INPUTS
    return dict(load_file(path)) if path.is_file() else {}


def _ordered(arrays: Mapping[str, Array], kind: str) -> tuple[Array, ...]:
    count = sum(name.startswith(f"{kind}.") for name in arrays)
    return tuple(arrays[name] for name in sorted(arrays, key=_number) if name.startswith(f"{kind}.")) if count else ()


def _number(name: str) -> tuple[str, int]:
    kind, _, number = name.partition(".")
    return kind, int(number)


def _spec(folder: Path, facts: Mapping[str, Any], side: str, inputs: Sequence[Array] | None) -> ModelSpec:
    target = facts[side]["target"]
    if facts[side]["copied"]:
        target = str(folder / target)
    return ModelSpec(target, example=tuple(inputs) if inputs else None, backend=facts[side]["backend"])


def _compare(
    pair: Pair, facts: Mapping[str, Any], inputs: tuple[Array, ...], cotangents: tuple[Array, ...], ledger: Ledger
) -> None:
    case = _case(facts["case"])
    moved = case.weights == "randomised"
    if moved and (pair.original64 is None or pair.converted64 is None):
        raise UsageError("randomised weights are judged in float64, which one of the models does not have")
    given = {int(place): array for place, array in zip(facts["cotangents"], cotangents, strict=True)}
    total = facts["outputs"]
    pulled = tuple(given.get(place) for place in range(total)) if given else None
    original = pair.original64 or pair.original
    own = original if moved else pair.original
    request = Request(inputs, facts["mode"], bool(facts["backward"]), case.seed, cotangents=pulled)
    weights: AbstractContextManager[Any] = nullcontext()
    if moved and pair.converted64 is not None:
        weights = randomised(original, pair.converted64, facts["seed"])
    with weights:
        _judge(pair, own, case, request, ledger, precision=not moved and facts["dtype"] != "float64")


def _judge(pair: Pair, own: Runner, case: Case, request: Request, ledger: Ledger, precision: bool) -> None:
    try:
        example = Example(own, pair.original64 or pair.original, case, request, pair.own_dtype)
        known: Mapping[tuple[str, str], str] = {}
        if pair.converted64 is not None and pair.original64 is not None:
            known = compare_in_float64(example, pair.converted64, ledger)
        if precision:
            found = compare_at_precision(example, pair.converted, ledger, known)
            for (quantity, name), outcome in found.items():  # one example is enough here: it was chosen
                if outcome not in AGREES and known.get((quantity, name), "equal") in AGREES:
                    ledger.reject(outcome, quantity, name, f"in {pair.own_dtype}", request.mode, case)
    except Exception as error:  # what a model raises is what is to be shown
        text = f"{type(error).__name__}: {first_line(error, 300)}"
        ledger.reject("raised", "signature", "call", text, request.mode, case)


def _case(data: Mapping[str, Any]) -> Case:
    sizes = tuple((str(name), int(size)) for name, size in data["sizes"])
    return Case(data["distribution"], data["seed"], sizes, data["source"], data["weights"])


# -------------------------------------------------------------------------------------------------------------- writing
def _write(folder: Path, verdict: Verdict, original: ModelSpec, converted: ModelSpec) -> None:
    shown = verdict.counterexample
    mismatch = _shown(verdict)
    mode = (shown.mode if shown else "") or mismatch.mode or "eval"
    case = shown.case if shown else mismatch.case or Case("normal", verdict.seed)
    inputs = tuple(np.asarray(a) for a in shown.arrays) if shown else ()
    cotangents = {i: np.asarray(c) for i, c in enumerate(shown.cotangents) if c is not None} if shown else {}
    from safetensors.numpy import save_file

    named = {f"input.{i}": np.ascontiguousarray(a) for i, a in enumerate(inputs)}
    named |= {f"cotangent.{i}": np.ascontiguousarray(c) for i, c in cotangents.items()}
    if named:
        save_file(named, folder / INPUTS)
    facts = {
        "schema": SCHEMA,
        "mismatch": {
            "kind": mismatch.kind,
            "quantity": mismatch.quantity,
            "name": mismatch.name,
            "text": str(mismatch),
        },
        "mode": mode,
        "seed": verdict.seed,
        "case": asdict(case),
        "backward": bool(cotangents),
        "cotangents": sorted(cotangents),
        "outputs": len(shown.cotangents) if shown else 0,
        "dtype": verdict.coverage.get("dtype", "both"),
        "original": _keep(folder, "original", original, mode, inputs),
        "converted": _keep(folder, "converted", converted, mode, inputs),
        "located": [{"module": place.module, "causes": list(place.causes)} for place in verdict.located],
        "environment": dict(verdict.environment),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n")
    (folder / "test_reproduce.py").write_text(_test(facts))
    (folder / "README.md").write_text(_readme(facts))


def _shown(verdict: Verdict) -> Mismatch:
    """The mismatch that the counterexample shows, else the first."""
    example = verdict.counterexample
    for mismatch in verdict.mismatches:
        key = (mismatch.kind, mismatch.quantity, mismatch.name)
        if example is not None and key == (example.kind, example.quantity, example.name):
            return mismatch
    if example is not None:
        return Mismatch(example.kind, example.quantity, example.name, example.mode, case=example.case)
    return verdict.mismatches[0]


def _keep(folder: Path, side: str, spec: ModelSpec, mode: str, inputs: tuple[Array, ...]) -> dict[str, Any]:
    """Write or copy a model. target: its name in the folder, or the text that names it elsewhere."""
    target = spec.target
    if isinstance(target, str):
        name, copied = _export(folder, side, spec, mode, inputs) or _copy(folder, side, target)
    else:
        name, copied = _save(folder, side, spec, mode, inputs), True
    return {"target": name, "copied": copied, "backend": spec.backend}


def _export(folder: Path, side: str, spec: ModelSpec, mode: str, inputs: tuple[Array, ...]) -> tuple[str, bool] | None:
    """A torch module that code makes, exported, so that the folder needs no code; None where that cannot be."""
    if ":" not in spec.target or Path(spec.target).exists() or spec.python is not None:
        return None
    from isomorph.parity.runners.written import export_source

    try:
        export_source(spec, inputs, mode, folder / f"{side}.pt2")
    except IsomorphError:
        return None
    return f"{side}.pt2", True


def _copy(folder: Path, side: str, text: str) -> tuple[str, bool]:
    path, colon, rest = Path(text), "", ""
    if not path.exists() and ":" in text:
        head, colon, rest = text.rpartition(":")
        path = Path(head)
        if path.suffix != ".py" or not path.is_file():
            return text, False
    name = f"{side}{path.suffix}"
    if path.is_dir():
        shutil.copytree(path, folder / name)
    else:
        shutil.copyfile(path, folder / name)
    return name + colon + rest, True


def _save(folder: Path, side: str, spec: ModelSpec, mode: str, inputs: tuple[Array, ...]) -> str:
    target = spec.target
    if hasattr(target, "named_parameters"):
        from isomorph.parity.runners.written import export_module

        export_module(target, spec.example, inputs, mode, folder / f"{side}.pt2")
        return f"{side}.pt2"
    if hasattr(target, "save"):  # a Conversion or a Keras model
        target.save(folder / f"{side}.keras")
        return f"{side}.keras"
    raise UsageError(
        f"the {side} model is a {type(target).__name__}, which cannot be written down; "
        'save it to a file, or give it as "module:callable"'
    )


def _test(facts: Mapping[str, Any]) -> str:
    what = facts["mismatch"]
    targets = [_expression(facts[side]) for side in ("original", "converted")]
    given = "inputs=example(), " if facts["outputs"] or facts["original"]["copied"] else ""
    backend = f"backend={facts['converted']['backend']!r}, " if facts["converted"]["backend"] else ""
    head = f"{what['quantity']} {what['name']}: {what['kind']} in {facts['mode']} mode"
    return f'''"""{head}. Passes once the two models are the same."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import isomorph
from isomorph.parity.explaining.reproduce import example, replay

HERE = Path(__file__).resolve().parent


def test_the_models_agree_on_the_example():
    """The very inputs and cotangents on which they differed."""
    mismatches = replay(HERE)
    assert not mismatches, "\\n".join(str(mismatch) for mismatch in mismatches)


def test_the_models_are_the_same():
    """The same check, on examples of its own drawing."""
    verdict = isomorph.check(
        {targets[0]}, {targets[1]}, {given.replace("example()", "example(HERE)")}{backend}
        modes=("{facts["mode"]}",), seed={facts["seed"]}, level="quick", explain=False,
    )
    assert verdict.status == "PASS", verdict.summary()
'''


def _expression(side: Mapping[str, Any]) -> str:
    return f'str(HERE / "{side["target"]}")' if side["copied"] else repr(side["target"])


def _readme(facts: Mapping[str, Any]) -> str:
    located = "".join(
        f"- at fault: `{place['module'] or 'the model'}` {'; '.join(place['causes'])}".rstrip() + "\n"
        for place in facts["located"]
    )
    needs = [side for side in ("original", "converted") if not facts[side]["copied"]]
    code = f"It needs the code of {' and '.join(facts[side]['target'] for side in needs)}.\n" if needs else ""
    return (
        f"# {facts['mismatch']['quantity']} {facts['mismatch']['name']}: {facts['mismatch']['kind']}\n\n"
        f"{facts['mismatch']['text']}\n\n{located}\n"
        f"Run `python -m pytest test_reproduce.py`. It fails while the two models differ. {code}"
        f"The inputs are in {INPUTS}; versions and settings in {FACTS}.\n"
    )

"""Golden text of graphs before and after a pass, and the check beside it: the pass keeps the meaning.

`ISOMORPH_UPDATE_GOLDEN=1 pytest tests/passes` writes fixtures/golden/*.txt anew; read the diff before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from isomorph.convert.capture import capture
from isomorph.convert.interpret import interpret
from isomorph.convert.ir import Graph
from isomorph.convert.merge_modes import merge_modes
from isomorph.convert.rules.registry import load_rules
from isomorph.convert.support import is_supported

FOLDER = Path(__file__).parents[2] / "fixtures" / "golden"
UPDATE = "ISOMORPH_UPDATE_GOLDEN"

load_rules()


def assert_golden(name: str, text: str) -> None:
    """`text` is what fixtures/golden/NAME.txt holds."""
    path = FOLDER / f"{name}.txt"
    text = text.rstrip("\n") + "\n"
    if os.environ.get(UPDATE) == "1":
        path.write_text(text)
    assert path.is_file(), f"{path} does not exist: {UPDATE}=1 pytest tests/passes writes it"
    assert path.read_text() == text, (
        f"{path.name} differs; where the change is meant, {UPDATE}=1 pytest tests/passes writes it anew"
    )


def taken(module: torch.nn.Module, *args: Any, both: bool = False) -> tuple[Graph, dict[str, Any]]:
    """The captured graph (of eval mode, or of both modes merged) and the tensors it owns."""
    evaluation = capture(module, args, has_rule=is_supported)
    if not both:
        return evaluation.graph, dict(evaluation.tensors)
    train = capture(module, args, training=True, has_rule=is_supported)
    return merge_modes(train.graph, evaluation.graph), {**evaluation.tensors, **train.tensors}


def computed(graph: Graph, tensors: dict[str, Any], *args: Any, training: bool = False) -> list[np.ndarray]:
    """The graph's outputs, by the rules."""
    own = {n: keras.ops.convert_to_tensor(tensors[n].detach().numpy()) for n in graph.parameters}
    return [
        np.asarray(y) for y in interpret(graph, [keras.ops.convert_to_tensor(a.numpy()) for a in args], own, training)
    ]


def assert_pass(
    name: str, step: Any, module: torch.nn.Module, *args: Any, both: bool = False, first: tuple[Any, ...] = ()
) -> Graph:
    """Before and after read like the golden text and compute what torch computes; the given graph is not changed."""
    module = module.double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    before, tensors = taken(module, *args, both=both)
    for earlier in first:
        before = earlier.run(before, tensors).verify()
    text, had = str(before), dict(tensors)
    after = step.run(before, tensors).verify()
    assert str(before) == text, "a pass makes a new graph"
    assert all(tensors[n] is t for n, t in had.items()), "a pass adds tensors and changes none"
    assert_golden(name, f"{text}\n\n=== {type(step).__module__.rpartition('.')[2]} ===>\n\n{after}")
    with torch.no_grad():
        want = module.eval()(*args)
    want = [t.numpy() for t in torch.utils._pytree.tree_leaves(want)]
    for graph in (before, after):
        for g, w in zip(computed(graph, tensors, *args), want, strict=True):
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)
    if both:
        for g, w in zip(
            computed(after, tensors, *args, training=True), computed(before, tensors, *args, training=True), strict=True
        ):
            np.testing.assert_array_equal(g, w)
    return after

"""TensorFlow's graph to ONNX nodes by tf2onnx, which says nothing to the user and whose omissions are errors here."""

from __future__ import annotations

from typing import Any

from isomorph.convert.errors import IsomorphError, UnsupportedError, one_line

from . import draws, masks  # noqa: F401  they register their handlers
from .handlers import HANDLERS
from .markers import DOMAIN
from .native import DOCS, MARKERS, PLAIN_DROPOUT, permuted
from .quiet import quiet
from .trace import Traced

__all__ = ["MAX_OPSET", "lower"]

MAX_OPSET = 18  # the newest that tf2onnx writes
OPTIMISERS = (
    "optimize_transpose",
    "fold_constants",
    "loop_optimizer",
    "reshape_optimizer",
    "global_pool_optimizer",
    "remove_identity",
    "remove_back_to_back",
)
ANY_ORDER = ("HardSigmoid", "HardSwish", "Gelu", "Mish", "Softsign", "ThresholdedRelu", "Celu")


def lower(traced: Traced, opset: int = MAX_OPSET, optimise: bool = True) -> Any:
    """A ModelProto whose graph inputs are the model's inputs and all variables that it reads. optimise: whether
    tf2onnx takes out the transposes, casts and constants that nothing needs.

    UnsupportedError: ops without a translation, all at once, each with its count and one place where it stands.
    IsomorphError: tf2onnx's optimisers break the graph.
    """
    import tensorflow as tf

    with quiet() as said, tf.device("/cpu:0"), tf.Graph().as_default() as graph:
        tf.import_graph_def(traced.graph, name="")
        made = _translated(graph, traced, opset, said)
        if not optimise:
            return made.make_model("isomorph")
        try:
            return _optimised(made, careful=False).make_model("isomorph")
        except Exception:  # tf2onnx raises nearly every type, and leaves the graph half changed
            made = _translated(graph, traced, opset, said)
        try:
            return _optimised(made, careful=True).make_model("isomorph")
        except Exception as error:
            raise IsomorphError(f"tf2onnx breaks the graph: {one_line(error)}") from error


def _translated(graph: Any, traced: Traced, opset: int, said: list[str]) -> Any:
    import onnx
    from tf2onnx.tfonnx import process_tf_graph

    try:
        made = process_tf_graph(
            graph,
            continue_on_error=True,
            opset=opset,
            custom_op_handlers={**HANDLERS, **MARKERS},
            extra_opset=[onnx.helper.make_opsetid(DOMAIN, 1)],
            input_names=[t for t in (*traced.inputs.values(), *traced.variables.values()) if t is not None],
            output_names=list(traced.outputs.values()),
        )
    except Exception as error:  # tf2onnx raises nearly every type
        raise UnsupportedError(f"tf2onnx fails on the graph: {one_line(error)}") from error
    made.delete_unused_nodes(made.outputs)  # such as the key that a random op no longer reads
    _require_translated(made, said)
    return made


def _optimised(graph: Any, careful: bool) -> Any:
    """tf2onnx's optimisers, without those of what is never there, and without the one that takes an Einsum apart into a
    dozen nodes. careful: one that fails is left out, at the price of a copy of the graph for each."""
    from tf2onnx import optimizer
    from tf2onnx.optimizer import TransposeOptimizer

    class Transposes(TransposeOptimizer):  # type: ignore[misc]
        """Also past activations, dropout and noise."""

        def _initialize_handlers(self) -> None:
            super()._initialize_handlers()
            self._handler_map |= dict.fromkeys(ANY_ORDER, self._simple_through_handler)
            self._handler_map |= dict.fromkeys((PLAIN_DROPOUT, *DOCS), self._our_own)

        def merge_duplicated_transposes(self) -> None:
            """`finish` merges what is equal, always the same of the two."""

        def _our_own(self, transpose: Any, node: Any) -> bool:
            perm = list(transpose.get_attr_value("perm"))
            if node.domain != DOMAIN or not self._simple_through_handler(transpose, node):
                return False
            permuted(node, perm)
            return True

    own = optimizer._get_optimizers()
    chosen = {name: own[name] for name in OPTIMISERS} | {"optimize_transpose": Transposes}
    return optimizer.optimize_graph(graph, catch_errors=careful, optimizers=chosen)


def _require_translated(graph: Any, said: list[str]) -> None:
    """Every node must be an ONNX op by now; tf2onnx leaves what it cannot translate in the graph."""
    import onnx.defs

    found: dict[str, list[str]] = {}

    def walk(g: Any) -> None:
        for node in g.get_nodes():
            known = node.domain not in ("", "ai.onnx") or onnx.defs.has(node.type)
            if node.is_graph_input() or node.type in ("Placeholder", "Const") or (known and node.skip_conversion):
                pass
            elif not known or node.domain.startswith("ai.onnx.converters"):
                found.setdefault(node.type, []).append(node.name)
            for body in node.get_body_graphs().values() if node.get_body_graphs() else ():
                walk(body)

    walk(graph)
    if found:
        ops = tuple(f"{op} ({len(names)}, at {names[0]})" for op, names in sorted(found.items()))
        why = next((text for text in said if text.startswith("Failed to convert")), "")
        text = f"no ONNX translation for TensorFlow ops: {', '.join(ops)}"
        raise UnsupportedError(f"{text}; {why}" if why else text, ops)

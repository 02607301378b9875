"""Two captures of one module, in train and in eval mode, become one graph that serves both.

Nodes are aligned in program order. A pair that does the same becomes one node; where an argument such as dropout's
`train` differs
it becomes a `ByMode`; where a pair reads different values a select on the mode joins them first. Nodes of one mode
alone (stochastic depth, `if self.training`) are kept, and computed in both modes: Keras picks by `training`.

    train: %d = dropout(%x, 0.1, True)   %m = bernoulli(%f)   %y = mul(%d, %m)   %z = relu(%y)
    eval:  %d = dropout(%x, 0.1, False)                                          %z = relu(%d)
    both:  %d = dropout(%x, 0.1, <True | False>)   %m = ...   %y = ...   %s = select_mode(%y, %d)   %z = relu(%s)
"""

from __future__ import annotations

import difflib
import re

from .errors import UnsupportedError
from .ir import Arg, ByMode, Graph, Mutation, Node, Origin, Parameter, Value, fresh_names, leaves, map_leaves
from .rules.registry import RULES

SELECT = "isomorph.select_mode"


def merge_modes(train: Graph, evaluation: Graph) -> Graph:
    """One graph for both modes. UnsupportedError where the two return different things."""
    return _Merge(train, evaluation).graph()


class _Merge:
    def __init__(self, train: Graph, evaluation: Graph) -> None:
        self.train, self.eval = train, evaluation
        self.nodes: list[Node] = []
        self.of_train: dict[Value, Value] = {}
        self.of_eval: dict[Value, Value] = {}
        self.selects: dict[tuple[Value, Value], Value] = {}
        self.fresh = fresh_names(v.name for v in train.values())

    def graph(self) -> Graph:
        if [v.type for v in self.train.inputs] != [v.type for v in self.eval.inputs]:
            raise UnsupportedError(
                "the module takes different inputs in train and in eval mode; convert one mode with mode='eval'"
            )
        for a, b in zip(self.train.inputs, self.eval.inputs, strict=True):
            self.of_train[a] = self.of_eval[b] = a
        parameters = self._parameters()
        self._align()
        if len(self.train.outputs) != len(self.eval.outputs):
            raise UnsupportedError(
                f"the module returns {len(self.train.outputs)} values in train mode and {len(self.eval.outputs)} in "
                "eval mode; convert one mode with mode='eval'"
            )
        outputs = [self._join_output(a, b) for a, b in zip(self.train.outputs, self.eval.outputs, strict=True)]
        bounds = {**self.eval.bounds, **self.train.bounds}
        return Graph(list(self.train.inputs), outputs, self.nodes, parameters, self._mutations(), bounds).verify()

    def _parameters(self) -> dict[str, Parameter]:
        merged: dict[str, Parameter] = {}
        for graph, table in ((self.train, self.of_train), (self.eval, self.of_eval)):
            for name, p in graph.parameters.items():
                if name not in merged:
                    value = p.value if graph is self.train else Value(self.fresh(p.value.name), p.value.type)
                    merged[name] = Parameter(name, value, p.kind, p.trainable)
                table[p.value] = merged[name].value
        return merged

    def _mutations(self) -> list[Mutation]:
        merged = []
        train = {m.buffer: self.of_train[m.value] for m in self.train.mutations}
        evaluation = {m.buffer: self.of_eval[m.value] for m in self.eval.mutations}
        for buffer in dict.fromkeys([*train, *evaluation]):
            if buffer in train and buffer in evaluation:
                merged.append(Mutation(buffer, self._join_values(train[buffer], evaluation[buffer]), "always"))
            else:
                merged.append(
                    Mutation(buffer, train.get(buffer) or evaluation[buffer], "train" if buffer in train else "eval")
                )
        return merged

    # ----------------------------------------------------------------------------------------------------- alignment
    def _align(self) -> None:
        a, b = self.train.nodes, self.eval.nodes
        matcher = difflib.SequenceMatcher(
            None, [_token(n, self.train) for n in a], [_token(n, self.eval) for n in b], autojunk=False
        )
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag == "equal":
                for x, y in zip(a[i1:i2], b[j1:j2], strict=True):
                    self._pair(x, y)
            else:
                for x in a[i1:i2]:
                    self._alone(x, self.of_train, "train only")
                for y in b[j1:j2]:
                    self._alone(y, self.of_eval, "eval only")

    def _pair(self, x: Node, y: Node) -> None:
        args = [self._join(p, q) for p, q in zip(x.args, y.args, strict=True)]
        kwargs = {k: self._join(v, y.kwargs[k]) for k, v in x.kwargs.items()}
        node = x.replace(args=tuple(args), kwargs=kwargs)
        self.nodes.append(node)
        for v, w in zip(x.outputs, y.outputs, strict=True):
            self.of_train[v] = self.of_eval[w] = v

    def _alone(self, node: Node, table: dict[Value, Value], mark: str) -> None:
        outputs = (
            tuple(Value(self.fresh(v.name), v.type) for v in node.outputs) if mark == "eval only" else node.outputs
        )
        new = node.map_args(lambda a: table[a] if isinstance(a, Value) else a)
        if node.updates_statistics:  # it is computed in both modes, and must move its statistics in its own alone
            own = ByMode(new.args[5], False) if mark == "train only" else ByMode(False, new.args[5])
            new = new.replace(args=(*new.args[:5], own, *new.args[6:]))
        self.nodes.append(new.replace(outputs=outputs, origin=node.origin.touched(mark)))
        for old, now in zip(node.outputs, outputs, strict=True):
            table[old] = now

    # ------------------------------------------------------------------------------------------------------- joining
    def _join(self, p: Arg, q: Arg) -> Arg:
        if isinstance(p, (list, tuple)):
            return [self._join(a, b) for a, b in zip(p, q, strict=True)]
        if isinstance(p, Value) and isinstance(q, Value):
            return self._join_values(self.of_train[p], self.of_eval[q])
        if (
            isinstance(p, Graph) or p is q or (type(p) is type(q) and (p == q or repr(p) == repr(q)))
        ):  # nan differs from itself
            return p
        if isinstance(p, Value) or isinstance(q, Value):
            raise UnsupportedError(
                "a result is a tensor in one mode and a constant in the other; convert one mode with mode='eval'"
            )
        return ByMode(p, q)

    def _join_output(self, p: Arg, q: Arg) -> Arg:
        """An auxiliary head returns None in one mode: the Keras model returns its tensor in both."""
        if isinstance(p, Value) and q is None:
            return self.of_train[p]
        if isinstance(q, Value) and p is None:
            return self.of_eval[q]
        joined = self._join(p, q)
        if isinstance(joined, ByMode):
            raise UnsupportedError(
                f"the module returns {p!r} in train mode and {q!r} in eval mode; convert one mode with mode='eval'"
            )
        return joined

    def _join_values(self, a: Value, b: Value) -> Value:
        if a is b:
            return a
        if a.type != b.type:
            raise UnsupportedError(
                f"a value is {a.type} in train mode and {b.type} in eval mode; convert one mode with mode='eval'"
            )
        if (a, b) not in self.selects:
            joined = Value(self.fresh("select_mode"), a.type)
            self.nodes.append(
                Node(
                    SELECT,
                    (a, b),
                    {},
                    (joined,),
                    Origin(passes=("merge_modes",), scope=self.nodes[-1].origin.scope if self.nodes else ()),
                )
            )
            self.selects[a, b] = joined
        return self.selects[a, b]


def _token(node: Node, graph: Graph) -> str:
    """What must agree for two nodes to be the same step: op, types, parameters, and arguments that do not depend on
    the mode."""
    owned = {p.value: name for name, p in graph.parameters.items()}
    modal = _modal_positions(node.op)

    def show(a: Arg) -> str:
        if isinstance(a, Value):
            return f"@{owned[a]}" if a in owned else str(a.type)
        return "" if isinstance(a, Graph) else repr(a)

    arguments = [str(map_leaves(show, a)) if i not in modal else "?" for i, a in enumerate(node.args)]
    arguments += [f"{k}={map_leaves(show, v)}" for k, v in node.kwargs.items()]
    bodies = [_body(g) for g in leaves(list(node.args)) if isinstance(g, Graph)]
    return f"{node.op} {arguments} {bodies} {[str(v.type) for v in node.outputs]} {node.origin.module_path}"


def _body(graph: Graph) -> str:
    """A branch as text, its values numbered: their names differ from capture to capture."""
    numbers: dict[str, str] = {}
    return re.sub(r"%\w+", lambda m: numbers.setdefault(m[0], f"%{len(numbers)}"), str(graph))


def _modal_positions(op: str) -> frozenset[int]:
    """Positions of the arguments that the op's rule accepts as ByMode."""
    rule = RULES.get(op)
    if rule is None or not rule.modal:
        return frozenset()
    import inspect

    names = list(inspect.signature(rule.lower).parameters)[1:]
    return frozenset(names.index(m) for m in rule.modal)

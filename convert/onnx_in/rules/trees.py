"""Ensembles of decision trees (ai.onnx.ml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule
from .ml import DOMAIN, classified, transformed

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
LEAF, MEMBER = 7, 6
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass
class Forest:
    """Trees as a table of nodes. mode: index into `MODES` or `LEAF`. votes: (node, target, weight) of leaves."""

    roots: list[int]
    feature: list[int]
    split: list[float]
    mode: list[int]
    yes: list[int]
    no: list[int]
    missing: list[int]  # whether NaN goes the way of yes
    votes: list[tuple[int, int, float]]
    members: dict[int, list[float]] = field(default_factory=dict)  # of the nodes of mode MEMBER

    def depth(self) -> int:
        """The largest number of decisions on a way. Raises ValueError on a decision that is missing, met twice or not
        at all."""
        deepest, seen, stack = 0, set(), [(root, 0) for root in self.roots]
        while stack:
            node, depth = stack.pop()
            if not 0 <= node < len(self.mode) or node in seen:
                raise ValueError("the nodes do not form trees")
            deepest = max(deepest, depth)
            if self.mode[node] != LEAF:
                seen.add(node)
                stack += [(self.yes[node], depth + 1), (self.no[node], depth + 1)]
        if len(seen) != sum(mode != LEAF for mode in self.mode):
            raise ValueError("the nodes do not form trees")
        return deepest


class Trees(torch.nn.Module):
    """The sums (means, minima, maxima) over all trees of the weights at the leaf that a row reaches: (N, targets)."""

    roots: torch.Tensor
    feature: torch.Tensor
    split: torch.Tensor
    mode: torch.Tensor
    yes: torch.Tensor
    no: torch.Tensor
    missing: torch.Tensor
    weight: torch.Tensor
    voted: torch.Tensor
    members: torch.Tensor

    def __init__(self, forest: Forest, targets: int, aggregate: str, base: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.depth, self.aggregate, self.targets = forest.depth(), aggregate, targets
        self.modes = sorted(set(forest.mode) - {LEAF})
        for name in ("roots", "feature", "mode", "yes", "no"):
            self._table(name, torch.tensor(getattr(forest, name), dtype=torch.int64))
        self._table("split", torch.tensor(forest.split, dtype=dtype))
        self._table("missing", torch.tensor(forest.missing, dtype=torch.bool))
        weight = torch.zeros(len(forest.mode), targets, dtype=dtype)
        voted = torch.zeros(len(forest.mode), targets, dtype=torch.bool)
        nodes, ids, values = zip(*forest.votes, strict=True) if forest.votes else ((), (), ())
        at = (torch.tensor(nodes, dtype=torch.int64), torch.tensor(ids, dtype=torch.int64))
        weight.index_put_(at, torch.tensor(values, dtype=dtype), accumulate=True)
        voted.index_put_(at, torch.tensor(True))
        self._table("weight", weight)
        self._table("voted", voted)
        longest = max(map(len, forest.members.values()), default=0)
        rows = [forest.members.get(i, []) for i in range(len(forest.mode) if longest else 0)]
        self._table("members", torch.tensor([r + [torch.nan] * (longest - len(r)) for r in rows], dtype=dtype))
        self._table("base", torch.tensor(base if base else [0.0] * targets, dtype=dtype))

    def _table(self, name: str, value: torch.Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = self.roots.expand(x.size(0), -1)
        for _ in range(self.depth):
            value = x.gather(1, self.feature[at])
            chosen = self._decide(value.to(self.split.dtype), at)
            at = torch.where(self.mode[at] == LEAF, at, torch.where(chosen, self.yes[at], self.no[at]))
        return self._combine(at) + self.get_buffer("base")

    def _decide(self, value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Whether each row takes the way of yes in each tree."""
        split, mode = self.split[at], self.mode[at]
        chosen = torch.zeros_like(value, dtype=torch.bool)
        for kind in self.modes:
            holds = [
                lambda: value <= split,
                lambda: value < split,
                lambda: value >= split,
                lambda: value > split,
                lambda: value == split,
                lambda: value != split,
                lambda: (value.unsqueeze(-1) == self.members[at]).any(-1),
            ][kind]()
            chosen = torch.where(mode == kind, holds, chosen)
        return torch.where(torch.isnan(value), (chosen & ~torch.isnan(value)) | self.missing[at], chosen)

    def _combine(self, at: torch.Tensor) -> torch.Tensor:
        weight = self.weight[at]  # (N, trees, targets)
        if self.aggregate in ("SUM", "AVERAGE"):
            total = weight.sum(1)
            return total / self.roots.numel() if self.aggregate == "AVERAGE" else total
        voted = self.voted[at]
        low = self.aggregate == "MAX"
        extreme = torch.amax if low else torch.amin
        found = extreme(torch.where(voted, weight, -torch.inf if low else torch.inf), 1)
        return torch.where(voted.any(1), found, 0.0)

    def extra_repr(self) -> str:
        return f"{self.roots.numel()} trees, {self.mode.numel()} nodes, {self.targets} targets, {self.aggregate}"


def run(site: Any, module: torch.nn.Module, x: Any) -> Any:
    return site.module("trees", module, (x,)) if site.recording else module(x)


# ------------------------------------------------------------------------------------------------------ since version 5
@rule("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(
    x: Any,
    *,
    leaf_targetids: tuple[int, ...],
    leaf_weights: torch.Tensor,
    nodes_falseleafs: tuple[int, ...],
    nodes_falsenodeids: tuple[int, ...],
    nodes_featureids: tuple[int, ...],
    nodes_modes: torch.Tensor,
    nodes_splits: torch.Tensor,
    nodes_trueleafs: tuple[int, ...],
    nodes_truenodeids: tuple[int, ...],
    tree_roots: tuple[int, ...],
    aggregate_function: int = 1,
    membership_values: torch.Tensor | None = None,
    n_targets: int = 1,
    nodes_hitrates: Any = None,
    nodes_missing_value_tracks_true: tuple[int, ...] = (),
    post_transform: int = 0,
    site: Any,
) -> Any:
    inner, modes = len(nodes_featureids), nodes_modes.tolist()
    leaves = len(leaf_targetids)

    def ways(nodes: tuple[int, ...], are_leaves: tuple[int, ...]) -> list[int]:
        return [n + inner if is_leaf else n for n, is_leaf in zip(nodes, are_leaves, strict=True)] + [0] * leaves

    weights = leaf_weights.tolist()
    forest = Forest(
        roots=list(tree_roots),
        feature=[*nodes_featureids, *[0] * leaves],
        split=[*nodes_splits.tolist(), *[0.0] * leaves],
        mode=[*modes, *[LEAF] * leaves],
        yes=ways(nodes_truenodeids, nodes_trueleafs),
        no=ways(nodes_falsenodeids, nodes_falseleafs),
        missing=[*(nodes_missing_value_tracks_true or [0] * inner), *[0] * leaves],
        votes=[(inner + i, t, weights[i]) for i, t in enumerate(leaf_targetids)],
        members=member_sets(modes, membership_values),
    )
    module = Trees(forest, n_targets, AGGREGATES[aggregate_function], None, dtype_of(x) or leaf_weights.dtype)
    return transformed(run(site, module, x), TRANSFORMS[post_transform])


def member_sets(modes: list[int], values: torch.Tensor | None) -> dict[int, list[float]]:
    """The sets of the nodes of mode MEMBER, which stand one after the other, each closed by NaN."""
    sets: list[list[float]] = [[]]
    for value in [] if values is None else values.tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    return dict(zip((i for i, m in enumerate(modes) if m == MEMBER), sets, strict=False))


# -------------------------------------------------------------------------------------------------------------- before
def read_forest(nodes: dict[str, Any], votes: tuple[Any, ...]) -> Forest:
    """From the attributes of the older ops. votes: tree, node, target, weight, in parallel."""
    trees, ids = list(nodes["treeids"]), list(nodes["nodeids"])
    place = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    modes = [LEAF if m == "LEAF" else MODES.index(m) for m in nodes["modes"]]

    def ways(name: str) -> list[int]:
        there = zip(trees, nodes[name], modes, strict=True)
        return [0 if m == LEAF else place.get((tree, node), -1) for tree, node, m in there]

    yes, no = ways("truenodeids"), ways("falsenodeids")
    led_to = {n for i, m in enumerate(modes) if m != LEAF for n in (yes[i], no[i])}
    roots = [i for i in range(len(trees)) if i not in led_to]
    if len(roots) != len(set(trees)):
        raise ValueError("the nodes do not form trees")
    missing = list(nodes["missing_value_tracks_true"]) or [0] * len(modes)
    return Forest(
        roots,
        list(nodes["featureids"]),
        list(nodes["values"]),
        modes,
        yes,
        no,
        missing,
        [(place[tree, node], target, weight) for tree, node, target, weight in zip(*votes, strict=True)],
    )


def tensor_or(tensor: Any, values: Any) -> list[float]:
    """The attribute `.._as_tensor`, if it is given, else the one of floats."""
    return list(values or ()) if tensor is None else tensor.reshape(-1).tolist()


@rule("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(
    x: Any,
    *,
    aggregate_function: str = "SUM",
    base_values: Any = None,
    base_values_as_tensor: Any = None,
    n_targets: int = 1,
    nodes_falsenodeids: Any = (),
    nodes_featureids: Any = (),
    nodes_hitrates: Any = None,
    nodes_hitrates_as_tensor: Any = None,
    nodes_missing_value_tracks_true: Any = (),
    nodes_modes: Any = (),
    nodes_nodeids: Any = (),
    nodes_treeids: Any = (),
    nodes_truenodeids: Any = (),
    nodes_values: Any = (),
    nodes_values_as_tensor: Any = None,
    post_transform: str = "NONE",
    target_ids: Any = (),
    target_nodeids: Any = (),
    target_treeids: Any = (),
    target_weights: Any = (),
    target_weights_as_tensor: Any = None,
    site: Any,
) -> Any:
    given = dict(locals())
    nodes = {name.removeprefix("nodes_"): given[name] for name in given if name.startswith("nodes_")}
    nodes["values"] = tensor_or(nodes_values_as_tensor, nodes_values)
    weights = tensor_or(target_weights_as_tensor, target_weights)
    forest = read_forest(nodes, (target_treeids, target_nodeids, target_ids, weights))
    base = tensor_or(base_values_as_tensor, base_values)
    module = Trees(forest, n_targets, aggregate_function, base, precision(x))
    return transformed(run(site, module, x), post_transform).to(torch.float32)


def precision(x: Any) -> torch.dtype:
    """In which the features are compared."""
    return torch.float64 if dtype_of(x) == torch.float64 else torch.float32


@rule("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(
    x: Any,
    *,
    base_values: Any = None,
    base_values_as_tensor: Any = None,
    class_ids: Any = (),
    class_nodeids: Any = (),
    class_treeids: Any = (),
    class_weights: Any = (),
    class_weights_as_tensor: Any = None,
    classlabels_int64s: Any = (),
    classlabels_strings: Any = (),
    nodes_falsenodeids: Any = (),
    nodes_featureids: Any = (),
    nodes_hitrates: Any = None,
    nodes_hitrates_as_tensor: Any = None,
    nodes_missing_value_tracks_true: Any = (),
    nodes_modes: Any = (),
    nodes_nodeids: Any = (),
    nodes_treeids: Any = (),
    nodes_truenodeids: Any = (),
    nodes_values: Any = (),
    nodes_values_as_tensor: Any = None,
    post_transform: str = "NONE",
    site: Any,
) -> Any:
    """The labels and the scores. Two labels and votes for one alone: the second is chosen where the score is positive,
    or above one half if no vote is negative; votes for the first stand for the score of the second, and the first's is
    made from it."""
    given = dict(locals())
    nodes = {name.removeprefix("nodes_"): given[name] for name in given if name.startswith("nodes_")}
    nodes["values"] = tensor_or(nodes_values_as_tensor, nodes_values)
    weights = tensor_or(class_weights_as_tensor, class_weights)
    labels = tuple(classlabels_strings or classlabels_int64s)
    base = tensor_or(base_values_as_tensor, base_values)
    binary = len(labels) == 2 and len(set(class_ids)) == 1
    targets = 1 if binary and class_ids[0] == 0 else len(labels)
    forest = read_forest(nodes, (class_treeids, class_nodeids, class_ids, weights))
    scores = run(site, Trees(forest, targets, "SUM", base[-targets:], precision(x)), x)
    best = torch.argmax(scores, 1)
    if binary:
        positive = all(w >= 0 for w in weights)
        best = (scores[:, -1] > (0.5 if positive else 0.0)).to(torch.int64)
        if targets == 1:
            first = 1 - scores if positive and post_transform != "LOGISTIC" else -scores
            scores = torch.cat([first, scores], 1)
            post_transform = post_transform if post_transform == "LOGISTIC" else "NONE"
    return classified(best, labels), transformed(scores, post_transform).to(torch.float32)

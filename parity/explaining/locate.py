"""Where two models part: the first module whose inputs agree and whose output does not, forward and backward.

The original's trace has a data flow (`flow`), a graph whose nodes are arrays. Each is looked up by value among
the arrays of the converted model's trace (`standing`): it agrees; or is wrong, where something else stands in
its place; or is absent, where the converted model computes it otherwise. From an output that differs the walk goes back
along the flow as long as nodes do not agree; the wrong node with no other wrong node behind it is where the models
part. Names are not needed; where the converted model keeps the original's module paths they tell wrong from absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from isomorph.parity.explaining.causes import Fault, likely_causes, made_again, parameter_causes
from isomorph.parity.explaining.fault import alike
from isomorph.parity.explaining.flow import Flow
from isomorph.parity.explaining.inside import Inside, look_inside
from isomorph.parity.explaining.standing import Standing
from isomorph.parity.pair import Pair
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Located

__all__ = ["locate"]

MANY = 16  # different values from which an example is generic
TRIED = 100  # arrays of the converted model tried as another input of a function
SUSPECTS = 6  # modules between the arrays that agree and the one that does not, whose causes are looked for


def locate(pair: Pair, example: Example) -> tuple[Located, ...]:
    """Where the two models first differ on this example: at most one place forward and one backward.

    In float64 if both models have it and differ in it, else in the model's own dtype. Empty where they agree on the
    example. Gradients are looked at only where outputs agree: after a difference forward they differ of necessity.
    A shrunk example is nearly constant, and so are the arrays inside: where a generic one of the same mode shows a
    difference too, that is looked into. Raises what the models raise.
    """
    for asked in (*_generic(pair, example), example):
        for exact in (True, False):
            if exact and (pair.original64 is None or pair.converted64 is None):
                continue
            with np.errstate(all="ignore"):
                inside = look_inside(pair, asked, exact)
                if not inside.flow.calls:
                    return ()  # a function: nothing to look into
                found = _forward(inside) or [*_buffers(inside), *_backward(inside)]
            if found:
                return tuple(found)
    return ()


def _generic(pair: Pair, example: Example) -> Iterator[Example]:
    """Examples of normal values, in the contract's own sizes and in the example's, for one that has few different
    values; none where it has many, or the original refuses them."""
    drawn = [array for array in example.request.inputs if array.dtype.kind in "fiu"]
    if pair.contract is None or all(np.unique(array).size > min(array.size // 2, MANY) for array in drawn):
        return
    for sizes in dict.fromkeys((pair.contract.sizes, example.case.sizes)):
        case = replace(example.case, distribution="normal", sizes=sizes)
        try:
            made = pair.example(example.request.mode, case, example.request.backward)
        except WorkerError:
            raise
        except Exception:  # one that cannot be drawn
            continue
        if made is not None:
            yield made


# -------------------------------------------------------------------------------------------------------------- forward
def _forward(inside: Inside) -> list[Located]:
    bad = inside.bad_outputs()
    if not bad:
        return []
    if not inside.there:
        return [_unseen(inside, bad)]
    flow, standing = inside.flow, inside.values(bad)
    origins = standing.origins(bad, flow.sources)
    if not origins:
        return [Located("forward", "", flow.calls[flow.root].kind, note=inside.note)]
    return [_first(inside, standing, origins)]


def _unseen(inside: Inside, bad: Mapping[int, Array]) -> Located:
    """Of a model without an inside: the first module of which a known mistake makes the original give the same."""
    flow = inside.flow
    for index, call in enumerate(flow.calls):
        if call.function or any(flow.children(index)) or inside.live(index) is None or not call.outputs:
            continue
        causes = likely_causes(Fault(
            call.kind, call.path, inside.mode, call.inputs, call.outputs, (None,) * len(call.outputs),
            lambda array: False, partial(inside.gives, index), inside.live(index), inside.unit,
        ))  # fmt: skip
        if causes:
            return Located("forward", call.path, call.kind, causes=causes, note=inside.note)
    number = min(bad)
    fault = Fault("", "", inside.mode, (), (flow.value(number),), (bad[number],), lambda array: False, unit=inside.unit)
    causes = inside.swapped_outputs(number) or likely_causes(fault)
    return Located("forward", "", flow.calls[flow.root].kind, causes=causes, note=inside.note)


def _first(inside: Inside, standing: Standing, origins: Sequence[tuple[int, list[int]]]) -> Located:
    """The first suspect with a cause, else the first: what the converted model does not show is not shown because it is
    not right, as a rule."""
    best: Located | None = None
    for number, absent in origins:
        number, absent = _cleared(inside, standing, number, absent)
        hidden = [n for n in absent if _judged(inside.flow, n)]
        for suspect in [*hidden, number][-SUSPECTS:]:
            located = _at(inside, standing, suspect, number, hidden)
            if located.causes:
                return located
            best = best or located
    assert best is not None
    return best


def _confirmed(inside: Inside, standing: Standing, number: int, array: Array) -> bool:
    """Whether the converted model has what the next call makes of a value, and of nothing that is right."""
    flow = inside.flow
    for user in flow.users.get(number, ()):
        for after in (user, *flow.users.get(user, ())) if not flow.nodes[user].output else (user,):
            node = flow.nodes[after]
            if not node.output or (not flow.calls[node.call].function and any(flow.children(node.call))):
                continue
            call = flow.calls[node.call]
            place = next((p for s, p in flow.given(node.call) if s in (number, user)), None)
            if place is None or call.inputs[place].shape != array.shape:
                continue
            made = made_again(inside.live(node.call), [*call.inputs[:place], array, *call.inputs[place + 1 :]])
            if made is not None and node.position < len(made) and inside.shows(standing, made[node.position]):
                return True
    return False


def _cleared(inside: Inside, standing: Standing, number: int, absent: list[int]) -> tuple[int, list[int]]:
    """A wrong array that its function makes from another array of the converted model's is rightly computed. That other
    array is what stands in the place of one of the function's inputs, although the right one is there too."""
    flow = inside.flow
    for _ in flow.calls:
        call = flow.calls[flow.nodes[number].call]
        if (
            absent
            or not flow.nodes[number].output
            or (not call.function and any(flow.children(flow.nodes[number].call)))
        ):
            break
        for source, place in flow.given(flow.nodes[number].call):
            if source is None or source in flow.inputs(flow.root):  # given to both models
                continue
            if any(user != number and standing.agrees(user) for user in flow.users[source]):
                continue  # read rightly elsewhere: then it is the reading here that is wrong
            other = _instead(inside, standing, number, place)
            if other is not None:
                standing.displace(source, other)
                number = source
                break
        else:
            break
    return number, absent


def _instead(inside: Inside, standing: Standing, number: int, place: int) -> Array | None:
    """An array of the converted model from which a call makes something else that the converted model has, when it is
    put in the place of one of the call's inputs; None where there is none, or neither is a wrong one."""
    node = inside.flow.nodes[number]
    call, live = inside.flow.calls[node.call], inside.live(node.call)
    right = call.inputs[place]
    if right.dtype.kind != "f" or right.size < 2 or _moves_only(right, call.outputs[node.position]):
        return None
    got = standing.wrong(number)
    for candidate in standing.others(right, TRIED):
        made = made_again(live, [*call.inputs[:place], candidate, *call.inputs[place + 1 :]])
        if made is None:
            return None
        value = made[node.position] if node.position < len(made) else None
        if value is None or _says_nothing(candidate, value) or standing.is_expected(value):
            continue
        if (got is not None and alike(got, value, inside.unit)) or (value.size > 2 and inside.shows(standing, value)):
            return candidate
    return None


def _says_nothing(given: Array, made: Array) -> bool:
    """Whether a call made what many calls would make of it: a constant, or what it was given."""
    return not np.ptp(made) > 0 or not np.ptp(given) > 0 or _moves_only(given, made)


def _moves_only(before: Array, after: Array) -> bool:
    """Whether a call hands its input on, perhaps in another order: then nothing tells its fault from its input's."""
    return before.size == after.size and alike(np.sort(np.ravel(before)), np.sort(np.ravel(after)), 1e-12)


def _judged(flow: Flow, number: int) -> bool:
    """Whether an array that the converted model does not show speaks against what made it: a float, or what a module
    returns. Integers between functions (positions, masks) are often made in another way."""
    node = flow.nodes[number]
    return node.output and (flow.value(number).dtype.kind in "fc" or not flow.calls[node.call].function)


def _at(inside: Inside, standing: Standing, suspect: int, number: int, absent: Sequence[int]) -> Located:
    """The module that made `suspect`, on the way to the wrong array `number`."""
    flow = inside.flow
    index = flow.nodes[suspect].call
    call = flow.calls[index]
    causes: tuple[str, ...] = ()
    if flow.nodes[suspect].output:
        got = tuple(standing.wrong(n) if n == suspect else None for n in flow.outputs(index))
        causes = likely_causes(Fault(
            call.kind, call.path, inside.mode, call.inputs, call.outputs, got, partial(inside.shows, standing),
            partial(_confirmed, inside, standing, suspect), inside.live(index), inside.unit,
        )) or inside.swapped_outputs(suspect)  # fmt: skip
    module, note = _owner(flow, suspect)
    notes = [note, inside.note]
    others = dict.fromkeys(flow.calls[_owner(flow, n)[0]].path or "the model" for n in [*absent, number])
    if len(others) > 1 and not causes:
        notes.append(f"the converted model does not show what lies between {' and '.join(list(others)[:4])}")
    return Located(
        "forward", flow.calls[module].path, flow.calls[module].kind, inside.counterpart(module, number, standing),
        inside.errors(standing), causes, "; ".join(n for n in notes if n),
    )  # fmt: skip


def _owner(flow: Flow, number: int) -> tuple[int, str]:
    """The module call in whose code an array is made, and where in it, if that is code between its submodules."""
    node = flow.nodes[number]
    call = flow.calls[node.call]
    if node.output and not call.function:
        inner = list(flow.children(node.call))
        modules = [flow.calls[i].path for i in inner if not flow.calls[i].function]
        return node.call, f"in its own code, after {modules[-1]}" if modules else ""
    parent = call.parent if call.parent >= 0 else flow.root
    siblings = [i for i in flow.children(parent) if not flow.calls[i].function]
    before = [flow.calls[i].path for i in siblings if i < node.call]
    after = [flow.calls[i].path for i in siblings if i >= node.call]
    what = call.kind if call.function else f"the input of {call.path}"
    where = " ".join(part for part in (
        f"after {before[-1]}" if before else "", f"before {after[0]}" if after and call.function else "",
    ) if part)  # fmt: skip
    return parent, f"in its own code: {what}" + (f", {where}" if where else "")


# ------------------------------------------------------------------------------------------------------------- backward
def _buffers(inside: Inside) -> list[Located]:
    found = []
    for name, (before, expected, got) in list(inside.bad_buffers().items())[:1]:
        module = name.rpartition(".")[0]
        index = inside.call_of(module)
        if index is not None:  # what it was given may be wrong already
            standing = inside.values({})
            origins = standing.origins(inside.flow.inputs(index), inside.flow.sources)
            if origins:
                return [_first(inside, standing, origins)]
        kind = inside.flow.calls[index].kind if index is not None else ""
        causes = parameter_causes(
            "buffer", name, expected, got, before, inside.live(index) if index is not None else None,
            inside.flow.calls[index].inputs if index is not None else (),
        )  # fmt: skip
        found.append(Located("forward", module, kind, causes=causes, note=f"buffer {name} after the run"))
    return found


def _backward(inside: Inside) -> list[Located]:
    inputs, parameters = inside.bad_gradients()
    if not inputs and not parameters:
        return []
    flow = inside.flow
    standing = inside.gradients()
    start = list(inputs)
    owners = {}
    for name in parameters:
        index = inside.call_of(name.rpartition(".")[0])
        if index is not None:
            owners[name] = index
            start += flow.outputs(index)
    behind = {n: [u for u in users if u in standing.arrays] for n, users in flow.users.items()}
    own = _of_parameters(inside, standing, parameters, owners)
    origins = standing.origins(start, behind)
    if not origins or (own is not None and owners and _no_later(flow, origins, own[0])):
        if own is None:
            return []
        return [own[1]]
    number, _ = origins[-1]  # from the outputs towards the inputs: the last that was computed forward
    module, note = _reader(flow, number)
    expected = standing.arrays[number]
    got = standing.wrong(number)
    missing = got is None or not np.any(got)
    causes = (f"no gradient reaches {_what(flow, number)} (zero or missing path)",) if missing else likely_causes(
        Fault("gradient", "", inside.mode, (), (expected,), (got,), partial(inside.shows, standing), unit=inside.unit)
    )  # fmt: skip
    if own is not None and not causes:
        causes = own[1].causes
    return [Located(
        "backward", flow.calls[module].path, flow.calls[module].kind, inside.counterpart(module, number, standing),
        inside.errors(standing), causes, "; ".join(n for n in (note, inside.note) if n),
    )]  # fmt: skip


def _reader(flow: Flow, number: int) -> tuple[int, str]:
    """The module call in whose code a gradient goes wrong: that which reads the array."""
    node = flow.nodes[number]
    if not node.output:
        return node.call, ""
    for user in flow.users.get(number, ()):
        if flow.nodes[user].output and flow.calls[flow.nodes[user].call].function:
            return _owner(flow, user)
    parent = flow.calls[node.call].parent
    return (parent if parent >= 0 else node.call), f"in its own code, where {_what(flow, number)} is read"


def _no_later(flow: Flow, origins: Sequence[tuple[int, Sequence[int]]], index: int) -> bool:
    """Whether no array's gradient is wrong after a call, so that the call's own parameters are at fault."""
    outputs = flow.outputs(index)
    return bool(outputs) and max(number for number, _ in origins) < min(outputs)


def _of_parameters(
    inside: Inside, standing: Standing, parameters: Mapping[str, tuple[Array, Array]], owners: Mapping[str, int]
) -> tuple[int, Located] | None:
    """The module nearest to the outputs whose own parameters have a wrong gradient although its outputs' agree."""
    found = None
    for name, index in sorted(owners.items(), key=lambda item: -item[1]):
        if not all(standing.agrees(n) for n in inside.flow.outputs(index) if n in standing.arrays):
            continue
        expected, got = parameters[name]
        call = inside.flow.calls[index]
        causes = parameter_causes("parameter gradient", name, expected, got, None, inside.live(index), call.inputs)
        located = Located("backward", call.path, call.kind, causes=causes, note=f"the gradient of parameter {name}")
        found = found or (index, located)
    return found


def _what(flow: Flow, number: int) -> str:
    node = flow.nodes[number]
    call = flow.calls[node.call]
    name = f"{call.kind} in {call.path or 'the model'}" if call.function else call.path or "the model"
    return f"the {'output' if node.output else 'input'} of {name}"

"""Random damage to ONNX models: to their bytes, and to any field of their protobuf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Draw", "damaged_bytes", "damaged_fields"]

Draw = Callable[[int], int]  # a number below the given one

INTEGERS = (0, 1, -1, 2, 3, 7, 21, 100, 2**15, 2**31 - 1, -(2**31), 2**40, 2**50, 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", "x", "y", "a", "h", "../secret.bin", "/etc/passwd", "Relu", "Loop", "If", "ai.onnx.ml", "isomorph", "\n")


def damaged_bytes(data: bytes, draw: Draw) -> bytes:
    """Some bytes changed, cut out, repeated or put in."""
    for _ in range(1 + draw(4)):
        at, size = draw(len(data) + 1), 1 + draw(9)
        kind = draw(6)
        if kind < 2 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(8))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[at + size :]
        elif kind == 3:
            data = data[: at + size] + data[at:]
        elif kind == 4:
            data = data[:at] + bytes(draw(256) for _ in range(size)) + data[at:]
        else:
            data = data[:at] if draw(3) == 0 else data
    return data


def damaged_fields(model: Any, draw: Draw) -> Any:
    """The model with some of its fields, at any depth, set to something else, cleared, repeated or swapped."""
    for _ in range(1 + draw(3)):
        messages = list(_messages(model))
        _damage(messages[draw(len(messages))], model, draw)
    return model


def _messages(message: Any) -> Iterator[Any]:
    stack = [message]
    while stack:
        top = stack.pop()
        yield top
        for field, value in top.ListFields():
            if field.message_type is not None:
                stack += list(value) if field.is_repeated else [value]


def _damage(message: Any, model: Any, draw: Draw) -> None:
    fields = [field for field, _ in message.ListFields()]
    if draw(4) == 0:  # one that is not set
        fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = fields[draw(len(fields))]
    if draw(8) == 0:
        message.ClearField(field.name)
    elif field.is_repeated:
        _damage_list(getattr(message, field.name), field, model, draw)
    elif field.message_type is not None:
        donors = [m for m in _messages(model) if m.DESCRIPTOR is field.message_type]
        if donors:
            donor = type(donors[0]).FromString(donors[draw(len(donors))].SerializePartialToString())
            getattr(message, field.name).CopyFrom(donor)
    else:
        setattr(message, field.name, _other(field, getattr(message, field.name), model, draw))


def _damage_list(values: Any, field: Any, model: Any, draw: Draw) -> None:
    kind, size = draw(5), len(values)
    if size and kind == 0:
        del values[draw(size)]
    elif kind == 1 and field.message_type is not None:
        donors = [m for m in _messages(model) if m.DESCRIPTOR is field.message_type]
        if donors:
            values.append(type(donors[0]).FromString(donors[draw(len(donors))].SerializePartialToString()))
    elif size > 1 and kind == 2:
        i, j = draw(size), draw(size)
        whole = [type(v).FromString(v.SerializePartialToString()) if field.message_type else v for v in values]
        whole[i], whole[j] = whole[j], whole[i]
        del values[:]
        values.extend(whole)
    elif field.message_type is None:
        new = _other(field, values[0] if size else None, model, draw)
        if size and draw(2):
            values[draw(size)] = new
        else:
            values.append(new)


def _other(field: Any, old: Any, model: Any, draw: Draw) -> Any:
    if field.enum_type is not None:
        numbers = [v.number for v in field.enum_type.values]
        return numbers[draw(len(numbers))]
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return (old or b"")[: draw(1 + len(old or b""))] + b"\x01" * draw(9)
        names = [n for node in model.graph.node for n in (*node.input, *node.output, node.op_type)]
        choices = [*TEXTS, *names]
        return choices[draw(len(choices))]
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return (0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30)[draw(6)]
    new = INTEGERS[draw(len(INTEGERS))]
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32):
        new = max(min(new, 2**31 - 1), -(2**31))
    return abs(new) if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else new

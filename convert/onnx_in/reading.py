"""An ONNX model read without trusting it: a file, bytes or a model object becomes an onnx_ir.Model to be lowered."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import InlinePass

from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError, one_line

from . import checks, proto
from .apart import inferred_apart
from .inference import inferred
from .types import UNKNOWN, require_types, type_name

__all__ = ["NOTES", "read", "schema_version"]

NOTES = "isomorph.notes"  # key of Model.meta: what is odd in a file that can still be used, a list of lines
SMALL = 1024  # elements of the largest initializer that shape inference is shown the values of


def read(source: str | os.PathLike[str] | bytes | Any, apart: bool | None = None) -> ir.Model:
    """The model of an .onnx file (its path), of its bytes, or of an onnx.ModelProto or onnx_ir.Model (left as it is).

    The result is checked, its types and shapes are inferred as far as they can be, functions are inlined except those
    of domain "isomorph", nodes are in topological order, and what is an initializer is no input. Data that lies beside
    the file stays there until it is asked for.

    apart: whether onnx's checker, which can crash on a damaged model, runs in a process of its own; None says yes for
    files and bytes, whose origin nobody knows.

    Raises UsageError in one line (no such file, no ONNX model, damaged, contradictory, data outside the folder),
    UnsupportedError (ops, opset or IR version that are not known here).
    """
    model, folder, where = _opened(source)
    if apart is None:
        apart = not isinstance(source, (onnx.ModelProto, ir.Model))
    try:
        return _prepared(model, folder, where, apart)
    except (IsomorphError, ImportError):
        raise
    except Exception as caught:  # what none of the checks saw: protobuf, onnx and onnx_ir raise many types
        error: BaseException = caught
        while error.__cause__ is not None:
            error = error.__cause__  # onnx_ir wraps the reason once for each level of the graph
        raise UsageError(f"{where} cannot be read as an ONNX model: {one_line(error)}") from error


def _opened(source: Any) -> tuple[Any, Path | None, str]:
    """The protobuf, the folder that its external data may lie in, and how errors call the model."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        return proto.open_model(path), path.parent, str(path)
    folder, where = None, "the ONNX model"
    if isinstance(source, (bytes, bytearray, memoryview)):
        model = proto.parse(bytes(source), where)
    elif isinstance(source, onnx.ModelProto):
        model = source
    elif isinstance(source, ir.Model):
        model, folder = _from_ir(source)
    else:
        kind = type(source).__name__
        raise UsageError(f"an ONNX model is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, not {kind}")
    if not model.graph.node and not model.graph.output:
        raise UsageError(f"{where} has no graph")
    proto.require_tensors(model, folder, where)
    return model, folder, where


def _from_ir(source: ir.Model) -> tuple[Any, Path | None]:
    tensors = (value.const_value for graph in source.graphs() for value in graph.initializers.values())
    folders = {Path(os.fsdecode(t.base_dir)) for t in tensors if isinstance(t, ir.ExternalTensor)}
    if len(folders) > 1:
        raise UsageError("the ONNX model keeps its data in several folders: save it, and give its path")
    try:
        return ir.to_proto(source), next(iter(folders), None)
    except Exception as error:  # it was not checked when it was built
        raise UsageError(f"the ONNX model cannot be written as protobuf: {one_line(error)}") from error


def _prepared(model: Any, folder: Path | None, where: str, apart: bool) -> ir.Model:
    opsets = checks.require_versions(model, where)
    bare, held = _bare(model, opsets, folder, where)
    checks.require_values(bare, where)
    checks.require_numbers(bare, where)
    checks.require_functions(bare, where)
    checks.require_ops(bare, opsets, where)
    if any(checks.standard(f.domain) != checks.KEPT for f in bare.functions):
        bare = _inlined(bare, where)
    notes: list[str] = []
    bare = (inferred_apart if apart else inferred)(bare, opsets, notes, where)
    require_types(bare, opsets, where)
    result: ir.Model = ir.from_proto(bare)
    _attach(result, held, folder, [t.name for t in model.graph.initializer])
    _lift_constants(result)
    if notes:
        result.meta[NOTES] = notes
    return result


def _bare(model: Any, opsets: dict[str, int], folder: Path | None, where: str) -> tuple[Any, dict[str, Any]]:
    """A copy whose large initializers are inputs, and those initializers: onnx's own tools take no more than 2 GiB, and
    what they say of a model does not depend on them."""
    bare = type(model)()
    for field, value in model.ListFields():
        if field.name not in ("graph", "opset_import", "training_info"):
            _copy(bare, field, value)
    bare.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    bare.ir_version = max(model.ir_version, 4)  # from 4 on an initializer need be no input
    for field, value in model.graph.ListFields():
        if field.name not in ("initializer", "sparse_initializer", "input"):
            _copy(bare.graph, field, value)
    bare.graph.name = model.graph.name or "graph"
    held: dict[str, Any] = {}
    tensors = [*model.graph.initializer, *(_dense(s, folder, where) for s in model.graph.sparse_initializer)]
    names = {t.name for t in tensors}
    declared = {v.name: v.type.tensor_type.elem_type for v in model.graph.input if v.name in names}
    bare.graph.input.extend(value for value in model.graph.input if value.name not in names)
    for tensor in tensors:
        if declared.get(tensor.name, tensor.data_type) != tensor.data_type:
            raise UsageError(f"{where}: the initializer {tensor.name!r} has not the type its input declares")
        if tensor.name in held:
            raise UsageError(f"{where}: the graph {model.graph.name!r} makes {tensor.name!r} twice")
        if tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > SMALL:
            held[tensor.name] = tensor
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            bare.graph.initializer.append(tensor)
    for graph in proto.graphs(bare):
        graph.name = graph.name or "graph"
        for value in (*graph.input, *graph.output, *graph.value_info):
            _require_declared(value, where)
    if folder is not None:
        proto.embed(bare, folder, where)  # constants and subgraphs
    for attribute in (a for node in proto.nodes(bare) for a in node.attribute):
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:  # of Constant
            dense = _dense(attribute.sparse_tensor, folder, where)
            attribute.CopyFrom(helper.make_attribute("value", dense))
    return bare, held


def _require_declared(value: Any, where: str) -> None:
    """Raise UsageError: an element type that does not exist, a negative dim. One of -1 is how some write an unknown."""
    if UNKNOWN in type_name(value.type):
        raise UsageError(f"{where}: {value.name!r} has an unknown element type")
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_value == -1:
            dim.ClearField("dim_value")
        elif dim.dim_value < 0:
            raise UsageError(f"{where}: {value.name!r} has a negative dim ({dim.dim_value})")


def _copy(target: Any, field: Any, value: Any) -> None:
    if hasattr(value, "extend") and not isinstance(value, bytearray):
        getattr(target, field.name).extend(value)
    elif field.message_type is not None:
        getattr(target, field.name).CopyFrom(value)
    else:
        setattr(target, field.name, value)


def _dense(sparse: Any, folder: Path | None, where: str) -> Any:
    """A sparse initializer as an ordinary one."""
    dims, name = list(sparse.dims), sparse.values.name
    if any(d < 0 for d in dims) or math.prod(dims) > 2**31:
        raise UsageError(f"{where}: the sparse initializer {name!r} has impossible dims {dims[:8]}")
    values, indices = TensorProto(), TensorProto()
    values.CopyFrom(sparse.values)
    indices.CopyFrom(sparse.indices)
    for tensor in (values, indices):
        if tensor.data_location == TensorProto.EXTERNAL and folder is not None:
            proto.embed_tensor(tensor, folder, where)
    found, at = numpy_helper.to_array(values), numpy_helper.to_array(indices)
    full = np.zeros(math.prod(dims), found.dtype)
    flat = at if at.ndim == 1 else np.ravel_multi_index(tuple(at.T), dims)
    if flat.shape != found.shape or (flat.size and not 0 <= flat.min() <= flat.max() < full.size):
        raise UsageError(f"{where}: the sparse initializer {name!r} has indices that do not fit its dims {dims}")
    full[flat] = found
    return numpy_helper.from_array(full.reshape(dims), name)


def _inlined(model: Any, where: str) -> Any:
    """The model without its functions, except the kept ones. Raises UnsupportedError where a function's ops have other
    meanings at its own opset than at the model's."""
    versions = {checks.standard(i.domain): i.version for i in model.opset_import}
    for function in model.functions:
        for imported in function.opset_import:
            wanted = versions.get(checks.standard(imported.domain), imported.version)
            if wanted != imported.version:
                _require_same(function, checks.standard(imported.domain), imported.version, wanted, where)
                imported.version = wanted
    built: ir.Model = ir.from_proto(model)
    InlinePass(lambda function: function.domain != checks.KEPT)(built)
    return ir.to_proto(built)


def _require_same(function: Any, domain: str, theirs: int, ours: int, where: str) -> None:
    for node in (n for n in proto.body_nodes(function) if checks.standard(n.domain) == domain):
        if onnx.defs.has(node.op_type, theirs, domain) and onnx.defs.has(node.op_type, ours, domain):
            versions = {onnx.defs.get_schema(node.op_type, v, domain).since_version for v in (theirs, ours)}
            if len(versions) == 1:
                continue
        elif domain not in checks.NEWEST:
            continue
        raise UnsupportedError(
            f"{where}: the function {function.name} means {node.op_type} of opset {theirs}, the model opset {ours}; "
            "convert both to one opset"
        )


def _attach(model: ir.Model, held: dict[str, Any], folder: Path | None, order: list[str]) -> None:
    """Turn the inputs that stand for initializers back into them, in the order of the file."""
    graph = model.graph
    stand_ins = {value.name: value for value in graph.inputs if value.name in held}
    kept = [value for value in graph.inputs if value.name not in held]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    found = {**{v.name: v for v in graph.initializers.values()}, **stand_ins}
    graph.initializers.clear()
    place = {name: i for i, name in enumerate(order)}
    for name in sorted(found, key=lambda n: place.get(n, len(place))):  # sparse ones last
        value = found[name]
        if name in held:
            value.const_value = ir.serde.deserialize_tensor(held[name])
        graph.initializers.add(value)
    if folder is not None:
        ir.external_data.set_base_dir(graph, folder.resolve())


def _lift_constants(model: ir.Model) -> None:
    """Floating arrays that stand in Constant nodes become initializers: Paddle and some of torch's exporters write all
    weights so. What of them is a weight is judged later, as for every initializer."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            held = node.attributes.get("value")
            if (node.domain, node.op_type) != ("", "Constant") or held is None or node.outputs[0].is_graph_output():
                continue
            tensor, old = held.as_tensor(), node.outputs[0]
            if not tensor.dtype.is_floating_point() or tensor.size < 2 or not old.name:
                continue
            new = ir.Value(
                name=old.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor
            )
            old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            graph.register_initializer(new)


def schema_version(node: ir.Node, opsets: dict[str, int]) -> int:
    """The version of the op's schema that the model's opset means; the opset itself for domains ONNX does not know."""
    opset = node.version if node.version is not None else opsets.get(node.domain, 1)
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, node.domain).since_version)
    except onnx.defs.SchemaError:
        return opset

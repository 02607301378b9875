"""Which module may import what. A design constraint that is not tested does not hold for long."""

from __future__ import annotations

import ast
import fnmatch
import sys
from collections.abc import Iterator

import pytest

from scripts.package import tree_modules

# Framework -> the modules it may be imported by, anywhere in the file. Everything else stays free of it.
# One model must run on every Keras backend: TensorFlow's one door in convert/ is a faster kernel of BatchNormalization,
# taken when Keras runs on TensorFlow, with the same mathematics in keras.ops beside it.
DOORS: dict[str, tuple[str, ...]] = {
    "torch": (
        "isomorph.convert.onnx_in.*",
        "isomorph.parity.runners.torch_conversion",
        "isomorph.convert.api",
        "isomorph.convert.capture",
        "isomorph.convert.checkpoint",
        "isomorph.convert.conversion",
        "isomorph.convert.examples",
        "isomorph.convert.exportable",
        "isomorph.convert.fx_body",
        "isomorph.convert.fx_to_ir",
        "isomorph.convert.passes.fold_constants",
        "isomorph.convert.source*",
        "isomorph.convert.weights",
        "isomorph.parity.explaining.cause_tests.*",
        "isomorph.parity.gate.bare",
        "isomorph.parity.modes.order_mode",
        "isomorph.parity.modes.random_mode",
        "isomorph.parity.modes.rounding_mode",
        "isomorph.parity.runners.device",
        "isomorph.parity.runners.exported",
        "isomorph.parity.runners.keras_device",
        "isomorph.parity.runners.keras_random",
        "isomorph.parity.runners.keras_vjp",
        "isomorph.parity.runners.open_torch",
        "isomorph.parity.runners.torch_runner",
        "isomorph.parity.runners.torch_trace",
        "isomorph.parity.runners.written",
    ),
    "torch.export": (
        "isomorph.convert.capture",
        "isomorph.convert.exportable",
        "isomorph.convert.fx_to_ir",
        "isomorph.convert.source_pt2",
    ),
    "keras": (
        "isomorph.convert.onnx_out.*",
        "isomorph.convert.assemble",
        "isomorph.convert.builder",
        "isomorph.convert.conversion",
        "isomorph.convert.driver",
        "isomorph.convert.emit",
        "isomorph.convert.functional",
        "isomorph.convert.graph_layer",
        "isomorph.convert.interpret",
        "isomorph.convert.keras_dtype",
        "isomorph.convert.layers",
        "isomorph.convert.nn_layers",
        "isomorph.convert.random_sites",
        "isomorph.convert.recurrence",
        "isomorph.convert.scope",
        "isomorph.convert.rules.*",
        "isomorph.parity.gate.bare",
        "isomorph.parity.runners.keras_*",
    ),
    "tensorflow": (
        "isomorph.convert.onnx_out.*",
        "isomorph.convert.nn_layers",
        "isomorph.parity.gate.bare",
        "isomorph.parity.runners.keras_device",
        "isomorph.parity.runners.keras_trace",
        "isomorph.parity.runners.keras_vjp",
        "isomorph.parity.runners.litert",
        "isomorph.parity.runners.saved_model",
    ),
    "jax": ("isomorph.parity.runners.keras_device", "isomorph.parity.runners.keras_vjp"),
    "onnx": ("isomorph.convert.onnx_in.*", "isomorph.convert.onnx_out.*", "isomorph.parity.runners.onnx_*"),
    "onnx_ir": ("isomorph.convert.onnx_in.*",),
    "onnxruntime": ("isomorph.convert.onnx_out.*", "isomorph.parity.gate.bare", "isomorph.parity.runners.onnx_runner"),
    "tf2onnx": ("isomorph.convert.onnx_out.*",),
    "ai_edge_litert": ("isomorph.parity.runners.litert",),
    "hypothesis": (
        "isomorph.parity.drawing.asking",
        "isomorph.parity.drawing.cases",
        "isomorph.parity.drawing.engine",
        "isomorph.parity.fuzzing.modules",
    ),
    "transformers": ("isomorph.convert.source_hf",),
}
# These load nothing but the standard library and each other, so that they can be read, tested and imported anywhere.
STDLIB_ONLY = (
    "isomorph",
    "isomorph.convert",
    "isomorph.convert.errors",
    "isomorph.convert.inputspec",
    "isomorph.convert.ir",
    "isomorph.convert.ir_json",
    "isomorph.convert.promote",
    "isomorph.convert.rules.registry",
    "isomorph.convert.whole",
    "isomorph.parity",
    "isomorph.parity.gate.blessing",
    "isomorph.parity.gate.digest",
    "isomorph.parity.gate.external_data",
    "isomorph.parity.gate.reading",
    "isomorph.parity.gate.schema",
    "isomorph.parity.gate.statement",
    "isomorph.parity.record",
    "isomorph.parity.verdict",
)


def imports(name: str) -> Iterator[tuple[str, int, bool]]:
    """(imported name, line, whether for annotations only) of every import of a module; relative ones made absolute."""
    file = tree_modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parent = parts[: len(parts) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno, id(node) in typing_only


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_convert_never_imports_parity() -> None:
    found = [
        f"{name}:{line} imports {target}"
        for name in tree_modules()
        if within(name, "isomorph.convert")
        for target, line, _ in imports(name)
        if within(target, "isomorph.parity")
    ]
    assert found == []


@pytest.mark.parametrize("framework", DOORS)
def test_a_framework_is_imported_only_behind_its_door(framework: str) -> None:
    users = {
        name
        for name in tree_modules()
        for target, _, typing_only in imports(name)
        if within(target, framework) and not typing_only
    }
    allowed = DOORS[framework]
    assert sorted(name for name in users if not any(fnmatch.fnmatchcase(name, door) for door in allowed)) == []
    unused = [door for door in allowed if not any(fnmatch.fnmatchcase(name, door) for name in users)]
    assert unused == [], f"these doors to {framework} are no longer used: remove them from the table"


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_the_core_imports_the_standard_library_only(name: str) -> None:
    foreign = [
        f"{name}:{line} imports {target}"
        for target, line, typing_only in imports(name)
        if not typing_only
        and target.partition(".")[0] not in sys.stdlib_module_names
        and not any(target == core or target.rpartition(".")[0] == core for core in STDLIB_ONLY)
    ]
    assert foreign == []


def test_the_parser_of_imports_sees_them_all() -> None:
    """Absolute, relative and function-level imports are found: each kind stands in these modules."""
    targets = {target for target, _, _ in imports("isomorph")}
    assert {"isomorph.convert.api.to_keras", "importlib.import_module"} <= targets
    assert any(within(target, "isomorph.parity.cli") for target, _, _ in imports("isomorph.__main__"))
    relative = {target for target, _, _ in imports("isomorph.convert.driver")}
    assert "isomorph.convert.ir.Node" in relative
    assert all(typing_only for target, _, typing_only in imports("isomorph") if within(target, "isomorph.convert"))

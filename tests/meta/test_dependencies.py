"""What the code imports is declared, what is declared is pinned, and the pins fit the ranges."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from scripts.package import ROOT, tree_modules

DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "ml_dtypes": "ml-dtypes",
    "onnx_ir": "onnx-ir",
    "ai_edge_litert": "ai-edge-litert",
    "vl_convert": "vl-convert-python",
}
# Never needed: used if they happen to be there, or only loaded by a model of the user's.
OPTIONAL = {"torchvision", "jax"}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras: str) -> list[Requirement]:
    table = project()
    lines = list(table["dependencies"])
    for extra in extras:
        lines += table["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line).groups() for line in lines if not line.startswith("#"))


def imported(file: Path) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file, functions included."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_is_declared() -> None:
    known = {
        requirement.name.lower()
        for requirement in requirements("hf", "timm", "onnx", "litert", "onnx2tf", "report", "ray", "tensorboard")
    }
    undeclared = set()
    for name, file in tree_modules().items():
        for top in imported(file) - sys.stdlib_module_names - OPTIONAL - {"isomorph"}:
            distribution = DISTRIBUTION.get(top, top)
            if distribution not in known:
                undeclared.add(f"{name} imports {top}")
    assert undeclared == set()


def test_every_requirement_is_pinned_within_its_range() -> None:
    exact = {name.lower().replace("_", "-"): version for name, version in pins().items()}
    wrong = []
    for requirement in requirements("demo", "dev", "docs", "hf", "onnx", "ray", "report", "tensorboard"):
        version = exact.get(requirement.name.lower().replace("_", "-"))
        if version is None or version not in requirement.specifier:
            wrong.append(f"{requirement} is pinned to {version}")
    assert wrong == []

"""The package list, the wheel and the import names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.package import (
    ROOT,
    build_wheel,
    declared_packages,
    install,
    run,
    tree_data,
    tree_modules,
    wheel_data,
    wheel_modules,
)


def test_package_list_equals_the_tree() -> None:
    """A sub-package missing from the list works in an editable install and is silently absent from the wheel."""
    packages = {name for name, file in tree_modules().items() if file.name == "__init__.py"}
    assert declared_packages() == packages
    folders = {file.parent for file in tree_modules().values()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_holds_every_module(wheel: Path) -> None:
    assert wheel_modules(wheel) == set(tree_modules())
    assert wheel_data(wheel) == tree_data()


@pytest.mark.slow
def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, tmp_path)
    names = sorted(set(tree_modules()) - {"isomorph.__main__"})
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    file = importlib.import_module(name).__file__\n"
        "    assert file.startswith(sys.argv[1]), f'{name} comes from {file}'\n"
        "    print(name)\n"
    )
    assert run([str(commands / "python"), "-c", code, str(tmp_path)], tmp_path).split() == names


@pytest.mark.parametrize("folder", ["convert", "parity"])
def test_a_second_copy_is_refused(folder: str) -> None:
    """Imported by the name of its folder, a package says which name is right."""
    code = f"import {folder}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"import it as 'isomorph.{folder}'" in result.stderr


def test_a_foreign_convert_is_left_alone(tmp_path: Path) -> None:
    """A repository's own convert.py is what `import convert` finds there, and isomorph.convert is still ours."""
    (tmp_path / "convert.py").write_text("MINE = True\n")
    code = "import convert, isomorph.convert; print(convert.MINE, isomorph.convert.__name__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["True", "isomorph.convert"], result.stderr

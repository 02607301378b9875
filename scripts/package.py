"""The package checks: build the wheel, look inside, install it in a scratch environment and run the command there.

    python scripts/package.py

The frameworks are not installed again: the scratch environment sees those of the running interpreter. Its own
`isomorph` is the wheel's, never the editable one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "convert", "parity")


def tree_modules() -> dict[str, Path]:
    """Import name -> file, of every module in convert/ and parity/; `isomorph` itself lives in convert/_facade."""
    modules = {}
    for top in ("convert", "parity"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = ("isomorph", *file.relative_to(ROOT).with_suffix("").parts)
            if parts[1:3] == ("convert", "_facade"):
                parts = ("isomorph", *parts[3:])
            modules[".".join(parts).removesuffix(".__init__")] = file
    return modules


def declared_packages() -> set[str]:
    """The package list of pyproject.toml."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])


def build_wheel(folder: Path) -> Path:
    """Build from a copy of the sources, so that neither build/ nor an egg-info appears in the tree."""
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the wheel does not build:\n{result.stdout}\n{result.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def wheel_modules(wheel: Path) -> set[str]:
    """Import names of the Python files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if name.endswith(".py")]
    return {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in files}


def tree_data() -> set[str]:
    """Paths in the wheel of what the packages read beside their code: the report's page."""
    page = ROOT / "parity" / "report" / "page"
    return {f"isomorph/parity/report/page/{file.name}" for file in page.iterdir()} | {"isomorph/py.typed"}


def wheel_data(wheel: Path) -> set[str]:
    """Those of them that are in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return tree_data() & set(archive.namelist())


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel in a new environment under `folder`; returns the environment's folder of commands."""
    target = folder / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(target)
    commands = target / ("Scripts" if os.name == "nt" else "bin")
    (site,) = target.glob("[Ll]ib/**/site-packages")
    # A path in a .pth file is searched, but .pth files found there are not read: the editable install stays invisible.
    (site / "frameworks.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    pip = [str(commands / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--force-reinstall", str(wheel)], check=True, cwd=folder)
    return commands


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command run in an empty folder, with no path of ours. Raises with its errors."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        print(f"built     {wheel.name}, {wheel.stat().st_size // 1024} kB")
        tree, packed = set(tree_modules()), wheel_modules(wheel)
        if tree != packed:
            print(f"missing from the wheel: {sorted(tree - packed)}\nonly in the wheel: {sorted(packed - tree)}")
            return 1
        if tree_data() != wheel_data(wheel):
            print(f"missing from the wheel: {sorted(tree_data() - wheel_data(wheel))}")
            return 1
        print(f"contents  {len(packed)} modules and {len(tree_data())} files of data, the same as in the tree")
        if importlib.util.find_spec("twine") is not None:
            run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], folder)
            print("metadata  twine check passed")
        commands = install(wheel, folder)
        where = run([str(commands / "python"), "-c", "import isomorph; print(isomorph.__file__)"], folder).strip()
        if not Path(where).resolve().is_relative_to(folder.resolve()):
            print(f"the scratch environment imports another isomorph: {where}")
            return 1
        for command in (["isomorph"], ["python", "-m", "isomorph"]):
            help_text = run([str(commands / command[0]), *command[1:], "--help"], folder)
            if "convert" not in help_text:
                print(f"{' '.join(command)} --help does not name the command convert:\n{help_text}")
                return 1
        print("command   isomorph --help and python -m isomorph --help work from the installed wheel")
    return 0


if __name__ == "__main__":
    sys.exit(main())

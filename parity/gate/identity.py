"""What a model of a gate is made of, as one hash: its files, or the code it is made by. Standard library only, and
nothing of the code is run.

Code is the file or module that is named, every module below the gate file's folder that it imports (`import`
statements, followed through; of a package that lies elsewhere and is not installed, those of the package), and every
file below the folder whose name, or the end of whose path, stands in them as a text: weights that they load. What code
finds in another way (a name put together at run time, a download) is not seen.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from isomorph.convert.errors import UsageError
from isomorph.convert.routes import SCHEMES, is_code
from isomorph.parity.gate import digest
from isomorph.parity.gate.tasks import Task

__all__ = ["Code", "code_of", "of_code", "of_model", "of_text"]

INSTALLED = frozenset({"site-packages", "dist-packages"})
SKIPPED = INSTALLED | {"__pycache__", "node_modules"}  # folders whose files no text is looked up among
LISTED = 100_000  # files among which a text is looked up
LONGEST = 260  # of a text in code that is looked up as the name of a file


@dataclass
class Code:
    """modules: name -> its file, or the directory of a package without `__init__.py`; none that is installed. files:
    all that belongs to the code."""

    modules: dict[str, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def code_of(text: str, folder: Path) -> Code | None:
    """What "pkg.module:name" or "path/to/file.py:name" is made of. None: there is no such file or module."""
    target = text.rpartition(":")[0]
    importlib.invalidate_caches()
    if target.endswith(".py") or "/" in target or "\\" in target:
        path = (folder / target).resolve()
        return _Scan(folder, "").all_of(path) if path.is_file() else None
    scan = _Scan(folder, target.partition(".")[0])
    spec = scan.spec(target)
    if spec is None:
        return None
    if scan.add_module(target):
        return scan.all_of(None)
    return scan.all_of(Path(spec.origin) if spec.has_location and spec.origin else None)  # installed: the file alone


class _Scan:
    """package: of the named module; its modules count wherever it lies, if it is not installed."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.package, self.code = folder.resolve(), package, Code()
        self._path = [str(self.folder), *(entry for entry in sys.path if entry)]
        self._specs: dict[str, ModuleSpec | None] = {}
        self._named: dict[str, list[Path]] | None = None

    def all_of(self, first: Path | None) -> Code:
        """The code with all that it imports from below the folder. first: a file that is no module."""
        if first is not None:
            self.code.files.append(first)
        for file in self.code.files:  # grows while it is walked
            if file.suffix == ".py":
                self._read(file)
        return self.code

    def _read(self, file: Path) -> None:
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return  # running it will tell
        name = next((name for name, path in self.code.modules.items() if path == file), "")
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            for imported in _imports(node, package):
                self.add_module(imported)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._add_data(node.value, file.parent)

    def add_module(self, name: str) -> bool:
        """Add a module and the packages it lies in, if it is one of those below the folder."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            full = ".".join(parts[:count])
            if full in self.code.modules:
                continue
            spec = self.spec(full)
            place = None if spec is None else self._place(full, spec)
            if place is None:
                return False
            self.code.modules[full] = place
            if place.is_file():
                self.code.files.append(place)
        return True

    def _add_data(self, text: str, beside: Path) -> None:
        if not text.strip() or len(text) > LONGEST or "\n" in text or "\0" in text:
            return
        for path in (beside / text, self.folder / text, *self._ending(text)):
            try:
                if path.is_file() and path.resolve() not in self.code.files:
                    self.code.files.append(path.resolve())
            except OSError:  # no name of a file
                continue

    def _ending(self, text: str) -> list[Path]:
        """The files below the folder whose path ends so: Path(__file__).parent / "weights" / "net.pt"."""
        parts = tuple(part for part in Path(text).parts if part not in ("/", ".."))
        if not parts or not Path(text).suffix:
            return []
        if self._named is None:
            self._named = _files_by_name(self.folder)
        return [path for path in self._named.get(parts[-1], ()) if path.parts[-len(parts) :] == parts]

    def spec(self, name: str) -> ModuleSpec | None:
        """Where a module would come from, nothing being imported for it."""
        if name not in self._specs:
            self._specs[name] = self._found(name)
        return self._specs[name]

    def _found(self, name: str) -> ModuleSpec | None:
        parent = name.rpartition(".")[0]
        above = self.spec(parent) if parent else None
        if parent and (above is None or above.submodule_search_locations is None):
            return None
        where = None if above is None else above.submodule_search_locations
        found = PathFinder.find_spec(name, self._path if where is None else where)
        finders = (finder for finder in sys.meta_path if finder is not PathFinder)  # of editable installations
        for finder in () if found is not None else finders:
            with contextlib.suppress(Exception):
                found = found or finder.find_spec(name, where)
        return found

    def _place(self, name: str, spec: ModuleSpec) -> Path | None:
        """Where a module lies, if its contents count."""
        places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
        for path in (Path(place).resolve() for place in places):
            own = path.is_relative_to(self.folder) or name.partition(".")[0] == self.package
            if own and not INSTALLED & set(path.parts) and path.exists():
                return path
        return None


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """Name -> the files below a folder, without what is hidden or installed; LISTED of them at most."""
    found: dict[str, list[Path]] = {}
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        for name in sorted(names):
            found.setdefault(name, []).append(Path(place, name))
        count += len(names)
        if count > LISTED:
            break
    return found


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """The names of the modules that a statement may import. package: that the file lies in, "" for none."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1])
            base = f"{above}.{base}".strip(".")
        if base:
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


# -------------------------------------------------------------------------------------------------------------- hashes
def of_code(text: str, folder: Path, weights: str | None = None) -> str | None:
    """The hash of code and of the weights that are loaded into what it makes. None: it is not there."""
    code = code_of(text, folder)
    if code is None:
        return None
    named = [(_named(file, folder), file) for file in code.files]
    if weights is not None:
        named.append(("weights", folder / weights))
    total = hashlib.sha256()
    try:
        for name, file in sorted(named):
            total.update(f"{digest.of(file).sha256}  {name}\n".encode())
    except UsageError:
        return None
    return total.hexdigest()


def _named(file: Path, folder: Path) -> str:
    folder = folder.resolve()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def of_text(text: str, folder: Path, weights: str | None = None) -> str | None:
    """The hash of a model that is named as on the command line. None: it is not there."""
    scheme, _, rest = text.partition(":")
    if is_code(text):
        return of_code(text, folder, weights)
    try:
        if scheme in SCHEMES and scheme != "hf":
            parts = [text]
        else:
            said = digest.subjects("original", text, folder / (rest if scheme == "hf" else text))
            parts = [subject.sha256 for subject in said]
        if weights is not None:
            parts.append(digest.of(folder / weights).sha256)
    except UsageError:
        return None
    if len(parts) == 1 and scheme not in SCHEMES:
        return parts[0]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def of_model(task: Task) -> str | None:
    """The hash of the two models of a task, by their contents. None: one of them is not there, or cannot be read."""
    entry, folder = task.entry, Path(task.folder)
    found = [of_text(entry.source, folder, entry.weights)]
    if entry.artifact is not None:
        found.append(of_text(entry.artifact, folder, entry.artifact_weights))
    if None in found:
        return None
    return hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()

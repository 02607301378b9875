"""Importing isomorph, and asking the command for help, loads no framework: measured in fresh processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "transformers", "hypothesis", "numpy")
REPORT = f"\nimport sys\nprint('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])\n"


def loaded(code: str) -> str:
    """The heavy libraries that `code` loads, as printed by a fresh interpreter at its end."""
    command = [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({REPORT!r}, {{}}))\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.rpartition("loaded:")[2].strip()


@pytest.mark.parametrize(
    "code",
    [
        "import isomorph",
        "import isomorph; isomorph.__version__; dir(isomorph)",
        "import isomorph.convert, isomorph.parity",
        "import isomorph.convert.ir, isomorph.convert.errors",
        "import isomorph.parity.cli",
        "import sys; sys.argv = ['isomorph', '--help']; from isomorph.parity.cli import main; main()",
        "import sys; sys.argv = ['isomorph', 'convert', '--help']; from isomorph.parity.cli import main; main()",
        "import sys; sys.argv = ['isomorph', 'gate', '--help']; from isomorph.parity.cli import main; main()",
        "import isomorph.parity.plugin",
        "import isomorph.parity.gate.policy, isomorph.parity.gate.tasks, isomorph.parity.gate.verify",
        "import isomorph.parity.report.faces",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded(code) == ""


def test_the_probe_sees_what_is_loaded() -> None:
    """The test above can fail: numpy is seen when it is imported."""
    assert loaded("import isomorph, numpy") == "numpy"


def test_public_names_resolve() -> None:
    import isomorph

    for name in isomorph.__all__:
        assert getattr(isomorph, name) is not None
    with pytest.raises(AttributeError, match="public names: "):
        _ = isomorph.no_such_name

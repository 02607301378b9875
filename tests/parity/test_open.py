"""From a text or an object to a runner: what is understood, what is known of the inputs, and what is refused."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isomorph.convert.errors import UsageError
from isomorph.parity.runners import device, open_torch
from isomorph.parity.runners import open as opening
from isomorph.parity.runners.base import PortInfo, Request
from isomorph.parity.runners.open import open_runner
from isomorph.parity.runners.remote import RemoteRunner
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.runners.torch_runner import TorchRunner
from scripts.package import tree_modules

CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, wide=4):
        super().__init__()
        self.table = torch.nn.Embedding(11, wide)
        self.line = torch.nn.Linear(wide, 2)
    def forward(self, ids, scale=None):
        x = self.line(self.table(ids))
        return x if scale is None else x * scale

def build(): return Net()
def with_args(): return Net(), (torch.zeros(2, 3, dtype=torch.int64), torch.ones(2))
def with_kwargs(): return Net(), (torch.zeros(2, 3, dtype=torch.int64),), {"scale": torch.ones(2)}
module = Net()
def function(x, y=None): return x * 2
def function_of_any(*arrays): return sum(arrays)
def function_with_example(): return function, (torch.ones(3),)
def gives_number(): return 7
def raises(): raise RuntimeError("no weights here")
number = 7
"""
BESIDE = """
def example_inputs(): return {"ids": torch.ones(3, 5, dtype=torch.int64)}
dynamic_shapes = {"ids": {0: "rows", 1: torch.export.Dim("steps", min=2, max=64)}}
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "nets.py"
    file.write_text(CODE)
    return file


def opened(target: Any, **options: Any) -> Opened:
    return open_runner(ModelSpec(target, **options))


# --- code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["build", "with_args", "with_kwargs", "module", "Net"])
def test_code_that_makes_a_torch_module(code: Path, name: str) -> None:
    found = opened(f"{code}:{name}", inputs=("ids=int64[b,3]:0..10",))
    assert isinstance(found.runner, TorchRunner)
    about = found.runner.about()
    assert about.format == "torch"
    assert about.inputs == (PortInfo("ids", "int64", ("b", 3), 0, 10),)
    assert dict(about.sizes) == {"b": (2, None)}
    assert dict(found.values) == {"ids": (0, 10)}
    assert found.example is not None
    answer = found.runner.respond(Request(found.example, "eval"))
    assert answer.outputs[0].shape == (2, 3, 2)
    assert found.runner.index_bounds() == {"ids": 11}


def test_the_example_of_the_factory(code: Path) -> None:
    for name in ("with_args", "with_kwargs"):
        found = opened(f"{code}:{name}")
        assert [(p.name, p.dims) for p in found.runner.about().inputs] == [("ids", (2, 3)), ("scale", (2,))]
        assert dict(found.values) == {}


def test_example_inputs_and_dynamic_shapes_beside_the_factory(code: Path) -> None:
    code.write_text(CODE + BESIDE)
    about = opened(f"{code}:build").runner.about()
    assert about.inputs == (PortInfo("ids", "int64", ("rows", "steps")),)
    assert dict(about.sizes) == {"steps": (2, 64)}


def test_a_given_example_is_taken_before_the_factorys(code: Path) -> None:
    found = opened(f"{code}:with_args", example=torch.full((4, 2), 3))
    assert [(p.name, p.dims) for p in found.runner.about().inputs] == [("ids", (4, 2))]
    np.testing.assert_array_equal((found.example or ())[0], np.full((4, 2), 3))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generators_alone(code: Path) -> None:
    def weights(seed: int) -> dict[str, np.ndarray]:
        return dict(opened(f"{code}:build", inputs=("ids=int64[b,3]",), seed=seed).runner.state())

    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["line.weight"], other["line.weight"])
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_weights_are_loaded(code: Path, tmp_path: Path) -> None:
    module = opened(f"{code}:build", inputs=("ids=int64[b,3]",)).runner
    state = {name: torch.full(array.shape, 0.5) for name, array in module.state().items()}
    torch.save(state, tmp_path / "weights.pt")
    found = opened(f"{code}:build", inputs=("ids=int64[b,3]",), weights=str(tmp_path / "weights.pt")).runner
    assert all((array == 0.5).all() for array in found.state().values())


def test_functions(code: Path) -> None:
    found = opened(f"{code}:function", inputs=("x=float32[b]",))
    assert found.runner.about().format == "function"
    np.testing.assert_array_equal(found.runner.respond(Request((np.ones(3),), "eval", False)).outputs[0], np.full(3, 2))
    several = opened(f"{code}:function_of_any", example=(np.ones(2), np.ones(2)))
    np.testing.assert_array_equal(
        several.runner.respond(Request(several.example or (), "eval", False)).outputs[0], np.full(2, 2)
    )
    np.testing.assert_array_equal((opened(f"{code}:function_with_example").example or ())[0], np.ones(3))
    here = opened(lambda x: x + 1, example=(np.ones(2),))
    np.testing.assert_array_equal(here.runner.respond(Request((np.ones(2),), "eval", False)).outputs[0], np.full(2, 2))


def test_a_function_gets_the_example_beside_it(code: Path) -> None:
    code.write_text(CODE + "def example_inputs(): return torch.arange(4.0)\n")
    np.testing.assert_array_equal((opened(f"{code}:function").example or ())[0], np.arange(4.0))


# --- objects ------------------------------------------------------------------------------------------------------


class Nested(torch.nn.Module):
    def forward(self, batch: dict[str, Any], *rest: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return batch["image"] + batch["pair"][1] + sum(rest) + sum(named.values())


def test_a_module_and_its_arguments() -> None:
    ones = torch.ones(2, 3)
    found = opened((Nested(), ({"image": ones, "pair": (None, ones)}, ones), {"late": ones}))
    names = [port.name for port in found.runner.about().inputs]
    assert names == ["batch['image']", "batch['pair'][1]", "rest[0]", "named['late']"]
    assert found.runner.respond(Request(found.example or (), "eval")).outputs[0].sum() == 24


def test_dims_and_bounds_of_nested_inputs() -> None:
    """--input names an entry by a dotted path; the port bears torch's."""
    specs = ("batch.image=float32[b,3]", "batch.pair.0=float32[b,3]", "batch.pair.1=int64[b,3]:0..5")
    found = opened(Nested(), inputs=specs)
    ports = {port.name: (port.dims, port.low, port.high) for port in found.runner.about().inputs}
    assert ports["batch['image']"] == (("b", 3), None, None)
    assert ports["batch['pair'][1]"] == (("b", 3), 0, 5)
    assert dict(found.values) == {"batch['pair'][1]": (0, 5)}


@pytest.mark.parametrize(
    ("axes", "dims", "sizes"),
    [
        (None, (4, 6), {}),
        ({1: "s"}, (4, "s"), {}),
        (("b", None), ("b", 6), {}),
        ([None, torch.export.Dim("s", max=9)], (4, "s"), {"s": (0, 9)}),
        ({0: torch.export.Dim("b")}, ("b", 6), {"b": (0, None)}),
        ({0: torch.export.Dim("b"), 1: 2 * torch.export.Dim("b")}, ("b", "2*b"), {"b": (0, None)}),
        ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.STATIC}, (None, 6), {}),
    ],
)
def test_dynamic_shapes_in_every_form(axes: Any, dims: Any, sizes: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    assert open_torch._dims((4, 6), axes, found) == dims
    assert found == sizes


def test_an_example_with_its_free_axes() -> None:
    """The example gives the values, --input the axes and the bounds."""
    ids = torch.tensor([[3, 4, 5]])
    found = opened(torch.nn.Embedding(9, 2), example=ids, inputs=("input=int64[b,s=2..8]:1..7",))
    assert found.runner.about().inputs == (PortInfo("input", "int64", ("b", "s"), 1, 7),)
    assert dict(found.runner.about().sizes) == {"b": (2, None), "s": (2, 8)}
    assert dict(found.values) == {"input": (1, 7)}
    np.testing.assert_array_equal((found.example or ())[0], ids)


def test_a_module_that_needs_no_inputs() -> None:
    class Constant(torch.nn.Module):
        def forward(self) -> torch.Tensor:
            return torch.ones(2)

    found = opened(Constant())
    assert found.example == ()
    assert found.runner.respond(Request((), "eval")).outputs[0].tolist() == [1, 1]


def test_a_module_is_left_as_it_was() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    runner = opened(module, inputs=("input=float32[b,3]",)).runner
    runner.respond(Request((np.ones((2, 3), np.float32),), "train"))
    runner.load({"0.weight": np.zeros((3, 3))})
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.training


# --- files, and models of other frameworks: that they reach their own opener --------------------------------------


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Which opener is asked for, and for what."""
    calls: list[tuple[str, Any]] = []

    def note(spec: ModelSpec, kind: str, **more: Any) -> Any:
        calls.append((kind, spec.target))
        return Opened(None)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "_open", note)
    return calls


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("m.pt2", "exported"),
        ("m.keras", "keras"),
        ("m.tflite", "litert"),
        ("m.ONNX", "onnx"),
        ("m.h5", "keras"),
        ("saved", "saved_model"),
    ],
)
def test_files_by_their_form(tmp_path: Path, reached: list[tuple[str, Any]], name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "saved_model":
        path.mkdir()
        path = path / "saved_model.pb"
    path.write_bytes(b"")
    opened(str(tmp_path / name))
    assert reached == [(kind, str(tmp_path / name))]


@pytest.mark.parametrize("text", ["hf:folder", "timm:resnet18", "torchvision:resnet18"])
def test_sources_of_torch_modules(reached: list[tuple[str, Any]], text: str) -> None:
    opened(text)
    assert reached == [("torch", text)]


def test_every_opener_is_there() -> None:
    """The table names functions that exist; their frameworks are not loaded for that."""
    modules = tree_modules()
    for place in opening.OPENERS.values():
        module, _, function = place.partition(":")
        tree = ast.parse(modules[module].read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


def test_a_keras_model_and_a_conversion(reached: list[tuple[str, Any]]) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    opened(model)

    class Converted:
        weights = ()

        def replay(self) -> None: ...

    opened(Converted())
    assert [kind for kind, _ in reached] == ["keras", "conversion"]


# --- which process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "worker"),
    [
        ({}, False),
        ({"isolate": True}, True),
        ({"python": sys.executable}, True),
        ({"memory": 1 << 40}, True),
        ({"backend": "tensorflow"}, False),
        ({"backend": "jax"}, True),
        ({"device": "cuda"}, True),
    ],
)
def test_when_a_worker_is_needed(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], worker: bool) -> None:
    monkeypatch.setattr(device, "keras_backend", lambda: "tensorflow")
    assert opening._needs_worker(ModelSpec("m.keras", **options), "keras") is worker


def test_the_backend_is_known_without_keras(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from isomorph.parity.runners.device import keras_backend\n"
        "print(keras_backend(), 'keras' in sys.modules)\n"
    )

    def said(**env: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")}
        run = subprocess.run([sys.executable, "-c", program], env={**clean, **env}, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert said(KERAS_BACKEND="torch", KERAS_HOME=str(tmp_path)) == "torch False"
    assert said(KERAS_HOME=str(tmp_path)) == "jax False"
    assert said(KERAS_HOME=str(tmp_path / "nowhere")) == "tensorflow False"


def test_opening_imports_no_framework_of_another_format(code: Path) -> None:
    """A function is opened without torch, keras, tensorflow, jax or hypothesis."""
    code.write_text("def double(x): return 2 * x\n")
    program = (
        "import sys\n"
        "from isomorph.parity.runners.open import open_runner\n"
        "from isomorph.parity.runners.spec import ModelSpec\n"
        f"open_runner(ModelSpec({str(code)!r} + ':double', inputs=('x=float32[b]',)))\n"
        "print([n for n in ('torch', 'keras', 'tensorflow', 'jax', 'hypothesis', 'rich') if n in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("wanted", "visible", "expected"),
    [
        ("cpu", None, {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}),
        ("cuda", None, {"CUDA_VISIBLE_DEVICES": "0"}),
        ("cuda:2", None, {"CUDA_VISIBLE_DEVICES": "2"}),
        ("cuda:1", "5,7", {"CUDA_VISIBLE_DEVICES": "7"}),
        ("cuda:0", "GPU-abc", {"CUDA_VISIBLE_DEVICES": "GPU-abc"}),
    ],
)
def test_a_worker_sees_one_device(
    monkeypatch: pytest.MonkeyPatch, wanted: str, visible: str | None, expected: dict[str, str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    spec = ModelSpec("m.keras", device=wanted, backend="jax")
    env = device.child_environment(spec)
    assert {name: env.get(name) for name in expected} == expected
    assert env["KERAS_BACKEND"] == "jax"
    assert env["NVIDIA_TF32_OVERRIDE"] == "0"
    assert env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert ("JAX_PLATFORMS" in env) == (wanted == "cpu")
    assert env.get("XLA_FLAGS", "").split() == (
        [] if wanted == "cpu" else ["--xla_dump_to=x", "--xla_gpu_deterministic_ops=true"]
    )
    assert set(device.described(spec).items()) <= set(env.items())


def test_a_gpu_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(UsageError, match=r"device cuda is not there: CUDA_VISIBLE_DEVICES='-1' leaves 0 GPU"):
        device.child_environment(ModelSpec("m.keras", device="cuda"))


# --- what is refused ----------------------------------------------------------------------------------------------

Refused = Callable[[Path], tuple[Any, dict[str, Any]]]
X = np.ones(2, np.float32)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "missing file": ("nowhere/model.onnx", {}, r"nowhere/model\.onnx: no such file"),
    "missing keras file": ("model.keras", {}, r"model\.keras: no such file"),
    "directory for a file": ("folder.onnx", {}, r"folder\.onnx is not a file"),
    "no SavedModel": ("empty", {}, r"empty is a directory without saved_model\.pb.*hf:empty"),
    "weights": ("weights.pth", {}, r"weights\.pth holds weights"),
    "unknown": ("model.xyz", {}, r"'model\.xyz': no such file, and no known form of a model; give model\.pt2"),
    "a path object": (Path("model.keras"), {}, "give the path as text"),
    "a number": (7, {}, "an object of type int is no model; give a torch module"),
    "a class": (torch.nn.Linear, {}, "is no model"),
    "no module": ("nowhere.to.be:found", {}, "no module named 'nowhere.to.be'"),
    "no attribute": ("{code}:bild", {}, r"has no 'bild'; did you mean build\?"),
    "a number named": ("{code}:number", {}, "it is an object of type int, neither a model nor"),
    "makes a number": ("{code}:gives_number", {}, "gave an object of type int; it must give a torch module"),
    "factory raises": ("{code}:raises", {}, r"calling raises\(\) raised RuntimeError: no weights .*nets\.py:\d+"),
    "no inputs": ("{code}:build", {}, 'no example inputs; give --input "ids='),
    "no inputs of an object": (torch.nn.Linear(2, 2), {}, "Linear: no example inputs; give --input"),
    "inputs of another name": (torch.nn.Linear(2, 2), {"inputs": ("y=float32[b,2]",)}, "y"),
    "example does not fit": (torch.nn.Linear(2, 2), {"example": (X, X)}, "forward does not take the example"),
    "example against --input": (
        torch.nn.Linear(2, 2), {"example": X, "inputs": ("input=float32[b,2]",)}, "has axes .'b', 2.",
    ),
    "another input": (torch.nn.Linear(2, 2), {"example": X, "inputs": ("y=float32[b]",)}, "--input y is none"),
    "backend of torch": (torch.nn.Linear(2, 2), {"example": X, "backend": "jax"}, "a backend is for Keras models"),
    "unknown backend": ("m.keras", {"backend": "mxnet"}, "backend 'mxnet' is not known"),
    "weights of an object": (torch.nn.Linear(2, 2), {"example": X, "weights": "w.pt"}, "already in the model"),
    "weights of a function": ("{code}:function", {"weights": "w.pt"}, "weights are for torch modules"),
    "unknown device": (torch.nn.Linear(2, 2), {"example": X, "device": "tpu"}, "device 'tpu' is not known; give cpu"),
    "hidden device": (torch.nn.Linear(2, 2), {"example": X, "device": "cuda"}, "cuda is not there: torch sees no"),
    "function on a GPU": (lambda x: x, {"example": X, "device": "cuda"}, "for models that can be moved"),
    "named function on a GPU": ("{code}:function", {"example": X, "device": "cuda"}, "not for a function"),
    "LiteRT on a GPU": ("m.tflite", {"device": "cuda"}, "for models that can be moved"),
    "timeout": (torch.nn.Linear(2, 2), {"example": X, "timeout": float("nan")}, "timeout must be a number of seconds"),
    "memory": (torch.nn.Linear(2, 2), {"example": X, "memory": 0}, "memory must be a number of bytes above 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_one_clear_line(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.tflite").write_bytes(b"")
    (tmp_path / "m.keras").write_bytes(b"")
    if torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    target, options, message = REFUSED[case]
    target = target.replace("{code}", "nets.py") if isinstance(target, str) else target
    with pytest.raises(UsageError, match=message) as caught:
        opened(target, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_conversion_on_another_backend(backend: str) -> None:
    """The conversion is written, and opened by a worker on the other backend; it answers as the original does."""
    import isomorph

    pytest.importorskip(backend)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU()).eval()
    x = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    conversion = isomorph.to_keras(net, (x,))
    found = open_runner(ModelSpec(conversion, backend=backend))
    original = open_runner(ModelSpec(net, example=x))
    try:
        assert isinstance(found.runner, RemoteRunner)
        about = found.runner.about()
        assert about.mapped
        assert about.environment["keras_backend"] == backend
        asked = original.runner.to_float64().respond(Request((x.numpy(),), "train"))
        request = Request((x.numpy(),), "train", cotangents=asked.cotangents, draws=asked.draws)
        answer = found.runner.to_float64().respond(request)
        for (quantity, arrays), others in zip(answer.groups().items(), asked.groups().values(), strict=True):
            assert arrays, quantity
            for left, right in zip(arrays.values(), others.values(), strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-11, err_msg=quantity)
    finally:
        found.runner.close()

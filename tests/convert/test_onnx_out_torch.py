"""torch -> Keras -> ONNX: the file says which torch tensor each initializer is, and gives the state dict back."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import Conversion
from isomorph.convert.onnx_out.api import to_onnx
from isomorph.convert.onnx_out.export import OnnxExport
from isomorph.convert.weights import Transform
from tests.convert.onnx_out_models import initializers, ops, run

NAMES = ("resnet_basic", "lstm", "gru", "gpt", "resnext", "multi_input", "nested_output", "frozen",
         "lstm_state", "fourier_mixing")  # fmt: skip


@functools.cache
def made(name: str) -> tuple[torch.nn.Module, Conversion, OnnxExport]:
    fixture = ZOO[name]
    module = fixture.build()
    conversion = to_keras(module, fixture.args(), fixture.kwargs(), fixture.export_shapes(module))
    return module, conversion, to_onnx(conversion)


def provenance(export: OnnxExport) -> dict[str, Any]:
    return json.loads(next(p.value for p in export.proto.metadata_props if p.key == "isomorph"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_gives_the_state_dict_back(name: str) -> None:
    module, _, export = made(name)
    held, data = initializers(export.proto), provenance(export)
    assert data["source"] == "torch"
    found = {}
    for initializer, v in data["variables"].items():
        if v["torch_name"] is not None:
            for torch_name in (v["torch_name"], *v["tied"]):
                found[torch_name] = Transform.from_data(v["transform"]).to_torch(held[initializer])
    state = module.state_dict()
    assert set(found) >= set(state)
    assert set(found) - set(state) <= {n for n, _ in module.named_buffers()}
    for torch_name, tensor in state.items():
        assert found[torch_name].tobytes() == tensor.contiguous().numpy().tobytes(), torch_name
    kinds = {v["torch_name"]: v["kind"] for v in data["variables"].values()}
    trainable = {v["torch_name"]: v["trainable"] for v in data["variables"].values()}
    for torch_name, parameter in module.named_parameters():
        assert (kinds[torch_name], trainable[torch_name]) == ("parameter", parameter.requires_grad)
    for torch_name, _ in module.named_buffers():
        assert kinds.get(torch_name, "buffer") == "buffer"


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_torch_does(name: str) -> None:
    """By the permutations, the structure and the names of dims that the file itself has."""
    module, conversion, export = made(name)
    data, fixture = provenance(export), ZOO[name]
    given = torch.utils._pytree.tree_leaves((fixture.args(), fixture.kwargs()))
    tensors = [t for t in given if isinstance(t, torch.Tensor)]
    xs = [
        t.numpy() if p["permutation"] is None else t.numpy().transpose(p["permutation"])
        for t, p in zip(tensors, data["inputs"], strict=True)
    ]
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(module.eval()(*fixture.args(), **fixture.kwargs()))
    wanted = [y for y in leaves if isinstance(y, torch.Tensor)]
    assert data.get("output_constants", {}) == {str(i): v for i, v in conversion.output_constants.items()}
    answers = run(export.proto, *xs)
    for y, port, want in zip(answers, data["outputs"], wanted, strict=True):
        y = y if port["permutation"] is None else y.transpose(np.argsort(port["permutation"]))
        assert np.allclose(y, want, atol=1e-5 * float(want.abs().max())), port["name"]
    assert data["output_structure"] == conversion.output_structure
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in export.proto.graph.input]
    assert dims == [p["dims"] for p in data["inputs"]]


def test_layers_of_torch_are_ops() -> None:
    norms = [m for m in made("resnet_basic")[0].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert ops(made("resnet_basic")[2].proto).count("BatchNormalization") == len(norms)
    described = provenance(made("resnet_basic")[2])["layers"]
    assert len(described) == len(norms)
    for facts, norm in zip(described.values(), norms, strict=True):
        assert (facts["variance"], facts["epsilon"]) == ("unbiased", norm.eps)
        assert facts["momentum"] == pytest.approx(1 - norm.momentum)
    assert ops(made("lstm")[2].proto).count("LSTM") == 2  # two stacked layers, dropout between
    assert ops(made("lstm")[2].proto).count("Dropout") == 1
    assert ops(made("gru")[2].proto).count("GRU") == 2
    convolutions = [m for m in made("resnext")[0].modules() if isinstance(m, torch.nn.Conv2d)]
    assert ops(made("resnext")[2].proto).count("Conv") == len(convolutions)  # grouped ones are one


def test_tied_weights_are_one_initializer() -> None:
    _, conversion, export = made("gpt")
    tied = [e for e in conversion.weights if e.tied_to is not None]
    assert tied
    variables = provenance(export)["variables"]
    assert [v["tied"] for v in variables.values() if v["torch_name"] == tied[0].tied_to] == [[tied[0].torch_name]]


def test_a_saved_conversion_is_recognised(tmp_path: Path) -> None:
    _, conversion, export = made("multi_input")
    conversion.save(tmp_path / "m.keras")
    again = to_onnx(tmp_path / "m.keras")
    assert provenance(again)["variables"] == provenance(export)["variables"]
    assert again.proto.graph == export.proto.graph


def test_a_plain_keras_file(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    assert provenance(to_onnx(str(tmp_path / "m.keras")))["source"] == "keras"

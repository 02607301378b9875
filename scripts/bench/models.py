"""What the benchmarks run: full-size models by their usual names, with the hand-written keras.applications twin where
there is one.

The torch side comes from transformers (extra `hf`), built from its config: random weights, no network. ResNet-50 has
its stride where keras.applications has it, in the first 1x1 convolution; elsewhere it would do more work than its twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class BenchModel:
    """`build` makes the torch module, `inputs(batch)` its example, `twin` the same architecture written in Keras."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], torch.Tensor]
    twin: Callable[[], Any] | None = None


class Logits(torch.nn.Module):
    """A transformers classifier as a function of one tensor."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).logits


def _hf(name: str, **config: Any) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        import transformers

        made = getattr(transformers, f"{name}Config")(num_labels=1000, **config)
        kind = "ForSequenceClassification" if name == "Bert" else "ForImageClassification"
        return Logits(getattr(transformers, f"{name}{kind}")(made))

    return build


def _twin(name: str) -> Callable[[], Any]:
    def build() -> Any:
        import keras

        return getattr(keras.applications, name)(weights=None, classifier_activation=None)

    return build


def _image(size: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.randn(batch, 3, size, size)


def _ids(length: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.randint(0, 1000, (batch, length))


MODELS = {
    m.name: m
    for m in (
        BenchModel("resnet50", _hf("ResNet", downsample_in_bottleneck=True), _image(224), _twin("ResNet50")),
        BenchModel("mobilenet_v2", _hf("MobileNetV2"), _image(224), _twin("MobileNetV2")),
        BenchModel(
            "efficientnet_b0",
            _hf("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
            _image(224),
            _twin("EfficientNetB0"),
        ),
        BenchModel("convnext_tiny", _hf("ConvNext"), _image(224), _twin("ConvNeXtTiny")),
        BenchModel(
            "vit_small", _hf("ViT", hidden_size=384, num_attention_heads=6, intermediate_size=1536), _image(224)
        ),
        BenchModel(
            "bert_mini",
            _hf("Bert", hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024),
            _ids(128),
        ),
    )
}

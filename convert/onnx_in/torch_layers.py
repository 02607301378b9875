"""Layers that torch.nn lacks. They are in no file but by name, so that a module can be pickled and exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FrozenBatchNorm",
    "GaussianDropout",
    "GaussianNoise",
    "SharedAlphaDropout",
    "SharedDropout",
]


class _KerasBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`one_op`: set while the way back to Keras is traced, so that it meets aten.batch_norm on the running statistics,
    whatever this layer does to them."""

    moves_by_population = True  # what the way back asks for
    one_op = False
    _version = 1  # of the state dict: torch's with 2 has a counter of batches, which ONNX and Keras do not have

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        del self.num_batches_tracked

    def reset_running_stats(self) -> None:
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **options: Any) -> None:
        if "num_batches_tracked" not in self._buffers:
            state_dict.pop(f"{prefix}num_batches_tracked", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *arguments, **options)

    def _normalised(self, x: torch.Tensor, batch: bool, tracked: bool) -> torch.Tensor:
        """By the batch's statistics or the running ones. Not nn.functional's, which refuses one value per channel."""
        mean, var = (self.running_mean, self.running_var) if tracked else (None, None)
        momentum = 0.0 if self.momentum is None else self.momentum
        cudnn = torch.backends.cudnn.enabled
        y: torch.Tensor = torch.batch_norm(x, self.weight, self.bias, mean, var, batch, momentum, self.eps, cudnn)
        return y


class _PopulationVariance(_KerasBatchNorm):
    """Batch normalisation whose running variance moves by the batch's own variance (divided by n), as ONNX's and Keras'
    does; torch's moves by the estimate for the population (divided by n - 1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        if self.one_op or not self.training:
            return self._normalised(x, batch=self.training, tracked=True)
        self._move(x.detach())
        return self._normalised(x, batch=True, tracked=False)

    def _move(self, x: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class BatchNorm1d(_PopulationVariance, nn.BatchNorm1d):
    """nn.BatchNorm1d on (n, c) or (n, c, l), moving by the population variance."""


class BatchNorm2d(_PopulationVariance, nn.BatchNorm2d):
    """nn.BatchNorm2d on (n, c, h, w), moving by the population variance."""


class BatchNorm3d(_PopulationVariance, nn.BatchNorm3d):
    """nn.BatchNorm3d on (n, c, d, h, w), moving by the population variance."""


class FrozenBatchNorm(_KerasBatchNorm):
    """Batch normalisation by the running statistics in both modes: Keras' with `trainable` off."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any rank will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._normalised(x, batch=False, tracked=True)


class GaussianNoise(nn.Module):
    """Adds noise of this standard deviation in train mode."""

    def __init__(self, stddev: float) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x) * self.stddev if self.training else x

    def extra_repr(self) -> str:
        return f"stddev={self.stddev}"


class _Random(nn.Module):
    """p: the share that is dropped. axes: along these all places share one draw."""

    def __init__(self, p: float, axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.p, self.axes = p, axes

    def drawn(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor like x, of size 1 along `axes`."""
        return x.new_empty([1 if i in self.axes else size for i, size in enumerate(x.shape)])

    def extra_repr(self) -> str:
        return f"p={self.p}" + (f", axes={self.axes}" if self.axes else "")


class GaussianDropout(_Random):
    """Multiplies by noise of mean 1 and standard deviation sqrt(p / (1 - p)) in train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        noise: torch.Tensor = torch.randn_like(self.drawn(x)) * (self.p / (1 - self.p)) ** 0.5
        return x * (1 + noise)


class SharedDropout(_Random):
    """Dropout of whole stretches along `axes`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        kept: torch.Tensor = x * (torch.rand_like(self.drawn(x)) >= self.p)
        return kept / (1 - self.p)


class SharedAlphaDropout(_Random):
    """nn.AlphaDropout of whole stretches along `axes`: keeps mean and variance of what SELU gives.
    https://arxiv.org/abs/1706.02515"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        low = -1.6732632423543772 * 1.0507009873554805
        keep = torch.rand_like(self.drawn(x)) >= self.p
        a = float(((1 - self.p) * (1 + self.p * low**2)) ** -0.5)
        return a * (torch.where(keep, x, low) - low * self.p)

"""A cause is named where the mistake was made, and nowhere else. Each row makes its mistake by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.explaining.causes import Fault, likely_causes, parameter_causes
from isomorph.parity.explaining.fault import plain_causes
from isomorph.parity.runners.torch_trace import Live

Mistake = Callable[[Any, Tensor], Tensor]


def images(channels: int = 4, size: int = 6) -> Tensor:
    return torch.randn(2, channels, size, size + 2, dtype=torch.float64)


def rows(width: int = 6) -> Tensor:
    return torch.randn(5, width, dtype=torch.float64)


def moved(module: nn.Module) -> Any:
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.3, 2.0)
    return module.eval()


def _norm(m: Any, x: Tensor, root: Callable[[Tensor], Tensor], centre: bool = True) -> Tensor:
    mean = x.mean(-1, keepdim=True) if centre else torch.zeros(())
    return (x - mean) / root(((x - mean) ** 2).mean(-1, keepdim=True)) * m.weight + m.bias


def _batch(m: Any, x: Tensor, eps: float) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.1, eps)


def _reset_before(m: Any, x: Tensor) -> Tensor:
    (wr, wz, wn), (ur, uz, un) = m.weight_ih_l0.chunk(3), m.weight_hh_l0.chunk(3)
    (br, bz, bn), (cr, cz, cn) = m.bias_ih_l0.chunk(3), m.bias_hh_l0.chunk(3)
    h, steps = torch.zeros(x.shape[0], m.hidden_size, dtype=x.dtype), []
    for t in range(x.shape[1]):
        r = torch.sigmoid(x[:, t] @ wr.T + h @ ur.T + br + cr)
        z = torch.sigmoid(x[:, t] @ wz.T + h @ uz.T + bz + cz)
        n = torch.tanh(x[:, t] @ wn.T + (r * h) @ un.T + bn + cn)
        h = (1 - z) * n + z * h
        steps.append(h)
    return torch.stack(steps, 1)


def _other(cls: Any, m: Any, **options: Any) -> Any:
    other = cls(**options).double().eval()
    other.load_state_dict(m.state_dict())
    return other


# name -> (module, input, the mistake, words that the cause must have)
MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Mistake, str]] = {
    "batch norm epsilon": (lambda: nn.BatchNorm2d(4), images, lambda m, x: _batch(m, x, 1e-3),
        "epsilon is 0.001, not 1e-05"),
    "odd epsilon": (lambda: nn.BatchNorm2d(4), images, lambda m, x: _batch(m, x, 3.7e-4),
        "epsilon is 0.00037, not 1e-05"),
    "batch statistics": (lambda: nn.BatchNorm2d(4), images, lambda m, x: F.batch_norm(
        x, None, None, m.weight, m.bias, True), "normalised with batch statistics"),
    "layer norm epsilon": (lambda: nn.LayerNorm(6), rows, lambda m, x: _norm(
        m, x, lambda v: (v + 1e-12).sqrt()), "epsilon is 1e-12, not 1e-05"),
    "epsilon outside": (lambda: nn.LayerNorm(6, eps=1e-3), rows, lambda m, x: _norm(
        m, x, lambda v: v.sqrt() + 1e-3), "epsilon is added outside the root"),
    "no mean": (lambda: nn.LayerNorm(6), rows, lambda m, x: _norm(
        m, x, lambda v: (v + 1e-5).sqrt(), centre=False), "the mean is not subtracted"),
    "group norm epsilon": (lambda: nn.GroupNorm(2, 4), images, lambda m, x: F.group_norm(
        x, 2, m.weight, m.bias, 1e-3), "epsilon is 0.001"),
    "groups": (lambda: nn.GroupNorm(2, 4), images, lambda m, x: F.group_norm(x, 4, m.weight, m.bias),
        "4 groups, not 2"),
    "rms norm epsilon": (lambda: nn.RMSNorm(6, eps=1e-6), rows, lambda m, x: F.rms_norm(
        x, (6,), m.weight, 1e-5), "epsilon is 1e-05, not 1e-06"),
    "instance norm epsilon": (lambda: nn.InstanceNorm2d(4), images, lambda m, x: F.instance_norm(x, eps=1e-3),
        "epsilon is 0.001"),
    "transposed weight": (lambda: nn.Linear(6, 6), rows, lambda m, x: x @ m.weight + m.bias,
        "square weight is transposed"),
    "no bias": (lambda: nn.Linear(6, 3), rows, lambda m, x: x @ m.weight.T, "the bias is missing"),
    "flipped kernel": (lambda: nn.Conv2d(4, 3, 3), images, lambda m, x: F.conv2d(
        x, m.weight.flip([2, 3]), m.bias), "the kernel is flipped"),
    "same padding": (lambda: nn.Conv2d(4, 3, 3, 2, 1), images, lambda m, x: F.conv2d(
        F.pad(x, (0, 1, 0, 1)), m.weight, m.bias, 2), "padding is asymmetric"),
    "padding swapped": (lambda: nn.Conv2d(4, 3, 3, 4, padding=(2, 1)), lambda: images(size=8),
        lambda m, x: F.conv2d(x, m.weight, m.bias, 4, (1, 2)), "the padding of height and width is exchanged"),
    "reflect": (lambda: nn.Conv2d(4, 3, 3, padding=1), images, lambda m, x: F.conv2d(
        F.pad(x, (1, 1, 1, 1), "reflect"), m.weight, m.bias), "padding mode reflect, not zeros"),
    "group order": (lambda: nn.Conv2d(4, 4, 3, groups=2), images, lambda m, x: m(x)[:, [0, 2, 1, 3]], "interleaved"),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1), images, lambda m, x: F.conv_transpose2d(
        x, m.weight.flip([2, 3]), m.bias, 2, 1), "the kernel is flipped"),
    "crop": (lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), images, lambda m, x: F.conv_transpose2d(
        x, m.weight, m.bias, 2)[:, :, :-2, :-2], "cropped from [0, 0]"),
    "pool of zeros": (lambda: nn.MaxPool2d(3, 2, 1), lambda: images() - 2, lambda m, x: F.max_pool2d(
        F.pad(x, (1, 1, 1, 1)), 3, 2), "padded with 0"),
    "count of padding": (lambda: nn.AvgPool2d(3, 2, 1), images, lambda m, x: F.avg_pool2d(
        x, 3, 2, 1, count_include_pad=False), "count_include_pad is False"),
    "corners": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), images, lambda m, x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True), "align_corners is True"),
    "exact": (lambda: nn.Upsample(size=(9, 11)), images, lambda m, x: F.interpolate(
        x, (9, 11), mode="nearest-exact"), "nearest-exact, not nearest"),
    "tanh": (nn.GELU, rows, lambda m, x: F.gelu(x, approximate="tanh"), "gelu (tanh), not GELU"),
    "slope": (lambda: nn.LeakyReLU(0.01), rows, lambda m, x: F.leaky_relu(x, 0.3), "negative slope is 0.3, not 0.01"),
    "float32 slope": (lambda: nn.LeakyReLU(0.1), rows, lambda m, x: F.leaky_relu(x, float(np.float32(0.1))),
        "(rounded to float32)"),
    "alpha": (lambda: nn.ELU(1.0), rows, lambda m, x: F.elu(x, 0.7), "alpha is 0.7, not 1"),
    "beta": (lambda: nn.Softplus(2.0), rows, lambda m, x: F.softplus(x), "beta is 1, not 2"),
    "axis": (lambda: nn.Softmax(-1), rows, lambda m, x: x.softmax(0), "over axis 0, not 1"),
    "log": (lambda: nn.Softmax(-1), rows, lambda m, x: x.log_softmax(-1), "log_softmax in its place"),
    "gates": (lambda: nn.LSTM(4, 3, batch_first=True), lambda: torch.randn(2, 5, 4).double(),
        lambda m, x: _reordered(m, (0, 2, 1, 3))(x)[0], "gates are in the order igfo, not ifgo"),
    "reset": (lambda: nn.GRU(4, 3, batch_first=True), lambda: torch.randn(2, 5, 4).double(), _reset_before,
        "reset_after=False"),
    "direction": (lambda: nn.GRU(4, 3, batch_first=True), lambda: torch.randn(2, 5, 4).double(),
        lambda m, x: m(x.flip(1))[0].flip(1), "it runs in the other direction"),
    "nhwc": (nn.Flatten, lambda: images(), lambda m, x: x.permute(0, 2, 3, 1).reshape(2, -1), "NHWC order, not NCHW"),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), lambda: images(8), lambda m, x: x.reshape(2, 2, 2, 2, 6, 8).permute(
        0, 3, 4, 1, 5, 2).reshape(2, 2, 12, 16), "(r, r, c), not (c, r, r)"),
}  # fmt: skip


# where another cause gives the same numbers: no epsilon is 1e-12; all padding after; two groups of two
AMBIGUOUS = ("layer norm epsilon", "same padding", "padding swapped", "group order")


def _reordered(m: Any, order: tuple[int, ...]) -> Any:
    other = nn.LSTM(4, 3, batch_first=True).double()
    state = {k: torch.cat([v.chunk(4)[i] for i in order]) for k, v in m.state_dict().items()}
    other.load_state_dict(state)
    return other


def fault(module: Any, x: Tensor, got: Tensor) -> Fault:
    with torch.no_grad():
        outputs = module(x)
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    return Fault(
        type(module).__name__, "m", "eval", (x.numpy(),), (first.numpy(),), (got.detach().numpy(),),
        lambda array: False, live=Live(module, (x,), {}),
    )  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_the_mistake_is_named(name: str) -> None:
    torch.manual_seed(3)
    make, draw, mistake, words = MODULES[name]
    module, x = moved(make()), draw()
    with torch.no_grad():
        found = likely_causes(fault(module, x, mistake(module, x)))
    assert words in found[0], found
    assert len(found) == 1 or name in AMBIGUOUS, found


@pytest.mark.parametrize("name", MODULES)
def test_no_cause_is_named_for_noise(name: str) -> None:
    torch.manual_seed(4)
    make, draw, _, _ = MODULES[name]
    module, x = moved(make()), draw()
    with torch.no_grad():
        outputs = module(x)
        right = outputs[0] if isinstance(outputs, tuple) else outputs
        wrong = right + 0.1 * torch.randn_like(right)
    assert likely_causes(fault(module, x, wrong)) == ()


def function_fault(function: Any, arrays: tuple[Tensor, ...], got: Tensor, **options: Any) -> Fault:
    expected = function(*arrays, **options)
    return Fault(
        f"F.{function.__name__}", "", "eval", tuple(a.numpy() for a in arrays), (expected.numpy(),), (got.numpy(),),
        lambda array: False, live=Live(function, arrays, options),
    )  # fmt: skip


def test_causes_of_functions() -> None:
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, 2, 4, 3, dtype=torch.float64) for _ in range(3))
    attend = F.scaled_dot_product_attention
    for got, words in (
        (attend(q, k, v, scale=1.0), "not scaled by 1/sqrt(3)"),
        (attend(q, k, v, is_causal=True), "a causal mask is applied"),
        (attend(q, k, v, scale=0.4), "the scale is 0.4, not 0.57735"),
    ):
        found = likely_causes(function_fault(attend, (q, k, v), got))
        assert any(words in text for text in found), found
    x = torch.randn(4, 5, dtype=torch.float64) * 1e-3
    got = x / (x.norm(dim=1, keepdim=True) + 1e-3)
    found = likely_causes(function_fault(F.normalize, (x,), got, eps=1e-3))
    assert found == ("epsilon is added to the norm, not a bound below",)


def test_two_causes_that_fit_equally_are_both_named() -> None:
    """Of one row, softmax over the rows and over nothing cannot be told apart."""
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    found = likely_causes(fault(nn.Softmax(2), x, torch.ones_like(x)))
    assert {"over axis 0, not 2", "over axis 1, not 2"} <= set(found)


def test_a_value_that_the_converted_model_has_elsewhere_counts_only_without_a_better_one() -> None:
    x = rows()
    seen = F.gelu(x, approximate="tanh").numpy()
    unplaced = Fault("GELU", "m", "eval", (x.numpy(),), (F.gelu(x).numpy(),), (None,),
                     lambda array: bool(np.allclose(array, seen)), live=Live(nn.GELU(), (x,), {}))  # fmt: skip
    assert likely_causes(unplaced) == ("gelu (tanh), not GELU",)


A = np.random.default_rng(0).standard_normal((3, 4, 5))
PLAIN = {
    "a constant factor of 1.25": A * 1.25,
    "a constant factor of 2 (the root of a size, 4)": A * 2,
    "a constant offset of 0.5": A + 0.5,
    "the sign is reversed": -A,
    "all zeros": A * 0,
    "axis 1 is reversed": A[:, ::-1],
    "axis 2 is shifted by 1": np.roll(A, 1, 2),
    "axis 2 is shifted by -1": np.roll(A, -1, 2),
    "permuted elements: axis 1 is in another order": A[:, [0, 2, 1, 3]],
    "permuted elements (layout)": A.transpose(0, 2, 1).reshape(A.shape),
    "rounded to float16": A.astype(np.float16).astype(np.float64),
    "rounded to float32": A.astype(np.float32).astype(np.float64),
    "clipped to at most 0.75": np.minimum(A, 0.75),
    "the exponential": np.exp(A),
    "an offset for each entry of axis 1": A + np.array([1.0, 2.0, 3.0, 4.0])[:, None],
    "a factor for each entry of axis 2": A * np.arange(1.0, 6.0),
    "only entries 1 of axis 0 differ": np.where(np.arange(3)[:, None, None] == 1, A**3, A),
}


@pytest.mark.parametrize("words", PLAIN)
def test_what_the_numbers_alone_say(words: str) -> None:
    (found,) = plain_causes(A, PLAIN[words])
    assert words in found


def test_the_numbers_alone_say_nothing_of_noise_or_of_one_element() -> None:
    noise = np.random.default_rng(1).standard_normal(A.shape)
    assert plain_causes(A, A + 0.1 * noise) == ()
    assert plain_causes(A, A) == ()
    assert plain_causes(np.array([1.0]), np.array([1.7])) == ()
    assert plain_causes(A, A.astype(np.float32), (A,), unit=1e-6) == ()


def test_the_output_that_is_its_input() -> None:
    assert plain_causes(np.tanh(A), A, (A,)) == ("the output is its input (identity)",)


def test_running_statistics() -> None:
    norm = nn.BatchNorm1d(4, momentum=0.1).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    old, live = norm.running_var.numpy().copy(), Live(norm, (x,), {})
    biased = 0.9 * old + 0.1 * x.var(0, unbiased=False).numpy()
    right = 0.9 * old + 0.1 * x.var(0).numpy()
    swapped = 0.1 * old + 0.9 * x.var(0).numpy()
    for got, words in ((biased, "biased: divided by n = 7"), (swapped, "swapped"), (old, "not updated")):
        found = parameter_causes("buffer", "v", right, got, old, live, (x.numpy(),))
        assert len(found) == 1
        assert words in found[0]


def test_a_gradient_that_is_zero_is_a_missing_path() -> None:
    found = parameter_causes("parameter gradient", "w", A, A * 0, None, None, ())
    assert found == ("no gradient reaches parameter w (zero or missing path)",)

"""Productions: layers with parameters, and what a program does with modules (sharing, nesting, buffers, modes)."""

from __future__ import annotations

from isomorph.parity.fuzzing.grammar import IMAGE, SEQUENCE, VECTOR, Growth, Shared, Value, divisors, grows, window

__all__: list[str] = []
ANY = (*IMAGE, *SEQUENCE, *VECTOR)


def common_divisors(a: int, b: int) -> list[int]:
    return [d for d in divisors(a) if b % d == 0]


@grows(*IMAGE)
def conv2d(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    out = g.pick(channels, 4, 6, 8)
    kernel = g.pick(*[k for k in (1, 3, 2, 5) if k <= min(height, width) + 2 * (k // 2)])
    padding = g.pick(*[p for p in (kernel // 2, 0) if window(min(height, width), kernel, 1, p) > 0])
    dilation = g.pick(*[d for d in (1, 2) if window(min(height, width), kernel, 1, padding, d) > 0])
    stride = g.pick(1, 2)
    groups = g.pick(*common_divisors(channels, out))
    modes = [
        m for m in ("zeros", "replicate", "circular", "reflect") if m == "zeros" or 0 < padding < min(height, width)
    ]
    options = "".join(
        f", {name}={value!r}"
        for name, value, usual in (
            ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1), ("groups", groups, 1),
            ("padding_mode", g.pick(*modes), "zeros"),
        )
        if value != usual
    )  # fmt: skip
    bias = g.flag("bias=False")
    layer = g.layer(f"nn.Conv2d({channels}, {out}, {kernel}{options}{bias})", "conv")
    sizes = [window(size, kernel, stride, padding, dilation) for size in (height, width)]
    return g.then(f"{layer}({x.name})", (out, *sizes))


@grows(*IMAGE)
def conv_same(g: Growth, x: Value) -> Value | None:
    channels = x.shape[0]
    kernel = g.pick((3, 3), (1, 3), (2, 2), (4, 1))
    dilation = g.pick(1, 2)
    layer = g.layer(f'nn.Conv2d({channels}, {channels}, {kernel}, padding="same", dilation={dilation})', "conv")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*IMAGE)
def conv_transpose2d(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    out = g.pick(channels, 4)
    kernel, stride = g.pick(2, 3, 1), g.pick(1, 2)
    padding = g.pick(*range(kernel // 2 + 1))
    extra = g.pick(*range(stride))
    groups = g.pick(*common_divisors(channels, out))
    layer = g.layer(
        f"nn.ConvTranspose2d({channels}, {out}, {kernel}, stride={stride}, padding={padding}, "
        f"output_padding={extra}, groups={groups})", "up",
    )  # fmt: skip
    sizes = [(size - 1) * stride - 2 * padding + kernel + extra for size in (height, width)]
    return g.then(f"{layer}({x.name})", (out, *sizes)) if min(sizes) > 0 else None


@grows(*SEQUENCE)
def conv1d(g: Growth, x: Value) -> Value | None:
    length, channels = x.shape
    out, kernel = g.pick(channels, 4, 6), g.pick(*[k for k in (1, 3, 2) if k <= length])
    stride, groups = g.pick(1, 2), g.pick(*common_divisors(channels, out))
    padding = g.pick(kernel // 2, 0)
    layer = g.layer(
        f"nn.Conv1d({channels}, {out}, {kernel}, stride={stride}, padding={padding}, groups={groups})", "conv"
    )
    return g.then(f"{layer}({x.name}.transpose(1, 2)).transpose(1, 2)", (window(length, kernel, stride, padding), out))


@grows(*SEQUENCE)
def causal_conv1d(g: Growth, x: Value) -> Value | None:
    kernel = g.pick(2, 3, 4)
    layer = g.layer(f"nn.Conv1d({x.shape[1]}, {x.shape[1]}, {kernel}, groups={x.shape[1]})", "conv")
    return g.then(f"{layer}(F.pad({x.name}.transpose(1, 2), ({kernel - 1}, 0))).transpose(1, 2)", x.shape)


@grows(*ANY)
def linear(g: Growth, x: Value) -> Value | None:
    out = g.pick(x.shape[-1], 4, 6, 1)
    layer = g.layer(f"nn.Linear({x.shape[-1]}, {out}{g.flag('bias=False')})")
    g.shared.append(Shared(layer, x.shape[-1:], (out,)))
    return g.then(f"{layer}({x.name})", (*x.shape[:-1], out))


@grows(*ANY)
def again(g: Growth, x: Value) -> Value | None:
    """One layer in two places: one that stands already, or a new one called twice."""
    fitting = [(s, v) for v in (x, *g.others(lambda v: v != x)) for s in g.shared if s.before == v.shape[-1:]]
    if fitting:
        layer, value = g.pick(*fitting)
        return g.then(f"{layer.attribute}({value.name})", (*value.shape[:-1], *layer.after))
    kind = f"nn.Conv2d({x.shape[0]}, {x.shape[0]}, 3, padding=1)" if x.kind == "image" else ""
    made = g.layer(kind or f"nn.Linear({x.shape[-1]}, {x.shape[-1]})", "shared")
    between = g.pick("F.relu({y})", "{y} * 0.5", "torch.tanh({y}) + {x}").format(y=f"{made}({x.name})", x=x.name)
    return g.then(f"{made}({between})", x.shape)


@grows(*ANY)
def tied(g: Growth, x: Value) -> Value | None:
    """The transposed weight of a Linear that stands already; or of a new one, there and back."""
    fitting = [(s, v) for v in (x, *g.others(lambda v: v != x)) for s in g.shared if s.after == v.shape[-1:]]
    if not fitting:
        made = g.layer(f"nn.Linear({x.shape[-1]}, 4)")
        return g.then(f"F.linear({made}({x.name}), {made}.weight.t())", x.shape)
    layer, value = g.pick(*fitting)
    return g.then(f"F.linear({value.name}, {layer.attribute}.weight.t())", (*value.shape[:-1], *layer.before))


@grows(*IMAGE)
def batch_norm2d(g: Growth, x: Value) -> Value | None:
    options = g.flag("momentum=0.3") + g.flag("eps=1e-3") + g.flag("affine=False")
    layer = g.layer(f"nn.BatchNorm2d({x.shape[0]}{options})", "norm")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*SEQUENCE, *VECTOR)
def batch_norm1d(g: Growth, x: Value) -> Value | None:
    layer = g.layer(
        f"nn.BatchNorm1d({x.shape[0]}{g.flag('momentum=0.3')}{g.flag('track_running_stats=False')})", "norm"
    )
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*IMAGE, *SEQUENCE)
def group_norm(g: Growth, x: Value) -> Value | None:
    groups = g.pick(*divisors(x.shape[0]))
    if x.shape[0] // groups * x.shape[-1] < 2:
        return None
    layer = g.layer(f"nn.GroupNorm({groups}, {x.shape[0]}{g.flag('affine=False')})", "norm")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*IMAGE)
def instance_norm(g: Growth, x: Value) -> Value | None:
    if x.shape[1] * x.shape[2] < 2:
        return None
    layer = g.layer(f"nn.InstanceNorm2d({x.shape[0]}{g.flag('affine=True')})", "norm")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*ANY)
def layer_norm(g: Growth, x: Value) -> Value | None:
    count = g.pick(*range(1, len(x.shape) + 1))
    shape = list(x.shape[-count:])
    layer = g.layer(f"nn.LayerNorm({shape}{g.pick('', ', eps=1e-3', ', elementwise_affine=False')})", "norm")
    return g.then(f"{layer}({x.name})", x.shape) if shape != [1] * count else None


@grows(*IMAGE)
def channels_last_norm(g: Growth, x: Value) -> Value | None:
    if x.shape[0] < 2:
        return None
    layer = g.layer(f"nn.LayerNorm({x.shape[0]})", "norm")
    return g.then(f"{layer}({x.name}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", x.shape)


@grows(*SEQUENCE, *VECTOR)
def rms_norm(g: Growth, x: Value) -> Value | None:
    if x.shape[-1] < 2:
        return None
    layer = g.layer(f"nn.RMSNorm({x.shape[-1]}{g.flag('eps=1e-3')})", "norm")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*SEQUENCE)
def recurrent(g: Growth, x: Value) -> Value | None:
    kind, hidden = g.pick("GRU", "LSTM", "RNN"), g.pick(4, 3)
    both = g.pick(False, True)
    options = g.flag("num_layers=2") + (", bidirectional=True" if both else "")
    layer = g.layer(f"nn.{kind}({x.shape[1]}, {hidden}, batch_first=True{options})", "rnn")
    width = hidden * (2 if both else 1)
    if g.pick(False, True):
        state = f"{layer}({x.name})[1]" + ("[0]" if kind == "LSTM" else "")
        return g.then(f"{state}[-1]", (hidden,))
    return g.then(f"{layer}({x.name})[0]", (x.shape[0], width))


@grows(*SEQUENCE)
def attention(g: Growth, x: Value) -> Value | None:
    width = x.shape[1]
    heads = g.pick(*divisors(width)[:3])
    layer = g.layer(f"nn.MultiheadAttention({width}, {heads}, batch_first=True{g.flag('bias=False')})", "attention")
    need = g.pick("need_weights=False", "need_weights=True")
    return g.then(f"{layer}({x.name}, {x.name}, {x.name}, {need})[0]", x.shape)


@grows(*SEQUENCE)
def cross_attention(g: Growth, x: Value) -> Value | None:
    others = g.others(lambda v: len(v.shape) == 2 and v.name != x.name)
    if not others:
        return None
    other = g.pick(*others)
    layer = g.layer(
        f"nn.MultiheadAttention({x.shape[1]}, 1, kdim={other.shape[1]}, vdim={other.shape[1]}, batch_first=True)",
        "attention",
    )
    return g.then(f"{layer}({x.name}, {other.name}, {other.name}, need_weights=False)[0]", x.shape)


@grows(*SEQUENCE)
def encoder_layer(g: Growth, x: Value) -> Value | None:
    width = x.shape[1]
    if width < 2:
        return None
    heads, first = g.pick(*divisors(width)[:2]), g.flag("norm_first=True")
    act = g.pick("relu", "gelu")
    layer = g.layer(
        f'nn.TransformerEncoderLayer({width}, {heads}, 8, dropout=0.1, activation="{act}", batch_first=True{first})',
        "encoder",
    )
    return g.then(f"{layer}({x.name})", x.shape)


@grows("ids")
def embedding(g: Growth, x: Value) -> Value | None:
    width = g.pick(4, 6)
    layer = g.layer(f"nn.Embedding(10, {width}{g.flag('padding_idx=1')})")
    scale = g.pick("", f" * {width}**0.5")
    return g.then(f"{layer}({x.name}){scale}", (x.shape[0], width))


@grows("ids")
def one_hot(g: Growth, x: Value) -> Value | None:
    return g.then(f"F.one_hot({x.name}, 10).float()", (x.shape[0], 10))


@grows(*VECTOR)
def bilinear(g: Growth, x: Value) -> Value | None:
    other = g.pick(*[x, *g.others(lambda v: len(v.shape) == 1)])
    layer = g.layer(f"nn.Bilinear({x.shape[0]}, {other.shape[0]}, 4)")
    return g.then(f"{layer}({x.name}, {other.name})", (4,))


@grows(*ANY)
def activation(g: Growth, x: Value) -> Value | None:
    layer = g.layer(
        g.pick(
            "nn.ReLU()", "nn.GELU()", "nn.SiLU()", "nn.Tanh()", "nn.Sigmoid()", "nn.LeakyReLU(0.1)", "nn.ELU()",
            "nn.PReLU()", "nn.Hardswish()", "nn.Softplus()", 'nn.GELU(approximate="tanh")', "nn.SELU()", "nn.Mish()",
            "nn.ReLU6()", "nn.Hardsigmoid()", "nn.Softsign()", "nn.CELU(0.7)", "nn.ReLU(inplace=True)",
            "nn.Hardtanh(-0.5, 2.0)", "nn.Softplus(beta=2.0)", "nn.LogSigmoid()", "nn.Tanhshrink()",
            "nn.Softshrink(0.3)", "nn.Hardshrink(0.3)", "nn.Threshold(0.2, -1.0)",
        ),
        "act",
    )  # fmt: skip
    source = f"{x.name} * 1.0" if "inplace" in g._holds[-1] else x.name  # what others still read is not written to
    return g.then(f"{layer}({source})", x.shape)


@grows(*ANY)
def dropout(g: Growth, x: Value) -> Value | None:
    if len(x.shape) == 3:
        kind = g.pick("Dropout", "Dropout2d", "AlphaDropout")
    else:
        kind = g.pick("Dropout", "AlphaDropout")
    layer = g.layer(f"nn.{kind}({g.pick(0.5, 0.2)})", "dropout")
    return g.then(f"{layer}({x.name})", x.shape)


@grows(*ANY)
def block(g: Growth, x: Value) -> Value | None:
    """Layers in a Sequential; as a residual branch or not."""
    width = x.shape[-1]
    hidden = g.pick(4, 6)
    act = g.pick("nn.ReLU()", "nn.GELU()", "nn.Tanh()")
    last = g.pick("", ", nn.Dropout(0.3)")
    layer = g.layer(f"nn.Sequential(nn.Linear({width}, {hidden}), {act}, nn.Linear({hidden}, {width}){last})", "block")
    return g.then(g.pick(f"{x.name} + {layer}({x.name})", f"{layer}({x.name})"), x.shape)


@grows(*IMAGE)
def residual_block(g: Growth, x: Value) -> Value | None:
    c = x.shape[0]
    layer = g.layer(
        f"nn.Sequential(nn.Conv2d({c}, {c}, 3, padding=1, bias=False), nn.BatchNorm2d({c}), nn.ReLU(), "
        f"nn.Conv2d({c}, {c}, 3, padding=1, bias=False), nn.BatchNorm2d({c}))", "block",
    )  # fmt: skip
    return g.then(f"F.relu({x.name} + {layer}({x.name}))", x.shape)


@grows(*IMAGE)
def squeeze_excite(g: Growth, x: Value) -> Value | None:
    down = g.layer(f"nn.Conv2d({x.shape[0]}, 2, 1)", "conv")
    up = g.layer(f"nn.Conv2d(2, {x.shape[0]}, 1)", "conv")
    gate = g.pick("torch.sigmoid", "F.hardsigmoid")
    return g.then(f"{x.name} * {gate}({up}(F.relu({down}({x.name}.mean((2, 3), keepdim=True)))))", x.shape)


@grows(*ANY)
def list_of_layers(g: Growth, x: Value) -> Value | None:
    count, width = g.pick(2, 3), x.shape[-1]
    layers = g.layer(f"nn.ModuleList(nn.Linear({width}, {width}) for _ in range({count}))", "layers")
    y = g.local(x.name)
    g.line(f"for layer in {layers}:")
    g.line(f"    {y} = {g.pick('torch.tanh(layer({y}))', '{y} + layer({y})', 'layer({y}).relu()').format(y=y)}")
    return g.then(y, x.shape)


@grows(*ANY)
def parameter(g: Growth, x: Value) -> Value | None:
    """Broadcast against a parameter that has some of the axes."""
    start = g.pick(*range(len(x.shape) - 1, -1, -1))
    shape = [g.pick(n, 1) for n in x.shape[start:]]
    weight = g.parameter(*shape)
    return g.then(g.pick(f"{x.name} * {weight}", f"{x.name} + {weight}", f"{weight} - {x.name}",
                         f"torch.maximum({x.name}, {weight})"), x.shape)  # fmt: skip


@grows(*ANY)
def buffer(g: Growth, x: Value) -> Value | None:
    held = g.buffer(f"torch.linspace(0.5, 1.5, {x.shape[-1]})")
    return g.then(g.pick(f"{x.name} * {held}", f"{x.name} - {held}"), x.shape)


@grows(*ANY)
def updated_buffer(g: Growth, x: Value) -> Value | None:
    """A running mean over everything, moved in train mode."""
    held = g.buffer("torch.zeros(())")
    g.line("if self.training:")
    g.line(f"    {held}.mul_(0.9).add_(0.1 * {x.name}.detach().mean())")
    return g.then(f"{x.name} - {held}", x.shape)


@grows(*ANY)
def by_mode(g: Growth, x: Value) -> Value | None:
    y = g.local(x.name)
    g.line("if self.training:")
    g.line(f"    {y} = {g.pick('{y} * 0.5', 'torch.tanh({y})', '{y} + {y}.mean()').format(y=y)}")
    return g.then(y, x.shape)

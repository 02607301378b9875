"""Productions: functions and tensor methods. What they write is ordinary PyTorch."""

from __future__ import annotations

from isomorph.parity.fuzzing.grammar import IMAGE, SEQUENCE, VECTOR, Growth, Value, divisors, grows, window
from isomorph.parity.fuzzing.grammar_layers import ANY

__all__: list[str] = []


@grows(*ANY)
def elementwise(g: Growth, x: Value) -> Value | None:
    text = g.pick(
        "torch.tanh({x})", "F.relu({x})", "torch.sigmoid({x})", "{x}.abs()", "{x} * 2.0", "1.0 - {x}",
        "{x}.square()", "torch.sin({x})", "torch.exp(torch.tanh({x}))", "torch.sqrt({x}.abs() + 0.1)",
        "torch.rsqrt({x}.square() + 1.0)", "torch.log1p({x}.abs())", "torch.erf({x})", "{x}.clamp(-1.0, 1.0)",
        "{x}.clamp(min=0.2)", "torch.atan({x})", "F.gelu({x})", "F.leaky_relu({x}, 0.2)", "{x} / ({x}.abs() + 1.0)",
        "-{x}", "{x} ** 3", "torch.where({x} > 0, {x}, 0.1 * {x})", "{x}.masked_fill({x} > 1.0, 0.5)",
        "({x} > 0).to({x}.dtype) * {x}", "{x} * {x}.detach()", "torch.reciprocal({x}.square() + 1.0)",
        "torch.expm1({x}.clamp(max=1.0))", "F.softplus({x})", "F.relu6({x})", "torch.floor({x}) + {x}",
        "torch.sign({x}) + {x}", "F.hardswish({x})", "torch.cos({x}) * {x}",
        "torch.addcmul({x}, {x}, {x}, value=0.1)", "{x}.float() + 0.5", "torch.remainder({x}, 1.5)",
        "F.elu({x}, 0.7)", "torch.nan_to_num({x})", "torch.logaddexp({x}, torch.zeros_like({x}))",
    )  # fmt: skip
    return g.then(text.format(x=x.name), x.shape)


@grows(*ANY)
def combine(g: Growth, x: Value) -> Value | None:
    """With an earlier value of the same shape; with itself where there is none."""
    other = g.pick(*(g.others(lambda v: v.shape == x.shape and v.name != x.name) or [x]))
    text = g.pick(
        "{x} + {y}", "{x} * {y}", "{x} - {y}", "torch.maximum({x}, {y})", "torch.where({x} > {y}, {x}, {y} * 0.5)",
        "{x} * torch.sigmoid({y})", "torch.lerp({x}, {y}, 0.3)", "{x} / ({y}.abs() + 1.0)",
        "torch.stack([{x}, {y}]).sum(0)", "torch.atan2({x}, {y} + 5.0)",
        "torch.minimum({x}, {y})", "torch.add({x}, {y}, alpha=0.5)", "torch.hypot({x}, {y} + 3.0)",
    )  # fmt: skip
    return g.then(text.format(x=x.name, y=other.name), x.shape)


@grows(*ANY)
def broadcast(g: Growth, x: Value) -> Value | None:
    """With a reduction of itself that keeps its axes."""
    axis = g.pick(*range(len(x.shape), 0, -1))
    text = g.pick("{x} - {x}.mean({d}, keepdim=True)", "{x} * {x}.amax({d}, keepdim=True)",
                  "{x} / ({x}.norm(dim={d}, keepdim=True) + 1.0)", "{x} + {x}.sum({d}, keepdim=True)",
                  "{x} - {x}.logsumexp({d}, keepdim=True)")  # fmt: skip
    return g.then(text.format(x=x.name, d=axis), x.shape)


@grows(*ANY)
def concatenate(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape)))
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    fitting = g.others(lambda v: len(v.shape) == len(x.shape) and v.shape[:axis] + v.shape[axis + 1 :] == rest)
    other = g.pick(*fitting)
    shape = list(x.shape)
    shape[axis] += other.shape[axis]
    return g.then(f"torch.cat([{x.name}, {other.name}], {axis + 1})", shape)


@grows(*ANY)
def split(g: Growth, x: Value) -> Value | None:
    """Cut in two along an axis, and put together again."""
    axis = g.pick(*[a for a, n in enumerate(x.shape) if n % 2 == 0] or [-1])
    if axis < 0:
        return None
    half = list(x.shape)
    half[axis] //= 2
    way = g.pick("chunk(2, {d})", "split({n}, {d})", "tensor_split(2, {d})").format(d=axis + 1, n=half[axis])
    left, right = g.name("a"), g.name("b")
    g.line(f"{left}, {right} = {x.name}.{way}")
    text, whole = g.pick(
        ("{a} * torch.sigmoid({b})", False), ("torch.cat([{b}, {a}], {d})", True), ("{a} + {b}", False),
        ("torch.cat([{a}, torch.tanh({b})], {d})", True), ("torch.stack([{a}, {b}], {d}).flatten({d}, {e})", True),
    )  # fmt: skip
    return g.then(text.format(a=left, b=right, d=axis + 1, e=axis + 2), x.shape if whole else half)


@grows(*ANY)
def glu(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*[a for a, n in enumerate(x.shape) if n % 2 == 0] or [-1])
    if axis < 0:
        return None
    shape = list(x.shape)
    shape[axis] //= 2
    return g.then(f"F.glu({x.name}, {axis + 1})", shape)


@grows(*ANY)
def softmax(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape), 0, -1))
    text = g.pick(
        "F.softmax({x}, {d})", "F.log_softmax({x}, {d})", "F.softmin({x}, {d})", "torch.softmax({x} * 0.5, dim={d})"
    )
    return g.then(text.format(x=x.name, d=axis), x.shape)


@grows(*ANY)
def cumulative(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape), 0, -1))
    text = g.pick("{x}.cumsum({d})", "{x}.cummax({d}).values", "{x}.tanh().cumprod({d})", "{x}.logcumsumexp({d})")
    return g.then(text.format(x=x.name, d=axis), x.shape)


@grows(*ANY)
def slicing(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape)))
    n = x.shape[axis]
    if n < 2:
        return None
    text, length = g.pick(("1:", n - 1), (":-1", n - 1), ("::2", (n + 1) // 2), ("-2:", 2), (f"{n - 1}:", 1))
    shape = list(x.shape)
    shape[axis] = length
    return g.then(f"{x.name}[{':, ' * (axis + 1)}{text}]", shape)


@grows(*ANY)
def indexing(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape)))
    n = x.shape[axis]
    chosen = [g.pick(*range(n)) for _ in range(g.pick(2, 3))]
    shape = list(x.shape)
    shape[axis] = len(chosen)
    index = g.buffer(f"torch.tensor({chosen})")
    before = ":, " * (axis + 1)
    text = g.pick(f"{x.name}[{before}{index}]", f"{x.name}.index_select({axis + 1}, {index})",
                  f"{x.name}[{before}{chosen}]")  # fmt: skip
    return g.then(text, shape)


@grows(*ANY)
def pick_one(g: Growth, x: Value) -> Value | None:
    """Drop an axis."""
    if len(x.shape) < 2:
        return None
    axis = g.pick(*range(len(x.shape)))
    n = x.shape[axis]
    text = g.pick("{x}.mean({d})", "{x}.sum({d})", "{x}.amax({d})", "{x}.max({d}).values", "{x}.select({d}, {i})",
                  "{x}.std({d}, unbiased=False) + 0.0", "{x}.logsumexp({d})", "{x}.prod({d})", "{x}.norm(dim={d})",
                  "{x}.var({d})" if n > 1 else "{x}.mean({d})", "{x}.unbind({d})[{i}]", "{x}.amin({d})",
                  "{x}.median({d}).values")  # fmt: skip
    index = g.pick(0, n - 1, -1)
    return g.then(text.format(x=x.name, d=axis + 1, i=index), x.shape[:axis] + x.shape[axis + 1 :])


@grows(*ANY)
def arrange(g: Growth, x: Value) -> Value | None:
    """Flip, roll or turn."""
    axis = g.pick(*range(len(x.shape), 0, -1))
    text = g.pick("{x}.flip({d})", "{x}.roll(1, {d})", "{x}.roll(-2, {d})", "torch.roll({x}, (1, 1), ({d}, {d}))")
    return g.then(text.format(x=x.name, d=axis), x.shape)


@grows(*IMAGE, *SEQUENCE)
def permute(g: Growth, x: Value) -> Value | None:
    first, second = g.pick(*[(a, b) for a in range(len(x.shape)) for b in range(a + 1, len(x.shape))])
    shape = list(x.shape)
    shape[first], shape[second] = shape[second], shape[first]
    text = g.pick("{x}.transpose({a}, {b})", "{x}.transpose({a}, {b}).contiguous()", "{x}.swapaxes({b}, {a})")
    return g.then(text.format(x=x.name, a=first + 1, b=second + 1), shape)


@grows(*IMAGE)
def rearrange(g: Growth, x: Value) -> Value | None:
    order = g.pick((2, 3, 1), (3, 1, 2), (3, 2, 1))
    return g.then(f"{x.name}.permute(0, {', '.join(map(str, order))})", [x.shape[a - 1] for a in order])


@grows(*IMAGE, *SEQUENCE)
def reshape(g: Growth, x: Value) -> Value | None:
    """Another split of the same elements: rows become columns without a transpose."""
    size = 1
    for n in x.shape:
        size *= n
    first = g.pick(*[d for d in divisors(size) if d <= 12])
    if len(x.shape) == 3 and g.pick(False, True):
        second = g.pick(*[d for d in divisors(size // first) if d <= 12])
        return g.then(
            f"{x.name}.reshape(-1, {first}, {second}, {size // first // second})",
            (first, second, size // first // second),
        )
    way = g.pick(
        "{x}.reshape({x}.shape[0], {a}, {b})",
        "{x}.reshape(-1, {a}, {b})",
        "{x}.contiguous().view({x}.size(0), {a}, -1)",
    )
    return g.then(way.format(x=x.name, a=first, b=size // first), (first, size // first))


@grows(*ANY)
def pad(g: Growth, x: Value) -> Value | None:
    last = x.shape[-1]
    modes = ["constant"]
    if len(x.shape) == 3 and min(x.shape[-2:]) > 1:
        modes += ["replicate", "reflect", "circular"]
    mode = g.pick(*modes)
    if mode == "constant":
        amount = g.pick((0, 1), (1, 0), (1, 2), (-1, 1) if last > 1 else (0, 1))
        value = g.pick("", ", value=0.5")
        return g.then(f"F.pad({x.name}, {amount}{value})", (*x.shape[:-1], last + sum(amount)))
    return g.then(f'F.pad({x.name}, (1, 0, 0, 1), mode="{mode}")', (x.shape[0], x.shape[1] + 1, last + 1))


@grows(*ANY)
def repeat(g: Growth, x: Value) -> Value | None:
    if x.shape[-1] > 8:
        return None
    ones = "1, " * len(x.shape)
    text = g.pick(f"{x.name}.repeat({ones}2)", f"{x.name}.repeat_interleave(2, {len(x.shape)})",
                  f"torch.cat([{x.name}] * 2, -1)", f"{x.name}.tile({ones}2)")  # fmt: skip
    return g.then(text, (*x.shape[:-1], x.shape[-1] * 2))


@grows(*ANY)
def order(g: Growth, x: Value) -> Value | None:
    n = x.shape[-1]
    k = g.pick(n, max(1, n // 2))
    text = g.pick("{x}.sort(-1).values", "{x}.topk({k}, -1).values", "{x}.sort(-1, descending=True).values[..., :{k}]",
                  "{x}.gather(-1, {x}.argsort(-1)[..., :{k}])", "{x} + {x}.argmax(-1, keepdim=True)")  # fmt: skip
    whole = text.startswith(("{x}.sort(-1).values", "{x} +"))
    return g.then(text.format(x=x.name, k=k), x.shape if whole else (*x.shape[:-1], k))


@grows(*ANY)
def in_place(g: Growth, x: Value) -> Value | None:
    y = g.local(f"{x.name}.clone()")
    ones = ":, " * len(x.shape)
    g.line(g.pick(f"{y}.mul_(0.5)", f"{y}.relu_()", f"{y}[{ones}0] = 0.0", f"{y}[{ones}-1] += 1.0",
                  f"{y}.add_({x.name})", f"{y}.clamp_(-1.0, 1.0)", f"{y}[{ones}:1].mul_(2.0)",
                  f"{y}.masked_fill_({x.name} > 1.0, 0.0)",
                  f"{y}[{ones}0].copy_({x.name}[{ones}-1])", f"{y} -= {x.name}.mean()"))  # fmt: skip
    return g.then(f"{y} + 0.0", x.shape)


@grows(*ANY)
def weight_product(g: Growth, x: Value) -> Value | None:
    d = x.shape[-1]
    weight = g.parameter(d, 4)
    text = g.pick(
        "{x} @ {w}", "torch.matmul({x}, {w})", "torch.einsum('...i,ij->...j', {x}, {w})", "torch.tensordot({x}, {w}, 1)"
    )
    return g.then(text.format(x=x.name, w=weight), (*x.shape[:-1], 4))


@grows(*IMAGE)
def pool2d(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    kernel = g.pick(*[k for k in (2, 3, 1) if k <= min(height, width)])
    stride, padding = g.pick(kernel, 1, 2), g.pick(*range(kernel // 2 + 1))
    ceil = g.pick(False, True)
    kind = g.pick("avg", "max")
    extra = g.flag("count_include_pad=False") if kind == "avg" else ""
    sizes = [window(n, kernel, stride, padding, 1, ceil) for n in (height, width)]
    return g.then(
        f"F.{kind}_pool2d({x.name}, {kernel}, {stride}, padding={padding}, ceil_mode={ceil}{extra})", (channels, *sizes)
    )


@grows(*IMAGE)
def adaptive_pool(g: Growth, x: Value) -> Value | None:
    kind, size = g.pick("avg", "max"), (g.pick(1, 2, 3), g.pick(1, 2, 3))
    return g.then(f"F.adaptive_{kind}_pool2d({x.name}, {size})", (x.shape[0], *size))


@grows(*IMAGE)
def interpolate(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    mode = g.pick("nearest", "bilinear", "bicubic", "nearest-exact", "area")
    corners = g.pick("", ", align_corners=True") if mode in ("bilinear", "bicubic") else ""
    if mode != "area" and g.pick(True, False):
        return g.then(
            f'F.interpolate({x.name}, scale_factor=2, mode="{mode}"{corners})', (channels, 2 * height, 2 * width)
        )
    size = (g.pick(3, 5), g.pick(4, 7))
    return g.then(f'F.interpolate({x.name}, size={size}, mode="{mode}"{corners})', (channels, *size))


@grows(*IMAGE)
def shuffle(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    if channels % 4 == 0 and g.pick(True, False):
        return g.then(f"F.pixel_shuffle({x.name}, 2)", (channels // 4, height * 2, width * 2))
    if height % 2 == 0 and width % 2 == 0:
        return g.then(f"F.pixel_unshuffle({x.name}, 2)", (channels * 4, height // 2, width // 2))
    groups = g.pick(*divisors(channels))
    return g.then(f"{x.name}.unflatten(1, ({groups}, -1)).transpose(1, 2).flatten(1, 2)", x.shape)


@grows(*IMAGE)
def image_to_sequence(g: Growth, x: Value) -> Value | None:
    channels, height, width = x.shape
    if g.pick(False, True) and height > 1 and width > 1:
        text, shape = f"F.unfold({x.name}, 2, stride=2).transpose(1, 2)", (height // 2 * (width // 2), channels * 4)
        return g.then(text, shape)
    return g.then(f"{x.name}.flatten(2).transpose(1, 2)", (height * width, channels))


@grows(*IMAGE, *SEQUENCE)
def flatten(g: Growth, x: Value) -> Value | None:
    size = 1
    for n in x.shape:
        size *= n
    text = g.pick("{x}.flatten(1)", "torch.flatten({x}, 1)", "{x}.reshape({x}.shape[0], -1)", "{x}.reshape(-1, {n})")
    return g.then(text.format(x=x.name, n=size), (size,)) if size <= 200 else None


@grows(*SEQUENCE, *VECTOR)
def unsqueeze(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(1, len(x.shape) + 2))
    shape = list(x.shape)
    shape.insert(axis - 1, 1)
    if g.pick(False, True):
        size = ["-1"] * (len(shape) + 1)
        size[axis], shape[axis - 1] = "3", 3
        return g.then(f"{x.name}.unsqueeze({axis}).expand({', '.join(size)})", shape)
    return g.then(f"{x.name}.unsqueeze({axis})", shape)


@grows(*SEQUENCE, *VECTOR)
def unflatten(g: Growth, x: Value) -> Value | None:
    n = x.shape[-1]
    first = g.pick(*divisors(n))
    return g.then(f"{x.name}.unflatten(-1, ({first}, {n // first}))", (*x.shape[:-1], first, n // first))


@grows(*VECTOR)
def outer(g: Growth, x: Value) -> Value | None:
    other = g.pick(*[x, *g.others(lambda v: len(v.shape) == 1)])
    text = g.pick("{x}[:, :, None] * {y}[:, None, :]", "torch.einsum('bi,bj->bij', {x}, {y})",
                  "torch.bmm({x}.unsqueeze(2), {y}.unsqueeze(1))",
                  "torch.cdist({x}.unsqueeze(2), {y}.unsqueeze(2))")  # fmt: skip
    return g.then(text.format(x=x.name, y=other.name), (x.shape[0], other.shape[0]))


@grows(*SEQUENCE)
def dot_product_attention(g: Growth, x: Value) -> Value | None:
    length, width = x.shape
    heads = g.pick(*divisors(width)[:3])
    parts = []
    for _ in range(3):
        source = f"{g.layer(f'nn.Linear({width}, {width})')}({x.name})"
        parts.append(g.local(f"{source}.unflatten(-1, ({heads}, {width // heads})).transpose(1, 2)", "h"))
    q, k, v = parts
    form = g.pick("sdpa", "causal", "naive", "masked")
    if form in ("sdpa", "causal"):
        y = g.local(f"F.scaled_dot_product_attention({q}, {k}, {v}{', is_causal=True' if form == 'causal' else ''})")
    else:
        scores = g.local(f"{q} @ {k}.transpose(-1, -2) * {(width // heads) ** -0.5!r}")
        if form == "masked":
            mask = g.buffer(f"torch.ones({length}, {length}, dtype=torch.bool).tril()")
            g.line(f"{scores} = {scores}.masked_fill(~{mask}, float('-inf'))")
        y = g.local(f"F.softmax({scores}, -1) @ {v}")
    return g.then(f"{y}.transpose(1, 2).reshape({x.name}.shape[0], {length}, {width})", x.shape)


@grows(*SEQUENCE)
def over_time(g: Growth, x: Value) -> Value | None:
    """A loop over the steps, unrolled."""
    length, width = x.shape
    if length > 6:
        return None
    cell = g.layer(g.pick(f"nn.Linear({width}, {width})", f"nn.GRUCell({width}, {width})"), "cell")
    state = g.local(f"{x.name}.new_zeros({x.name}.shape[0], {width})", "h")
    steps = g.local("[]", "steps")
    g.line(f"for step in {x.name}.unbind(1):")
    g.line(
        f"    {state} = "
        + (f"{cell}(step, {state})" if "GRU" in g._holds[-1] else f"torch.tanh({cell}(step + {state}))")
    )
    g.line(f"    {steps}.append({state})")
    return g.then(f"torch.stack({steps}, 1)", x.shape)


@grows(*SEQUENCE)
def positions(g: Growth, x: Value) -> Value | None:
    weight = g.parameter(*g.pick((1, *x.shape), x.shape))
    return g.then(f"{x.name} + {weight}", x.shape)


@grows(*SEQUENCE)
def batched_product(g: Growth, x: Value) -> Value | None:
    length, _ = x.shape
    text = g.pick("{x} @ {x}.transpose(1, 2)", "torch.bmm({x}, {x}.mT)", "torch.einsum('bti,bsi->bts', {x}, {x})",
                  "torch.baddbmm(torch.zeros({n}, {n}), {x}, {x}.mT)")  # fmt: skip
    return g.then(text.format(x=x.name, n=length), (length, length))


@grows(*SEQUENCE, *IMAGE)
def triangle(g: Growth, x: Value) -> Value | None:
    text = g.pick("{x}.tril()", "{x}.triu(1)", "{x}.tril(-1)")
    return g.then(text.format(x=x.name), x.shape)


@grows(*ANY)
def over_batch(g: Growth, x: Value) -> Value | None:
    """Rows of the batch mixed."""
    text = g.pick("{x} - {x}.mean(0)", "{x}.flip(0)", "{x} * {x}.amax(0, keepdim=True)", "{x}.cumsum(0)",
                  "F.softmax({x}, 0)", "{x} + {x}[:1]", "torch.cat([{x}[-1:], {x}[:-1]])")  # fmt: skip
    return g.then(text.format(x=x.name), x.shape)


@grows(*ANY)
def normalize(g: Growth, x: Value) -> Value | None:
    axis = g.pick(*range(len(x.shape), 0, -1))
    text = g.pick(
        "F.normalize({x}, dim={d})",
        "F.normalize({x}, p=1, dim={d})",
        "{x} / {x}.abs().sum({d}, keepdim=True).clamp(min=1e-3)",
    )
    return g.then(text.format(x=x.name, d=axis), x.shape)

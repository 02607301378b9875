"""Attention. Shapes: q (B, Hq, L, E), k (B, Hkv, S, E), v (B, Hkv, S, Ev), or of three axes: (B, L, Hq * E) ..."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F

from ..operands import dtype_of, leaf, rank_of, shape_of, torch_dtype
from ..registry import rule

INFINITY = float("inf")


@rule("Attention", since=23)
def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    nonpad_kv_seqlen: Any = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    site: Any = None,
) -> Any:
    wanted = () if site is None else site.outputs
    rank = rank_of(q)
    plain = softmax_precision in (None, 1) and not softcap and max(left_window_size, right_window_size) < 0
    plain = plain and past_key is None and nonpad_kv_seqlen is None and not any(wanted[1:])
    plain = plain and dtype_of(q) in (torch.float32, torch.float64) and rank is not None
    if plain and (attn_mask is None or (not is_causal and _covers(attn_mask, k))):
        q, k, v = (_heads(x, n) for x, n in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads)))
        grouped = q_num_heads != kv_num_heads if rank == 3 else _dim(q, 1) is None or _dim(q, 1) != _dim(k, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, bool(is_causal), scale=scale, enable_gqa=grouped)
        return y if rank == 4 else y.transpose(1, 2).flatten(2)
    options = {
        "is_causal": bool(is_causal),
        "kv_num_heads": kv_num_heads,
        "windows": (left_window_size, right_window_size),
        "q_num_heads": q_num_heads,
        "mode": qk_matmul_output_mode,
        "scale": scale,
        "softcap": softcap,
        "softmax_precision": softmax_precision,
    }
    found = attention_with_cache(q, k, v, attn_mask, past_key, past_value, nonpad_kv_seqlen, options)
    return found[0], found[1], found[2], found[3]


def _dim(x: Any, axis: int) -> Any:
    shape = shape_of(x)
    return None if shape is None or not isinstance(shape[axis], int) else shape[axis]


def _covers(mask: Any, k: Any) -> bool:
    """Whether a mask is known to have a column for each key, so that it needs no padding."""
    mask_shape, length = shape_of(mask), _dim(k, -2 if rank_of(k) == 4 else 1)
    return mask_shape is not None and len(mask_shape) > 1 and length is not None and mask_shape[-1] == length


def _heads(x: Any, heads: int | None) -> Any:
    """Three axes as four: (B, L, H * E) -> (B, H, L, E)."""
    return x if rank_of(x) == 4 else x.unflatten(2, (heads, -1)).transpose(1, 2)


@leaf
def attention_with_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    past_key: torch.Tensor | None,
    past_value: torch.Tensor | None,
    nonpad_kv_seqlen: torch.Tensor | None,
    options: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ONNX's Attention whole: (y, present key, present value, what the mode says of q k^T). Types narrower than float32
    are computed in float32 and rounded once."""
    packed = q.dim() == 3
    q, k, v = (_heads(q, options["q_num_heads"]), *(_heads(x, options["kv_num_heads"]) for x in (k, v)))
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    present = (k, v)
    groups = q.shape[1] // k.shape[1]
    if groups != 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    factor = sqrt(options["scale"] if options["scale"] is not None else 1 / sqrt(q.shape[3]))
    dtype, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    scores = (q * factor) @ (k * factor).transpose(2, 3)
    shown = {0: scores}
    if options["softcap"]:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    shown[1] = scores
    bias = _bias(q, k.shape[2], mask, past, nonpad_kv_seqlen, options)
    if bias is not None:
        scores = scores + bias
    shown[2] = scores
    probabilities = _softmax(scores, bias, options["softmax_precision"])
    shown[3] = probabilities
    y = (probabilities @ v).to(present[1].dtype)
    return (y.transpose(1, 2).flatten(2) if packed else y), *present, shown[options["mode"]].to(dtype)


def _bias(
    q: torch.Tensor,
    length: int,
    mask: torch.Tensor | None,
    past: int,
    nonpad_kv_seqlen: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor | None:
    """What is added to the scores (B, H, L, S): the mask, and -inf at the keys that a query must not see."""
    key = torch.arange(length, device=q.device)
    offset: Any = past
    allowed: list[torch.Tensor] = []
    if nonpad_kv_seqlen is not None:
        lengths = nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        offset = lengths - q.shape[2]
        allowed.append(key < lengths)
    ahead = key - (torch.arange(q.shape[2], device=q.device).unsqueeze(1) + offset)  # of the query, by how many keys
    left, right = options["windows"]
    if options["is_causal"]:
        allowed.append(ahead <= 0)
    if left >= 0:
        allowed.append(ahead >= -left)
    if right >= 0:
        allowed.append(ahead <= right)
    bias = None
    if mask is not None:
        missing = length - mask.shape[-1]
        if mask.dtype == torch.bool:
            allowed.append(F.pad(mask, (0, missing)))
        else:
            bias = F.pad(mask.to(q.dtype), (0, missing), value=-INFINITY)
    for each in allowed:
        hidden = torch.where(each, 0.0, -INFINITY).to(q.dtype)
        bias = hidden if bias is None else bias + hidden
    return bias


def _softmax(scores: torch.Tensor, bias: torch.Tensor | None, precision: int | None) -> torch.Tensor:
    """Probabilities in the type of the scores; a query that sees no key has zeros, and derivatives of zero."""
    wide = scores if precision is None else scores.to(torch_dtype(precision))
    if bias is None:
        return wide.softmax(-1).to(scores.dtype)
    blind = (bias == -INFINITY).all(-1, keepdim=True)
    zero = wide.new_zeros(())
    return torch.where(blind, zero, torch.where(blind, zero, wide).softmax(-1)).to(scores.dtype)


# ------------------------------------------------------------------------------------------------ modified by graphs
@rule("FlexAttention", domain="ai.onnx.preview")
def flex_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    prob_mod: Any = None,
    scale: float | None = None,
    score_mod: Any = None,
    softmax_precision: int | None = None,
    site: Any = None,
) -> Any:
    scores = attention_scores(q, k, scale, softmax_precision)
    if score_mod is not None:
        scores = _modified("score_mod", scores, score_mod, site)
    probabilities = torch.softmax(scores, -1)
    if prob_mod is not None:
        probabilities = _modified("prob_mod", probabilities, prob_mod, site)
    return attention_values(probabilities, v)


def _modified(hint: str, x: Any, body: Any, site: Any) -> Any:
    module, captured = body.lower()
    return site.module(hint, module, (x, *captured))[0]


@leaf
def attention_scores(q: torch.Tensor, k: torch.Tensor, scale: float | None, precision: int | None) -> torch.Tensor:
    """q k^T, scaled, in the precision asked for, else in float32 or wider."""
    factor = sqrt(scale if scale is not None else 1 / sqrt(q.shape[3]))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    wide = torch.promote_types(q.dtype, torch.float32) if precision is None else torch_dtype(precision)
    return ((q * factor) @ (k * factor).transpose(2, 3)).to(wide)


@leaf
def attention_values(probabilities: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The values weighed by the probabilities, in the type of the values."""
    groups = probabilities.shape[1] // v.shape[1]
    return (probabilities @ v.to(probabilities.dtype).repeat_interleave(groups, 1)).to(v.dtype)


# ------------------------------------------------------------------------------------------------------------ linear
@rule("LinearAttention", since=27)
def linear_attention(
    query: Any,
    key: Any,
    value: Any,
    past_state: Any = None,
    decay: Any = None,
    beta: Any = None,
    *,
    kv_num_heads: int,
    q_num_heads: int,
    chunk_size: int = 64,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Any, Any]:
    if update_rule not in ("linear", "gated", "delta", "gated_delta"):
        raise ValueError(f"update_rule is {update_rule!r}")
    if ("gated" in update_rule) != (decay is not None) or ("delta" in update_rule) != (beta is not None):
        raise ValueError(
            f"{update_rule} with{'' if decay is not None else 'out'} decay, {'' if beta is not None else 'no '}beta"
        )
    found = linear_attention_steps(query, key, value, past_state, decay, beta, q_num_heads, kv_num_heads, scale)
    return found[0], found[1]


@leaf
def linear_attention_steps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_state: torch.Tensor | None,
    decay: torch.Tensor | None,
    beta: torch.Tensor | None,
    q_heads: int,
    kv_heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token after token, in float32 or wider. Returns (B, T, Hq * Dv) and the state (B, Hkv, Dk, Dv)."""
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(wide).unflatten(2, (n, -1)) for x, n in ((query, q_heads), (key, kv_heads), (value, kv_heads)))
    gates = None if decay is None else decay.to(wide).unflatten(2, (kv_heads, -1)).exp()
    rates = None if beta is None else beta.to(wide).unsqueeze(-1)
    state = k.new_zeros(q.shape[0], kv_heads, k.shape[3], v.shape[3]) if past_state is None else past_state.to(wide)
    factor = scale or 1 / sqrt(k.shape[3])
    outputs = []
    for t in range(q.shape[1]):
        written = v[:, t]
        if gates is not None:
            state = state * gates[:, t].unsqueeze(-1)
        if rates is not None:
            written = rates[:, t] * (written - torch.einsum("bhdm,bhd->bhm", state, k[:, t]))
        state = state + k[:, t].unsqueeze(-1) * written.unsqueeze(-2)
        seen = state.repeat_interleave(q_heads // kv_heads, 1)
        outputs.append(torch.einsum("bhd,bhdm->bhm", q[:, t], seen) * factor)
    y = torch.stack(outputs, 1).flatten(2).to(query.dtype)
    return y, state.to(query.dtype if past_state is None else past_state.dtype)


# ------------------------------------------------------------------------------------------------------------ rotary
@rule("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Any,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Any:
    return rotate(x, cos_cache, sin_cache, position_ids, bool(interleaved), num_heads, rotary_embedding_dim)


@leaf
def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position_ids: torch.Tensor | None,
    interleaved: bool,
    num_heads: int | None,
    width: int,
) -> torch.Tensor:
    """Rotary positions on the first `width` elements of each head (0: all). x (B, H, L, E) or (B, L, H * E)."""
    packed = x.dim() == 3
    heads = x.unflatten(2, (num_heads, -1)) if packed else x.transpose(1, 2)
    width = width or heads.shape[3]
    turned, rest = heads[..., :width], heads[..., width:]
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    parts = (cos * a - sin * b, sin * a + cos * b)
    turned = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    y = torch.cat((turned, rest), -1)
    return y.flatten(2) if packed else y.transpose(1, 2)

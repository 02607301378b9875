"""Regions of images: RoiAlign, MaxRoiPool, NonMaxSuppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..operands import leaf
from ..registry import rule
from .sampling import added, read_taps, taps_at

BLOCK = 256  # boxes that are compared at once


@rule("RoiAlign", since=10)
def roi_align_10(
    x: Any,
    rois: Any,
    batch_indices: Any,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Any:
    size = (output_height, output_width)
    return align_regions(x, rois, batch_indices, size, mode, sampling_ratio, spatial_scale, False)


@rule("RoiAlign", since=16)
def roi_align(
    x: Any,
    rois: Any,
    batch_indices: Any,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Any:
    half_pixel = coordinate_transformation_mode == "half_pixel"
    size = (output_height, output_width)
    return align_regions(x, rois, batch_indices, size, mode, sampling_ratio, spatial_scale, half_pixel)


@leaf
def align_regions(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    size: tuple[int, int],
    mode: str,
    sampling_ratio: int,
    spatial_scale: float,
    half_pixel: bool,
) -> torch.Tensor:
    """RoiAlign. x (N, C, H, W), rois (R, 4) as x1 y1 x2 y2. Returns (R, C, *size). Without a sampling ratio the regions
    are taken in groups of as many samples a bin."""
    shift = 0.5 if half_pixel else 0.0
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    start, end = (rois * spatial_scale - shift).flip(1).chunk(2, 1)[::-1]  # y before x
    extent = end - start
    if not half_pixel:
        extent = extent.clamp(min=1.0)
    bins = extent / torch.tensor(size, dtype=extent.dtype, device=extent.device)
    if sampling_ratio > 0:
        return _align(x, batch_indices, start, bins, size, (sampling_ratio, sampling_ratio), mode)
    counts = bins.detach().ceil().long()
    y = x.new_zeros((rois.shape[0], x.shape[1], *size))
    for count in counts.unique(dim=0).tolist():
        if min(count) > 0:
            which = (counts == torch.tensor(count, device=counts.device)).all(1).nonzero().squeeze(1)
            part = _align(x, batch_indices[which], start[which], bins[which], size, (count[0], count[1]), mode)
            y = y.index_copy(0, which, part)
    return y


def _align(
    x: torch.Tensor,
    batch: torch.Tensor,
    start: torch.Tensor,
    bins: torch.Tensor,
    size: tuple[int, int],
    counts: tuple[int, int],
    mode: str,
) -> torch.Tensor:
    """Regions (R, 2) with as many samples a bin. The greatest of the weighed corners, not of the samples, is what ONNX
    has as `max`."""
    places, inside = [], []
    for axis in range(2):
        steps = (torch.arange(size[axis] * counts[axis], dtype=start.dtype, device=x.device) + 0.5) / counts[axis]
        place = start[:, axis : axis + 1] + steps * bins[:, axis : axis + 1]
        length = x.shape[2 + axis]
        inside.append((place >= -1) & (place <= length))
        places.append(place.clamp(0, length - 1))
    rows, columns = places
    grid = (rows.shape[0], rows.shape[1], columns.shape[1])
    points = [rows.unsqueeze(2).expand(grid).flatten(1), columns.unsqueeze(1).expand(grid).flatten(1)]
    parts = read_taps(x, batch.long(), taps_at(points, tuple(x.shape[2:]), "linear", "border", False))
    valid = (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).flatten(1).unsqueeze(1)
    if mode == "avg":
        y = torch.where(valid, added(parts), 0.0)
    else:
        y = torch.where(valid, torch.stack(parts).amax(0), 0.0)
    samples: torch.Tensor = y.unflatten(2, (size[0], counts[0], size[1], counts[1]))
    return samples.mean((3, 5)) if mode == "avg" else samples.amax((3, 5))


@rule("MaxRoiPool")
def max_roi_pool(x: Any, rois: Any, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0) -> Any:
    return pool_regions(x, rois, pooled_shape, spatial_scale)


@leaf
def pool_regions(x: torch.Tensor, rois: torch.Tensor, size: tuple[int, ...], spatial_scale: float) -> torch.Tensor:
    """The maximum of each bin of regions (R, 5) as batch x1 y1 x2 y2, whose corners are rounded; zero where a bin is
    empty. Returns (R, C, *size)."""
    images = x.index_select(0, rois[:, 0].long())
    corners = (rois[:, 1:] * spatial_scale + 0.5).floor()
    seen = []
    for axis in range(2):
        start, end = corners[:, 1 - axis], corners[:, 3 - axis]
        each = (end - start + 1).clamp(min=1) / size[axis]
        cell = torch.arange(size[axis], device=x.device)
        place = torch.arange(x.shape[2 + axis], device=x.device)
        first = (cell * each.unsqueeze(1)).floor() + start.unsqueeze(1)
        last = ((cell + 1) * each.unsqueeze(1)).ceil() + start.unsqueeze(1)
        seen.append((place >= first.unsqueeze(2)) & (place < last.unsqueeze(2)))  # (R, cells, places)
    lowest = torch.finfo(x.dtype).min
    rows = []
    for i in range(size[0]):
        row = torch.where(seen[0][:, i, None, :, None], images, lowest).amax(2)
        rows.append(torch.stack([torch.where(seen[1][:, j, None], row, lowest).amax(2) for j in range(size[1])], 2))
    y = torch.stack(rows, 2)
    filled = seen[0].any(2)[:, None, :, None] & seen[1].any(2)[:, None, None, :]
    return torch.where(filled, y, 0.0)


@rule("NonMaxSuppression", since=10)
def non_max_suppression(
    boxes: Any,
    scores: Any,
    max_output_boxes_per_class: Any = None,
    iou_threshold: Any = None,
    score_threshold: Any = None,
    *,
    center_point_box: int = 0,
) -> Any:
    return select_boxes(
        boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold, bool(center_point_box)
    )


@leaf
def select_boxes(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    limit: torch.Tensor | None,
    iou_threshold: torch.Tensor | None,
    score_threshold: torch.Tensor | None,
    centred: bool,
) -> torch.Tensor:
    """NonMaxSuppression. boxes (N, B, 4), scores (N, K, B). Returns (selected, 3): batch, class, box; of equal scores
    the first box. None are selected without a limit."""
    most = 0 if limit is None else int(limit.reshape(-1)[0].item())
    overlap = 0.0 if iou_threshold is None else float(iou_threshold.reshape(-1)[0].item())
    boxes, scores = boxes.detach(), scores.detach()
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = middle - half, middle + half
    else:
        low = torch.minimum(boxes[..., :2], boxes[..., 2:])
        high = torch.maximum(boxes[..., :2], boxes[..., 2:])
    found = []
    for n in range(scores.shape[0]):
        for k in range(scores.shape[1]):
            score = scores[n, k]
            candidates = torch.arange(len(score), device=score.device)
            if score_threshold is not None:
                candidates = candidates[score > score_threshold.reshape(())]
            order = candidates[score[candidates].argsort(descending=True, stable=True)]
            found += [(n, k, box) for box in _keep(low[n], high[n], order, overlap, most)]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _keep(low: torch.Tensor, high: torch.Tensor, order: torch.Tensor, overlap: float, most: int) -> list[int]:
    """The boxes kept, best first: each drops those after it that it overlaps. Block by block, so that most comparisons
    are of many boxes at once."""
    kept = order[:0]
    for block in order.split(BLOCK):
        if kept.numel() >= most:
            break
        rivals = block[~_overlaps(low, high, kept, block, overlap).any(0)]
        drops = _overlaps(low, high, rivals, rivals, overlap).cpu().numpy()
        alive = np.ones(len(drops), bool)
        chosen: list[int] = []
        for i in range(len(drops)):
            if alive[i]:
                chosen.append(i)
                alive &= ~drops[i]
        kept = torch.cat((kept, rivals[chosen]))[:most]
    return [int(box) for box in kept.tolist()]


def _overlaps(
    low: torch.Tensor, high: torch.Tensor, first: torch.Tensor, second: torch.Tensor, overlap: float
) -> torch.Tensor:
    """Which of the boxes `first` share more than this of their union with which of `second`: (first, second)."""
    a, b = first.unsqueeze(1), second.unsqueeze(0)
    shared = (torch.minimum(high[a], high[b]) - torch.maximum(low[a], low[b])).clamp(min=0).prod(-1)
    area = (high - low).prod(-1)
    return (shared > 0) & (shared > overlap * (area[a] + area[b] - shared))

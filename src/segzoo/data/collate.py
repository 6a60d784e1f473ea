"""Batches of samples: for training stacked, or padded on request; for evaluation padded, with original sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from segzoo.errors import SegZooError


def collate_training(samples: Sequence[dict[str, Any]], *, pad_labels: int | None = None) -> dict[str, Any]:
    """Stacks samples into a batch.

    Args:
        samples: dicts with `pixel_values` (channels, height, width) and, optionally, `labels` (height, width) and
            `name`.
        pad_labels: pad samples to the largest of the batch, at the right and the bottom: pictures with 0, labels with
            this id. None: all must have one size.

    Returns:
        `pixel_values` (batch, channels, height, width), and where the samples have them `labels` (batch, height,
        width) and `name`, a list.

    Raises:
        SegZooError: the sizes differ, and `pad_labels` is None.
    """
    pictures = [sample["pixel_values"] for sample in samples]
    labels = [sample["labels"] for sample in samples if "labels" in sample]
    shapes = {tuple(picture.shape) for picture in pictures}
    if len(shapes) > 1:
        if pad_labels is None:
            raise SegZooError(
                f"Pictures of different sizes cannot be stacked: {sorted(shapes)}. Train on crops (crop_size), or use "
                "collate_evaluation, which pads."
            )
        height, width = (max(shape[axis] for shape in shapes) for axis in (-2, -1))
        pictures = [_filled(picture, height, width, 0.0) for picture in pictures]
        labels = [_filled(label, height, width, pad_labels) for label in labels]
    batch: dict[str, Any] = {"pixel_values": torch.stack(pictures)}
    if labels:
        batch["labels"] = torch.stack(labels)
    if "name" in samples[0]:
        batch["name"] = [sample["name"] for sample in samples]
    return batch


def _filled(values: torch.Tensor, height: int, width: int, fill: float) -> torch.Tensor:
    """Pads a tensor (..., height, width) to a size at the right and the bottom."""
    bottom, right = height - values.shape[-2], width - values.shape[-1]
    return F.pad(values, (0, right, 0, bottom), value=fill) if bottom or right else values


def collate_evaluation(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batches pictures of any size, padded with 0 at the right and the bottom; masks keep their own sizes.

    Padding changes what a network sees near the border, so batches of one, or of equal sizes, score exactly.

    Args:
        samples: dicts with `pixel_values` (channels, height, width), and optionally `labels`, `index` and `name`.

    Returns:
        `pixel_values` (batch, channels, height, width); `input_sizes`, the (height, width) of each before padding; and
        where the samples have them `labels` (list of tensors), `target_sizes` (their sizes), `index` (tensor) and
        `name` (list).
    """
    pictures = [sample["pixel_values"] for sample in samples]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (-2, -1))
    batch: dict[str, Any] = {
        "pixel_values": torch.stack([_filled(picture, height, width, 0.0) for picture in pictures]),
        "input_sizes": [tuple(picture.shape[-2:]) for picture in pictures],
    }
    if "labels" in samples[0]:
        batch["labels"] = [sample["labels"] for sample in samples]
        batch["target_sizes"] = [tuple(label.shape) for label in batch["labels"]]
    if "index" in samples[0]:
        batch["index"] = torch.tensor([sample["index"] for sample in samples])
    if "name" in samples[0]:
        batch["name"] = [sample["name"] for sample in samples]
    return batch

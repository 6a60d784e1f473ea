"""Batches of samples: stacked or padded for training; padded, with the original sizes, for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from segzoo.errors import SegZooError


def collate_training(samples: Sequence[dict[str, Any]], *, pad_labels: int | None = None) -> dict[str, Any]:
    """Stack samples into a batch.

    Args:
        samples: dicts with `pixel_values` (channels, height, width) and, optionally, `labels` (height, width) and
            `name`.
        pad_labels: id that fills labels where samples are padded, at the right and the bottom, to the largest height
            and width of the batch; pictures are filled with 0. None: all samples must have the same size.

    Returns:
        `pixel_values` (batch, channels, height, width) and, if the samples have them, `labels` (batch, height, width)
        and `name`, a list.

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
    """Pad a tensor (..., height, width) at the right and the bottom to the given height and width."""
    bottom, right = height - values.shape[-2], width - values.shape[-1]
    return F.pad(values, (0, right, 0, bottom), value=fill) if bottom or right else values


def collate_evaluation(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of pictures of any size, padded with 0 at the right and the bottom; masks keep their sizes.

    Padding changes what a network sees near the border, so only batches of one picture, or of equal sizes, give exact
    scores.

    Args:
        samples: dicts with `pixel_values` (channels, height, width), and optionally `labels`, `index` and `name`.

    Returns:
        `pixel_values` (batch, channels, height, width); `input_sizes`, the (height, width) of each picture before
        padding; and, if the samples have them, `labels`, a list of tensors (height, width), with their sizes
        `target_sizes`; `index`, a tensor (batch,); and `name`, a list.
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

"""From samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import SegZooError


def collate_training(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks samples of equal size.

    Args:
        samples: Dicts with `pixel_values` (3, height, width) and, optionally, `labels` (height, width).

    Returns:
        `pixel_values` (batch, 3, height, width) and `labels` (batch, height, width): what a model takes, nothing else.

    Raises:
        SegZooError: The sizes differ.
    """
    shapes = {tuple(sample["pixel_values"].shape) for sample in samples}
    if len(shapes) > 1:
        raise SegZooError(
            f"Pictures of different sizes cannot be stacked: {sorted(shapes)}. Train on crops (crop_size), or use "
            "collate_evaluation, which pads."
        )
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    if "labels" in samples[0]:
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
    return batch


def collate_evaluation(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batches pictures of any size, padded with 0 at the right and the bottom; masks keep their own sizes.

    Padding changes what a network sees near the border, so batches of one, or of equal sizes, score exactly.

    Args:
        samples: Dicts with `pixel_values` (3, height, width), and optionally `labels`, `index` and `name`.

    Returns:
        `pixel_values` (batch, 3, height, width); `input_sizes`, the (height, width) of each before padding; and
        where the samples have them `labels` (list of tensors), `target_sizes` (their sizes), `index` (tensor) and
        `name` (list).
    """
    pictures = [sample["pixel_values"] for sample in samples]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (-2, -1))
    batch: dict[str, Any] = {
        "pixel_values": torch.stack(
            [F.pad(picture, (0, width - picture.shape[-1], 0, height - picture.shape[-2])) for picture in pictures]
        ),
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

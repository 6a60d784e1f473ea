"""Training samples that stay grey levels until their batch is on its device, and are normalised there.

Loading processes then hand over a fifth of the bytes, which cross to a GPU in a fifth of the time; the numbers are the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segzoo.data.transforms import JointTransform

_BYTE = range(256)


@dataclass(frozen=True)
class LevelsTransform:
    """A transform whose samples are not normalised yet: `collate` makes batches of them, and `finish` normalises those.

    Attributes:
        joint: the whole transform. Its masks go through the steps too.
    """

    joint: JointTransform

    @property
    def ignore_index(self) -> int:
        """The id that never counts."""
        return self.joint.ignore_index

    @property
    def num_channels(self) -> int:
        """Number of channels of the pictures."""
        return self.joint.num_channels

    @property
    def steps(self) -> tuple[Any, ...]:
        """The steps of the transform."""
        return self.joint.steps

    def __call__(
        self, image: Any, mask: Any, rng: np.random.Generator, wanted: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Transform one pair; arguments and errors are those of `JointTransform`.

        Returns:
            `levels` uint8 (num_channels, height, width), not padded, and, with a mask, `labels` (height, width) of any
            integer type.
        """
        levels, ids = self.joint.moved(image, mask, rng, wanted)
        return {"levels": levels} if ids is None else {"levels": levels, "labels": ids}

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of samples.

        Returns:
            `levels`, a list of tensors as in the samples; `size`, the (height, width) of the batch once it is padded;
            and, if the samples have them, `labels` (batch, height, width), padded with the id that never counts, uint8
            if all ids fit, else int64; and `name`, a list.
        """
        levels = [sample["levels"] for sample in samples]
        size = self.joint.padded_size(tuple(max(part.shape[axis] for part in levels) for axis in (-2, -1)))
        batch: dict[str, Any] = {"levels": levels, "size": size}
        if "labels" in samples[0]:
            ids = [sample["labels"] for sample in samples]
            small = self.ignore_index in _BYTE and all(part.dtype == torch.uint8 for part in ids)
            batch["labels"] = torch.empty((len(ids), *size), dtype=torch.uint8 if small else torch.int64)
            for label, part in zip(batch["labels"], ids, strict=True):
                height, width = part.shape
                label[:height, :width] = part
                label[height:] = label[:height, width:] = self.ignore_index
        if "name" in samples[0]:
            batch["name"] = [sample["name"] for sample in samples]
        return batch

    def finish(
        self,
        batch: Mapping[str, Any],
        device: torch.device | str = "cpu",
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> dict[str, Any]:
        """Normalise and pad the pictures of a batch.

        Args:
            batch: what `collate` has made.
            device: where the pictures are normalised.
            memory_format: that of the pictures; on a CPU channels-last is the faster one.

        Returns:
            The batch with `pixel_values` float32 (batch, num_channels, height, width) on the device in place of
            `levels` and `size`; all else stays as it is.
        """
        device = torch.device(device)
        normalize = self._normalize_here if device.type == "cpu" else self._normalize_there
        shape = (len(batch["levels"]), self.num_channels, *batch["size"])
        values = normalize(batch["levels"], torch.empty(shape, device=device, memory_format=memory_format))
        rest = {key: value for key, value in batch.items() if key not in ("levels", "size")}
        return {"pixel_values": values, **rest}

    def _normalize_here(self, levels: Sequence[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        for value, part in zip(values, levels, strict=True):
            self.joint.normalize(part, value)
        return values

    def _normalize_there(self, levels: Sequence[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        """The same with few operations, each of which is dear to start and cheap to run on a GPU."""
        device = values.device
        scale, shift = (numbers.to(device, non_blocking=True) for numbers in self.joint.scale_and_shift)
        for value, part in zip(values, levels, strict=True):
            height, width = part.shape[-2:]
            value[:, :height, :width] = self.joint.ordered(part.to(device, non_blocking=True))
        values.mul_(scale).sub_(shift)
        for value, part in zip(values, levels, strict=True):
            height, width = part.shape[-2:]
            if value.shape[-2:] != part.shape[-2:]:
                value[:, height:] = value[:, :height, width:] = 0.0
        return values

    def finished(
        self,
        batches: Iterator[Mapping[str, Any]],
        device: torch.device | str,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[dict[str, Any]]:
        """`finish` for one batch after the other; the batches' iterator is closed with this one."""
        with closing(batches):
            for batch in batches:
                yield self.finish(batch, device, memory_format=memory_format)

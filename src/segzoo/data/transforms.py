"""Joint transforms of picture and mask: the steps of mmsegmentation's training pipelines, on torchvision v2.

Every random step draws from the `numpy.random.Generator` that it is given and from nothing else, so the generator
decides the outcome (`SegmentationDataset` makes it from seed, epoch and index). The steps themselves are in
`joint_steps`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from segzoo.data.augmentation import Augmentation
from segzoo.data.joint_steps import (
    JointStep,
    PhotometricDistortion,
    RandomCrop,
    RandomFlip,
    Scale,
    ScaledCrop,
)
from segzoo.data.pipelines import PipelineStep
from segzoo.errors import SegZooError
from segzoo.images.loading import blue_first, reduce_labels
from segzoo.images.resizing import per_channel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_ROWS = 128
"""Rows that are normalised at a time."""


@dataclass(frozen=True)
class JointTransform:
    """Steps on picture and mask, then normalisation and padding.

    Call it with arrays or tensors and a generator, or pass it to `Dataset.with_transform`, where it takes a batch of
    lists and, without a sample index, seeds its generator from torch's.

    Attributes:
        steps: the steps, in order.
        mean, std: one number for all channels, or one per channel, subtracted and divided by after rescaling.
        rescale_factor: factor on the grey levels.
        channel_order: "rgb" or "bgr": order of the output's channels, and of `mean` and `std`.
        reduce_labels: whether 0 in masks stands for "no class" and 1 for the first class; 0 then becomes
            `ignore_index`, and other ids are lowered by 1.
        ignore_index: id that never counts; also fills the padding of the mask.
        pad_size: (height, width) in pixels that smaller results are padded to at the right and the bottom, pictures
            with 0 after normalisation; None: no padding.
        keep_label_size: the mask skips the steps, so that scores can be computed at its original size.
        num_channels: number of channels of the pictures.
        reduced_decoding: whether pictures may come smaller than their masks, see `wanted_size`; the first step is then a
            `Scale`, which brings both to one size.

    Raises:
        SegZooError: `mean` or `std` have another number of channels, or pictures with photometric distortion are not
            RGB.
    """

    steps: tuple[JointStep, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale_factor: float = 1 / 255
    channel_order: str = "rgb"
    reduce_labels: bool = False
    ignore_index: int = 255
    pad_size: tuple[int, int] | None = None
    keep_label_size: bool = False
    num_channels: int = 3
    reduced_decoding: bool = False

    def __post_init__(self) -> None:
        if self.reduced_decoding and (self.keep_label_size or not isinstance(next(iter(self.steps), None), Scale)):
            raise SegZooError(
                "reduced_decoding follows from a random scale of picture and mask, the first step, which is missing"
            )
        for name in ("mean", "std"):
            per_channel(getattr(self, name), self.num_channels, name)
        if self.num_channels != 3 and any(isinstance(step, PhotometricDistortion) for step in self.steps):
            raise SegZooError(
                "photometric distortion changes saturation and hue of RGB, and these pictures have "
                f"{self.num_channels} channel(s); leave it out (photometric_distortion=False)"
            )

    def __call__(
        self, image: Any, mask: Any = None, rng: np.random.Generator | None = None, wanted: int | None = None
    ) -> dict[str, Any]:
        """Transform one pair, or a batch of rows.

        Args:
            image: uint8, an array (height, width, num_channels) or tensor (num_channels, height, width), RGB if there
                are three channels; or a mapping of the column `image`, and `label` if there are masks, to lists.
            mask: ids (height, width), or None.
            rng: source of random numbers; None seeds one from torch's.
            wanted: id of the class that a random crop shall show, see `RandomCrop`; None: of any.

        Returns:
            `pixel_values` float32 (num_channels, height, width) and, with a mask, `labels` int64 (height, width); for
            a batch, lists of these.

        Raises:
            SegZooError: the picture has another type or shape, or a batch has no column `image` or a faulty pair.
        """
        if isinstance(image, Mapping):
            return self._batch(image)
        if rng is None:
            rng = np.random.default_rng(int(torch.randint(0, 2**62, ()).item()))
        levels, ids = self.moved(image, mask, rng, wanted)
        height, width = levels.shape[-2:]
        values = torch.empty((self.num_channels, *self.padded_size((height, width))))
        self.normalize(levels, values)
        result = {"pixel_values": values}
        if ids is not None:
            result["labels"] = ids.long().contiguous() if self.keep_label_size else self._padded(ids)
        return result

    def moved(
        self, image: Any, mask: Any, rng: np.random.Generator, wanted: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the steps make of one pair, before normalisation and padding.

        Args:
            image, mask, rng, wanted: see `__call__`.

        Returns:
            grey levels uint8 (num_channels, height, width), perhaps a view of the picture; and ids (height, width) of
            any integer type, or None.

        Raises:
            SegZooError: the picture has another type or shape.
        """
        picture = _to_image(image, self.num_channels)
        ids = None if mask is None else torch.as_tensor(np.asarray(mask))
        if ids is not None and self.reduce_labels:
            ids = reduce_labels(ids, self.ignore_index)
        moving = None if ids is None or self.keep_label_size else tv_tensors.Mask(ids)
        for step in self._merged_steps:
            crop = {"wanted": wanted} if isinstance(step, RandomCrop | ScaledCrop) else {}
            picture, moving = step(picture, moving, rng, **crop)
        if moving is not None:
            ids = moving.as_subclass(torch.Tensor)
        return picture.as_subclass(torch.Tensor), ids

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of the result, in pixels, of a picture that has this size after the steps."""
        return size if self.pad_size is None else (max(size[0], self.pad_size[0]), max(size[1], self.pad_size[1]))

    @cached_property
    def _merged_steps(self) -> tuple[JointStep, ...]:
        steps: list[JointStep] = []
        for step in self.steps:
            if steps and isinstance(step, RandomCrop) and isinstance(steps[-1], Scale):
                step = ScaledCrop(steps.pop(), step)
            steps.append(step)
        return tuple(steps)

    def wanted_size(self, rng: np.random.Generator) -> Callable[[tuple[int, int]], tuple[int, int]]:
        """The size that a picture gets by the first step with this generator, whose state stays, as a function of its
        size; both are (height, width) in pixels.
        """
        return lambda size: self.steps[0].target(size, copy.deepcopy(rng))

    @cached_property
    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factor on the grey levels, and what is then subtracted, as float32 (num_channels, 1, 1)."""
        std, mean = (
            torch.tensor(per_channel(numbers, self.num_channels, ""), dtype=torch.float64)
            for numbers in (self.std, self.mean)
        )
        return tuple(numbers.float()[:, None, None] for numbers in (self.rescale_factor / std, mean / std))

    def normalize(self, levels: torch.Tensor, values: torch.Tensor) -> None:
        """Write a normalised picture to the left and the top of a tensor, and 0 to the rest of it.

        Args:
            levels: grey levels, uint8 (num_channels, height, width), in any order in memory.
            values: float32 (num_channels, at least height, at least width).
        """
        height, width = levels.shape[-2:]
        if values.shape[-2:] != levels.shape[-2:]:
            values[:, height:] = values[:, :height, width:] = 0.0
            values = values[:, :height, :width]
        levels = self.ordered(levels)
        if values.stride(0) == levels.stride(0) == 1:  # by pixels, both of them: whole rows are numbers in one order
            scale, shift = (numbers.reshape(-1).repeat(width) for numbers in self.scale_and_shift)
            levels, values = levels.permute(1, 2, 0).flatten(1), values.permute(1, 2, 0).view(height, -1)
            for value, level in zip(values.split(_ROWS), levels.split(_ROWS), strict=True):
                value.copy_(level).mul_(scale).sub_(shift)  # so many rows stay in the cache
            return
        for value, level, scale, shift in zip(values, levels, *self.scale_and_shift, strict=True):
            value.copy_(level).mul_(scale).sub_(shift)  # a channel stays in the cache

    def ordered(self, levels: torch.Tensor) -> torch.Tensor:
        """Grey levels (num_channels, height, width) in the order of the output's channels."""
        return blue_first(levels) if self.channel_order == "bgr" else levels

    def _padded(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (height, width) as labels int64, at the left and the top of at least `pad_size`."""
        height, width = ids.shape
        size = self.padded_size((height, width))
        if size == (height, width):
            return ids.long().contiguous()
        padded = torch.full(size, self.ignore_index)
        padded[:height, :width] = ids
        return padded

    def _batch(self, batch: Mapping[str, Sequence]) -> dict[str, list]:
        from segzoo.data.decoding import decode_example

        if "image" not in batch:
            raise SegZooError(f"A batch needs the column 'image' (and 'label'); this one has {', '.join(batch)}.")
        rows = [{key: batch[key][i] for key in batch} for i in range(len(batch["image"]))]
        done = [self(*decode_example(row, num_channels=self.num_channels)) for row in rows]
        return {key: [item[key] for item in done] for key in done[0]}


def _to_image(image: Any, num_channels: int) -> tv_tensors.Image:
    if isinstance(image, torch.Tensor):
        tensor = image
    else:
        array = np.asarray(image)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy()).permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] != num_channels or tensor.dtype != torch.uint8:
        raise SegZooError(
            f"This transform takes pictures of {num_channels} channel(s), uint8 ({num_channels}, height, width) or "
            f"arrays (height, width, {num_channels}); got {tensor.dtype} {tuple(image.shape)}. segzoo.data.decode_image "
            f"makes one from a file (num_channels={num_channels})."
        )
    return tv_tensors.Image(tensor)


def build_train_transform(
    augmentation: Augmentation | None = None,
    *,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    rescale_factor: float = 1 / 255,
    channel_order: str = "rgb",
    reduce_labels: bool = False,
    ignore_index: int = 255,
    antialias: bool = False,
    extra_steps: Sequence[JointStep] = (),
    num_channels: int = 3,
) -> JointTransform:
    """Build the training transform: random scale, crop, flip and photometric distortion, normalisation, padding.

    With a ``pipeline`` in the augmentation: that pipeline, crop, normalisation, padding.

    Args:
        augmentation: options of the random steps; None: `Augmentation()`, for pictures that are not RGB without
            photometric distortion. Without a `scale_size`, the random factor multiplies each picture's own size;
            pictures smaller than `crop_size` are padded.
        image_mean, image_std, rescale_factor, channel_order: normalisation, with the meaning of the image processor's
            fields.
        reduce_labels, ignore_index: label rule; see `JointTransform`.
        antialias: smooth pictures when shrinking.
        extra_steps: further steps (`JointStep`, or `FromTorchvision(v2 transform)`) between distortion and
            normalisation.
        num_channels: number of channels of the pictures.

    Raises:
        SegZooError: mean or standard deviation have another number of channels, or pictures with photometric
            distortion are not RGB.
    """
    chosen = augmentation or Augmentation().for_channels(num_channels)
    crop = chosen.crop_size
    scale = Scale(
        size=None if chosen.scale_size is None else (*chosen.scale_size, None)[:2],
        ratio_range=chosen.scale_range,
        keep_ratio=chosen.keep_ratio,
        antialias=antialias,
        short_edges=chosen.scale_edges,
        multiple=chosen.size_divisor if crop is None and chosen.size_divisor is not None else 1,
    )
    steps: list[JointStep] = []
    if chosen.pipeline is not None:
        steps.append(PipelineStep(chosen.pipeline, ignore_index))
    elif scale != Scale(keep_ratio=chosen.keep_ratio, antialias=antialias):
        steps.append(scale)
    if crop is not None:
        steps.append(RandomCrop(crop, chosen.cat_max_ratio, ignore_index))
    if chosen.flip_probability > 0 and chosen.pipeline is None:
        steps.append(RandomFlip(chosen.flip_probability))
    if chosen.photometric_distortion and chosen.pipeline is None:
        steps.append(PhotometricDistortion())
    return JointTransform(
        steps=(*steps, *extra_steps),
        mean=tuple(image_mean),
        std=tuple(image_std),
        rescale_factor=rescale_factor,
        channel_order=channel_order,
        reduce_labels=reduce_labels,
        ignore_index=ignore_index,
        pad_size=crop,
        num_channels=num_channels,
        reduced_decoding=chosen.reduced_decoding and bool(steps) and isinstance(steps[0], Scale),
    )


@dataclass(frozen=True)
class ProcessorTransform:
    """Passes the picture through an image processor; the mask keeps its size. See `build_processor_transform`."""

    image_processor: Any
    reduce_labels: bool = False
    ignore_index: int = 255
    num_channels: int = 3

    def __call__(
        self, image: Any, mask: Any = None, rng: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        options: dict[str, Any] = {"return_tensors": "pt"}
        if self.num_channels not in (1, 3, 4):  # transformers infers these by itself
            options["input_data_format"] = "channels_last"
        result = {"pixel_values": self.image_processor(images=image, **options)["pixel_values"][0]}
        if mask is not None:
            labels = torch.as_tensor(np.asarray(mask))
            result["labels"] = (reduce_labels(labels, self.ignore_index) if self.reduce_labels else labels).long()
        return result


def build_processor_transform(
    image_processor: Any,
    *,
    reduce_labels: bool | None = None,
    ignore_index: int | None = None,
    num_channels: int | None = None,
) -> ProcessorTransform:
    """Build the evaluation transform, which prepares pictures exactly as inference does.

    Args:
        image_processor: any image processor of transformers.
        reduce_labels, ignore_index: label rule; None: the processor's `do_reduce_labels` and `ignore_index`, or False
            and 255 if it has none.
        num_channels: number of channels of the pictures; None: the processor's `num_channels`, or 3 if it has none.
    """
    if reduce_labels is None:
        reduce_labels = bool(getattr(image_processor, "do_reduce_labels", False))
    if ignore_index is None:
        ignore_index = getattr(image_processor, "ignore_index", None)
    if num_channels is None:
        num_channels = getattr(image_processor, "num_channels", 3)
    return ProcessorTransform(
        image_processor, reduce_labels, 255 if ignore_index is None else ignore_index, num_channels
    )

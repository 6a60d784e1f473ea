"""Joint transforms of picture and mask: the steps of mmsegmentation's training pipelines, on torchvision v2.

Every random step draws from the `numpy.random.Generator` that it is given and from nothing else, so the generator
decides the outcome (`SegmentationDataset` makes it from seed, epoch and index). Pictures are uint8 until they are
normalised: in channels-last memory while they are whole, which is what torchvision resizes fastest on a CPU, and from
the crop on with one plane for each channel, which is fastest for everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from segzoo.data.augmentation import Augmentation
from segzoo.data.pipelines import PipelineStep
from segzoo.errors import SegZooError
from segzoo.images.loading import reduce_labels
from segzoo.images.resizing import keep_ratio_size, per_channel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Pair: TypeAlias = tuple[tv_tensors.Image, tv_tensors.Mask | None]


class JointStep(Protocol):
    """A step from picture and mask to both: uint8 (channels, height, width), and ids (height, width) or None."""

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair: ...


def _resize(image: tv_tensors.Image, mask: tv_tensors.Mask | None, size: tuple[int, int], antialias: bool) -> Pair:
    if tuple(image.shape[-2:]) != size:
        image = TF.resize(image, list(size), InterpolationMode.BILINEAR, antialias=antialias)
    if mask is not None and tuple(mask.shape[-2:]) != size:
        ids = _resized_box(mask.as_subclass(torch.Tensor).numpy(), size, (slice(0, size[0]), slice(0, size[1])))
        mask = tv_tensors.Mask(torch.from_numpy(ids))
    return image, mask


Box: TypeAlias = tuple[slice, slice]


def _resized_box(ids: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """A box, as rows and columns, of ids (height, width) that are resized to a size by the nearest; a copy."""
    if ids.shape == size:
        return ids[box]
    rows, columns = (
        np.arange(part.start, part.stop, dtype=np.int64) * source // target
        for source, target, part in zip(ids.shape, size, box, strict=True)
    )
    # Rows first, since they are copied whole. Eight times as fast as torch's index_select.
    return ids.take(rows, axis=0).take(columns, axis=1)


@dataclass(frozen=True)
class Scale:
    """Resizes to a size times a random ratio: pictures bilinearly, masks to the nearest id.

    Attributes:
        size: in pixels: with `keep_ratio`, limits (short edge, long edge), of which either may be None; without it,
            (height, width). None, or two limits of None: the picture's own size.
        ratio_range: smallest and largest ratio; it is drawn uniformly.
        keep_ratio: whether the picture keeps its aspect ratio.
        antialias: smooth the picture when shrinking; the original pipelines do not.
        short_edges: lengths in pixels, of which one at random replaces the short edge in `size` (mmseg's
            `multiscale_mode="value"`); empty: none does.
        multiple: both sides are stretched to the next multiple of this number.
    """

    size: tuple[int | None, int | None] | None = None
    ratio_range: tuple[float, float] = (1.0, 1.0)
    keep_ratio: bool = True
    antialias: bool = False
    short_edges: tuple[int, ...] = ()
    multiple: int = 1

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        # A picture that was decoded at a reduced size has the scale of its mask.
        size = tuple((image if mask is None else mask).shape[-2:])
        return _resize(image, mask, self.target(size, rng), self.antialias)

    def target(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """The random (height, width) that a picture of a (height, width) gets, in pixels."""
        first, second = self.size or (None, None)
        if self.short_edges:
            first = self.short_edges[int(rng.integers(len(self.short_edges)))]
        low, high = self.ratio_range
        ratio = rng.uniform(low, high) if high > low else low
        height, width = size
        if self.keep_ratio or self.size is None:
            target = keep_ratio_size((height, width), first, second, ratio=ratio)
        else:
            target = (max(1, int(first * ratio)), max(1, int(second * ratio)))
        return tuple(-(-side // self.multiple) * self.multiple for side in target)


@dataclass(frozen=True)
class RandomCrop:
    """Cuts out a random box of at most the given size; avoids boxes that one class fills.

    Attributes:
        size: (height, width) in pixels; along a side where the picture is smaller, it is taken whole.
        cat_max_ratio: a box is drawn again, up to `tries` times, while its commonest class covers this share or more
            of the pixels that count, or while no pixel counts. 1.0 takes the first box.
        ignore_index: id that does not count.
        tries: largest number of further draws.
    """

    size: tuple[int, int]
    cat_max_ratio: float = 1.0
    ignore_index: int = 255
    tries: int = 10

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        ids = None if mask is None else mask.as_subclass(torch.Tensor).numpy()
        box, part = self.drawn(tuple(image.shape[-2:]), ids, rng)
        return _cut(image, box), None if part is None else tv_tensors.Mask(torch.from_numpy(part))

    def drawn(
        self, size: tuple[int, int], ids: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Box, np.ndarray | None]:
        """The random box in a picture, and what it holds of the mask.

        Args:
            size: (height, width) of the picture in pixels.
            ids: the mask, (height, width), which is resized to that size in the box alone; None: there is none.
            rng: source of random numbers.

        Returns:
            rows and columns of the box; the ids in it, None without a mask.
        """
        height, width = (min(side, limit) for side, limit in zip(size, self.size, strict=True))
        limited = ids is not None and self.cat_max_ratio < 1.0 and (height, width) != size
        for attempt in range(self.tries + 1):
            top = int(rng.integers(0, size[0] - height + 1))
            left = int(rng.integers(0, size[1] - width + 1))
            box = (slice(top, top + height), slice(left, left + width))
            part = None if ids is None else _resized_box(ids, size, box)
            if not limited or attempt == self.tries or self._mixed(part):
                break
        return box, part

    def _mixed(self, ids: np.ndarray) -> bool:
        if ids.dtype == np.uint8:
            counts = torch.bincount(torch.from_numpy(ids).reshape(-1), minlength=256).numpy()
            if 0 <= self.ignore_index < 256:
                counts[self.ignore_index] = 0
        else:
            found, counts = np.unique(ids, return_counts=True)
            counts = counts[found != self.ignore_index]
        return counts.max(initial=0) < self.cat_max_ratio * counts.sum()


def _cut(image: tv_tensors.Image, box: Box) -> tv_tensors.Image:
    return tv_tensors.Image(image.as_subclass(torch.Tensor)[(slice(None), *box)])


@dataclass(frozen=True)
class _ScaledCrop:
    """A `Scale` and the `RandomCrop` after it, with the result and the draws of one after the other.

    The mask decides where the box lies before the picture is resized, and is itself resized in boxes alone.
    """

    scale: Scale
    crop: RandomCrop

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        ids = None if mask is None else mask.as_subclass(torch.Tensor).numpy()
        # A picture that was decoded at a reduced size has the scale of its mask.
        target = self.scale.target(tuple(image.shape[-2:]) if ids is None else ids.shape, rng)
        box, part = self.crop.drawn(target, ids, rng)
        image, _ = _resize(image, None, target, self.scale.antialias)
        return _cut(image, box), None if part is None else tv_tensors.Mask(torch.from_numpy(part))


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors picture and mask left to right with the given probability."""

    probability: float = 0.5

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        if rng.random() >= self.probability:
            return image, mask
        return TF.horizontal_flip(image), None if mask is None else TF.horizontal_flip(mask)


_ROWS = 128
"""Rows that are normalised at a time."""

_BLOCK = 1 << 15
"""Pixels whose colours are shifted at a time, so that all that is computed of them stays in the processor's cache."""


def _shift_colors(image: torch.Tensor, saturation: float, degrees: float) -> torch.Tensor:
    """Scale the saturation of an RGB picture, uint8 (3, height, width), and turn its hue by ``degrees``, as in HSV."""
    levels = image.numpy()
    shifted = np.empty(levels.shape, np.uint8)
    rows = max(1, _BLOCK // levels.shape[2])
    for top in range(0, levels.shape[1], rows):
        part = levels[:, top : top + rows].astype(np.float32, order="C").reshape(3, -1)
        _shift_block(part, np.float32(saturation), np.float32(degrees / 60.0))
        shifted[:, top : top + rows] = part.reshape(3, -1, levels.shape[2])
    return torch.from_numpy(shifted)


def _shift_block(colors: np.ndarray, saturation: np.float32, turn: np.float32) -> None:
    """Shift colours, float32 (3, pixels), in place; the hue turns by ``turn`` sextants.

    Half a level is added, so that cutting off fractions rounds.
    """
    red, green, blue = colors
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, np.float32(1.0))
    if turn == 0.0:  # the hue stays, so each channel's distance from the brightest one is scaled
        scale = np.minimum(saturation, value / divisor)
        colors -= value
        colors *= scale
        colors += value
    else:
        inverse = 1 / divisor
        hue = np.where(
            value == red,
            (green - blue) * inverse,
            np.where(
                value == green, (blue - red) * inverse + np.float32(2.0), (red - green) * inverse + np.float32(4.0)
            ),
        )
        hue += turn
        chroma *= saturation
        np.minimum(chroma, value, out=chroma)
        for channel, offset in zip(colors, (5.0, 3.0, 1.0), strict=True):
            sextant = hue + np.float32(offset)
            sextant -= np.floor(sextant * np.float32(1.0 / 6.0)) * np.float32(6.0)
            np.minimum(sextant, np.float32(4.0) - sextant, out=sextant)
            np.clip(sextant, 0.0, 1.0, out=sextant)
            sextant *= chroma
            np.subtract(value, sextant, out=channel)
    colors += np.float32(0.5)


@dataclass(frozen=True)
class PhotometricDistortion:
    """Random brightness, contrast, saturation and hue, each applied with probability one half.

    Order: brightness, contrast (or last, with probability one half), saturation, hue. Values are cut to 0..255 and to
    whole numbers after brightness, after contrast, and after saturation and hue. Pictures are RGB.

    Attributes:
        brightness: largest number of grey levels that are added or subtracted.
        contrast: smallest and largest factor on the grey levels.
        saturation: smallest and largest factor on the saturation.
        hue: the hue turns by -hue..hue-1 steps of 2 degrees; 0 leaves it unchanged.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        offset = rng.uniform(-self.brightness, self.brightness) if rng.random() < 0.5 else 0.0
        contrast_last = rng.random() < 0.5
        factor = rng.uniform(*self.contrast) if rng.random() < 0.5 else 1.0
        saturation = rng.uniform(*self.saturation) if rng.random() < 0.5 else 1.0
        degrees = 2.0 * int(rng.integers(-self.hue, self.hue)) if self.hue and rng.random() < 0.5 else 0.0

        first = np.arange(256)
        first = np.clip(first + offset, 0, 255).astype(np.uint8)
        if not contrast_last:
            first = np.clip(first * factor, 0, 255).astype(np.uint8)
        plain = _look_up(image.as_subclass(torch.Tensor), first)
        if saturation != 1.0 or degrees != 0.0:
            plain = _shift_colors(plain, saturation, degrees)
        if contrast_last and factor != 1.0:
            plain = _look_up(plain, np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8))
        return tv_tensors.Image(plain), mask


def _look_up(image: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    if (table == np.arange(256)).all():
        return image
    levels = (
        np.ascontiguousarray(image.permute(1, 2, 0).numpy()) if image.stride(0) == 1 else image.contiguous().numpy()
    )
    found = bytearray(levels.reshape(-1).data).translate(table.tobytes())  # four times as fast as table[levels]
    levels = np.frombuffer(found, np.uint8).reshape(levels.shape)
    return torch.from_numpy(levels.transpose(2, 0, 1) if image.stride(0) == 1 else levels)


@dataclass(frozen=True)
class FromTorchvision:
    """A transform of torchvision v2 as a step; torch's random numbers are seeded from the generator for it.

    Attributes:
        transform: function of a `tv_tensors.Image` and a `tv_tensors.Mask`, or of the image alone if there is no mask.
    """

    transform: Any

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator) -> Pair:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(0, 2**63 - 1)))
            if mask is None:
                return self.transform(image), None
            return self.transform(image, mask)


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

    def __call__(self, image: Any, mask: Any = None, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Transform one pair, or a batch of rows.

        Args:
            image: uint8, an array (height, width, num_channels) or tensor (num_channels, height, width), RGB if there
                are three channels; or a mapping of the column `image`, and `label` if there are masks, to lists.
            mask: ids (height, width), or None.
            rng: source of random numbers; None seeds one from torch's.

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
        levels, ids = self.moved(image, mask, rng)
        height, width = levels.shape[-2:]
        values = torch.empty((self.num_channels, *self.padded_size((height, width))))
        self.normalize(levels, values)
        result = {"pixel_values": values}
        if ids is not None:
            result["labels"] = ids.long().contiguous() if self.keep_label_size else self._padded(ids)
        return result

    def moved(self, image: Any, mask: Any, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the steps make of one pair, before normalisation and padding.

        Args:
            image, mask, rng: see `__call__`.

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
            picture, moving = step(picture, moving, rng)
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
                step = _ScaledCrop(steps.pop(), step)
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
        return levels.flip(0) if self.channel_order == "bgr" else levels

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

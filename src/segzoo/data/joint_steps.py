"""Steps of training pipelines that change picture and mask alike: mmsegmentation's, on torchvision v2.

Every random step draws from the `numpy.random.Generator` that it is given and from nothing else. Pictures are uint8: in
channels-last memory while they are whole, which is what torchvision resizes fastest on a CPU, and from the crop on with
one plane for each channel, which is fastest for everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from segzoo.images.resizing import keep_ratio_size

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


CROP_SHARE = 1500 / 512**2
"""Share of a crop with which it shows a class, at most: DAFormer's 3000 pixels times 0.5, of crops of 512 x 512."""


@dataclass(frozen=True)
class RandomCrop:
    """Cuts out a random box of at most the given size; avoids boxes that one class fills.

    For a class that balanced sampling drew, the box is drawn again, as in DAFormer, up to `tries` times until it holds
    `CROP_SHARE` of the class, or half of what the picture has of it where this is less.

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

    def __call__(
        self,
        image: tv_tensors.Image,
        mask: tv_tensors.Mask | None,
        rng: np.random.Generator,
        wanted: int | None = None,
    ) -> Pair:
        ids = None if mask is None else mask.as_subclass(torch.Tensor).numpy()
        box, part = self.drawn(tuple(image.shape[-2:]), ids, rng, wanted)
        return _cut(image, box), None if part is None else tv_tensors.Mask(torch.from_numpy(part))

    def drawn(
        self, size: tuple[int, int], ids: np.ndarray | None, rng: np.random.Generator, wanted: int | None = None
    ) -> tuple[Box, np.ndarray | None]:
        """The random box in a picture, and what it holds of the mask.

        Args:
            size: (height, width) of the picture in pixels.
            ids: the mask, (height, width), which is resized to that size in the box alone; None: there is none.
            rng: source of random numbers.
            wanted: id of the class that the box shall show; None: of any.

        Returns:
            rows and columns of the box; the ids in it, None without a mask.
        """
        box, part = self._box(size, ids, rng)
        if ids is None or wanted is None:
            return box, part
        in_picture = np.count_nonzero(ids == wanted) * math.prod(size) / ids.size
        enough = min(CROP_SHARE * math.prod(self.size), in_picture / 2)
        for _ in range(self.tries):
            if np.count_nonzero(part == wanted) >= enough:
                break
            box, part = self._box(size, ids, rng)
        return box, part

    def _box(
        self, size: tuple[int, int], ids: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Box, np.ndarray | None]:
        """As `drawn`, of any class."""
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
class ScaledCrop:
    """A `Scale` and the `RandomCrop` after it, with the result and the draws of one after the other.

    The mask decides where the box lies before the picture is resized, and is itself resized in boxes alone.
    """

    scale: Scale
    crop: RandomCrop

    def __call__(
        self,
        image: tv_tensors.Image,
        mask: tv_tensors.Mask | None,
        rng: np.random.Generator,
        wanted: int | None = None,
    ) -> Pair:
        ids = None if mask is None else mask.as_subclass(torch.Tensor).numpy()
        # A picture that was decoded at a reduced size has the scale of its mask.
        target = self.scale.target(tuple(image.shape[-2:]) if ids is None else ids.shape, rng)
        box, part = self.crop.drawn(target, ids, rng, wanted)
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

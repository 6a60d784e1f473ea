"""One way in for the many forms in which people hold pictures and masks: tensors, channels first, ids as int64."""

import os
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import ChannelDimension, ImageInput, load_image

from segzoo.errors import SegZooError

# Pillow's modes with more than 8 bits a channel: conversion to RGB would clip them silently.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")


def list_of_images(images: ImageInput) -> list[Any]:
    """A flat list of single pictures from a picture, a path, a list of either, or a 4-D array."""
    if isinstance(images, (list, tuple)):
        flat = [single for item in images for single in list_of_images(item)]
    elif isinstance(images, (str, os.PathLike)):
        flat = [_open(images)]
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        flat = list(images)
    else:
        flat = [images]
    if not flat:
        raise SegZooError("no images were given (an empty list); pass at least one.")
    return flat


def list_of_masks(masks: ImageInput, expected: int) -> list[Any]:
    """A flat list of single masks from a mask, a path, a list of either, or a (batch, height, width) array.

    Args:
        masks: the masks.
        expected: how many there should be, which tells a batch from a mask with a channel axis.
    """
    if isinstance(masks, (list, tuple)):
        return [single for item in masks for single in list_of_masks(item, expected=1)]
    if isinstance(masks, (str, os.PathLike)):
        return [_open_mask(masks)]
    if isinstance(masks, (np.ndarray, torch.Tensor)) and masks.ndim == 4:
        return list(masks)
    if isinstance(masks, (np.ndarray, torch.Tensor)) and masks.ndim == 3 and expected > 1:
        if len(masks) != expected and masks.shape[-1] in (3, 4):
            raise _not_class_ids("segmentation map", f"an array of shape {tuple(masks.shape)}")
        return list(masks)
    return [masks]


def image_to_tensor(
    image: Any,
    index: int = 0,
    *,
    num_channels: int = 3,
    convert_rgb: bool = True,
    input_data_format: str | ChannelDimension | None = None,
) -> torch.Tensor:
    """One picture as a tensor (num_channels, height, width), values and type kept.

    Args:
        image: PIL picture, NumPy array or tensor; (height, width) or with channels first or last.
        index: its place in the batch, for messages.
        num_channels: channels that the model reads.
        convert_rgb: bring pictures of other kinds to three channels; only where ``num_channels`` is 3.
        input_data_format: ``"channels_first"`` or ``"channels_last"``; None looks at the shape.

    Raises:
        SegZooError: another number of channels, more than 8 bits in a PIL picture, something that is no picture.
    """
    convert_rgb = bool(convert_rgb) and num_channels == 3
    if isinstance(image, PIL.Image.Image):
        array, input_data_format = _array_from_pil(image, index, num_channels, convert_rgb), None
    elif isinstance(image, (np.ndarray, torch.Tensor)):
        array = image
    else:
        raise SegZooError(
            f"image {index} is of type {type(image).__name__}; pass a PIL picture, a path, a NumPy array or a tensor."
        )
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim != 3:
        raise SegZooError(
            f"image {index} has the shape {tuple(tensor.shape)}; an image has (height, width), "
            "(height, width, channels) or (channels, height, width)."
        )
    elif _channels_last(tensor, index, num_channels, convert_rgb, input_data_format):
        tensor = tensor.permute(2, 0, 1)
    if convert_rgb and tensor.shape[0] == 1:
        tensor = tensor.expand(3, -1, -1)
    elif convert_rgb and tensor.shape[0] == 4:
        tensor = tensor[:3]
    if tensor.shape[0] != num_channels:
        raise _channel_mismatch(index, tensor.shape[0], num_channels)
    if 0 in tensor.shape:
        raise SegZooError(f"image {index} has no pixels (shape {tuple(tensor.shape)}).")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise SegZooError(f"image {index} holds {tensor.dtype} values; pass integers in [0, 255] or floats.")
    return tensor.contiguous()


def mask_to_tensor(mask: Any, index: int = 0) -> torch.Tensor:
    """One mask of class ids as an int64 tensor (height, width).

    Raises:
        SegZooError: values that are not integers, a colour-coded mask, something that is no mask.
    """
    name = f"segmentation map {index}"
    if isinstance(mask, PIL.Image.Image):
        if mask.mode not in _MASK_MODES:
            raise _not_class_ids(name, f"a picture in mode {mask.mode}")
        mask = np.array(mask)
    elif not isinstance(mask, (np.ndarray, torch.Tensor)):
        raise SegZooError(
            f"{name} is of type {type(mask).__name__}; pass a PIL picture, a path, a NumPy array or a tensor."
        )
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "biu":
            raise _not_integers(name, mask.dtype)
        mask = torch.from_numpy(mask.astype(np.int64))
    if mask.is_floating_point() or mask.is_complex():
        raise _not_integers(name, mask.dtype)
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    elif mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim != 2:
        raise _not_class_ids(name, f"an array of shape {tuple(mask.shape)}")
    return mask.to(torch.int64)


def _open(path: str | os.PathLike) -> PIL.Image.Image:
    """A picture from a file, a URL or base64 text, upright, in RGB."""
    path = os.fspath(path)
    try:
        # A long text without a scheme may be a picture in base64; load_image knows it.
        if len(path) < 1000 and not path.startswith(("http://", "https://", "data:")):
            with PIL.Image.open(path) as picture:
                return PIL.ImageOps.exif_transpose(picture).convert("RGB")
        return load_image(path)
    except (OSError, ValueError) as error:
        raise SegZooError(f"cannot read the image {path[:200]!r}: {error}; check the path and the file.") from error


def _open_mask(path: str | os.PathLike) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path) as picture:
            picture.load()
            return picture
    except OSError as error:
        raise SegZooError(
            f"cannot read the segmentation map {str(path)[:200]!r}: {error}; give the path of a PNG of class ids."
        ) from error


def _array_from_pil(image: PIL.Image.Image, index: int, num_channels: int, convert_rgb: bool) -> np.ndarray:
    """(height, width, channels), or (height, width) with one channel."""
    if convert_rgb:
        if image.mode in _DEEP_MODES:
            raise SegZooError(
                f"image {index} is a picture in mode {image.mode}, which has more than 8 bits a channel; convert it "
                "to 8 bits yourself (image / 256 or a stretch of its range), so that nothing is clipped unseen."
            )
        return np.array(image.convert("RGB"))
    if num_channels == 1 and image.mode not in _DEEP_MODES:
        image = image.convert("L")
    array = np.array(image)
    found = 1 if array.ndim == 2 else array.shape[2]
    if found != num_channels:
        raise _channel_mismatch(index, found, num_channels)
    return array[..., None] if array.ndim == 2 else array


def _channels_last(tensor, index: int, num_channels: int, convert_rgb: bool, input_data_format) -> bool:
    """Whether the last axis holds the channels; exact matches go before those that a conversion could use."""
    if input_data_format is not None:
        return ChannelDimension(input_data_format) == ChannelDimension.LAST
    first, last = tensor.shape[0], tensor.shape[-1]
    for counts in ((num_channels,), (1, 4) if convert_rgb else ()):
        if first in counts and last in counts:
            # Ambiguous (a picture as narrow as its channels): by the habits of the two libraries.
            return not isinstance(tensor, torch.Tensor)
        if first in counts:
            return False
        if last in counts:
            return True
    found = min(first, last)
    raise _channel_mismatch(index, found, num_channels, tuple(tensor.shape))


def _channel_mismatch(index: int, found: int, expected: int, shape: tuple[int, ...] | None = None) -> SegZooError:
    where = f" (shape {shape})" if shape is not None else ""
    return SegZooError(
        f"image {index} has {found} channels{where}, this processor and its model expect {expected}; pass "
        f"{expected} channels, or set num_channels in the processor and in the backbone's config."
    )


def _not_class_ids(name: str, what: str) -> SegZooError:
    return SegZooError(
        f"{name} is {what}, not one class id a pixel; masks are (height, width) of integers. If colours stand for "
        "classes, map them to ids first."
    )


def _not_integers(name: str, dtype) -> SegZooError:
    return SegZooError(
        f"{name} holds {dtype} values; class ids are integers: load it without scaling (no ToTensor or rescale) and "
        "pass uint8 or int64."
    )

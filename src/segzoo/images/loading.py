"""Conversion of the many forms of pictures and masks to tensors: pictures with channels first, masks as int64."""

import base64
import binascii
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch
from torchvision import tv_tensors
from transformers.image_utils import ChannelDimension, ImageInput

from segzoo.errors import SegZooError
from segzoo.images.masks import class_ids
from segzoo.images.reading import CorruptImageError, Picture, channel_mismatch, fit_channels, open_picture, upright
from segzoo.images.values import EIGHT_BITS, FLOATS, grey_levels, value_rule

_FILES = (str, os.PathLike, bytes, Mapping)


def blue_first(image: torch.Tensor) -> torch.Tensor:
    """A picture (3 or 4 channels, height, width) with red and blue exchanged; a fourth channel stays the last."""
    return image.flip(0) if len(image) == 3 else image[[2, 1, 0, 3]]


def list_of_images(images: ImageInput) -> list[Any]:
    """A flat list of single pictures: `Picture` for files; PIL pictures, arrays and tensors stay as they are.

    Args:
        images: a picture, a path, the bytes of a file, an undecoded value of a table, a list of any of these, or a 4-D
            array.

    Raises:
        SegZooError: a file cannot be read, or there are no pictures.
    """
    if isinstance(images, (list, tuple)):
        flat = [single for item in images for single in list_of_images(item)]
    elif isinstance(images, _FILES):
        flat = [_opened(images, "image")]
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
        expected: how many there should be; it tells a batch from a mask with a channel axis.

    Raises:
        SegZooError: a file cannot be read, or an array holds colours.
    """
    if isinstance(masks, (list, tuple)):
        return [single for item in masks for single in list_of_masks(item, expected=1)]
    if isinstance(masks, _FILES):
        return [_opened(masks, "segmentation map")]
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
    rescale_factor: float | None = None,
) -> torch.Tensor:
    """One picture as a tensor (num_channels, height, width): uint8, or the floats of a float array.

    Args:
        image: `Picture`, PIL picture (not turned: its EXIF rotation is left to the caller), NumPy array or tensor;
            (height, width), or with channels first or last. Integers of other types than uint8 become uint8 by the
            rule of their type (`segzoo.images.values`); floats keep their values.
        index: position in the batch, for messages.
        num_channels: channels that the model reads.
        convert_rgb: convert grey, palette, CMYK and RGBA pictures to three channels; has an effect only if
            ``num_channels`` is 3.
        input_data_format: ``"channels_first"`` or ``"channels_last"``; None decides by the shape.
        rescale_factor: the factor by which the caller will multiply the values; None: it will not.

    Raises:
        SegZooError: another number of channels, values outside 0..255, NaN, a ``rescale_factor`` for values of more
            than 8 bits, or something that is not a picture.

    Warns:
        UserWarning: floats from 0 to 1 that will be rescaled once more.
    """
    convert = bool(convert_rgb) or num_channels != 3
    if isinstance(image, PIL.Image.Image):
        image = Picture(image, f"image {index}")
    if isinstance(image, Picture):
        _check_factor(image.rule is EIGHT_BITS, rescale_factor, image.name)
        tensor = torch.from_numpy(image.grey_levels(num_channels, convert=convert)).permute(2, 0, 1)
    elif isinstance(image, (np.ndarray, torch.Tensor)):
        tensor = _array_to_tensor(image, f"image {index}", num_channels, convert, input_data_format, rescale_factor)
    else:
        raise SegZooError(
            f"image {index} is of type {type(image).__name__}; pass a PIL picture, a path, a NumPy array or a tensor."
        )
    return tensor.contiguous()


def _array_to_tensor(
    array: np.ndarray | torch.Tensor,
    name: str,
    num_channels: int,
    convert: bool,
    input_data_format: str | ChannelDimension | None,
    rescale_factor: float | None,
) -> torch.Tensor:
    if array.ndim not in (2, 3):
        raise SegZooError(
            f"{name} has the shape {tuple(array.shape)}; an image has (height, width), "
            "(height, width, channels) or (channels, height, width)."
        )
    if 0 in array.shape:
        raise SegZooError(f"{name} has no pixels (shape {tuple(array.shape)}).")
    tensor = _typed(array, name, rescale_factor)
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif _channels_last(array, name, num_channels, convert, input_data_format):
        tensor = tensor.permute(2, 0, 1)
    return fit_channels(tensor, num_channels, name, convert=convert)


def _typed(array: np.ndarray | torch.Tensor, name: str, rescale_factor: float | None) -> torch.Tensor:
    """The array as a tensor of uint8 or floats, of the same shape and on the same device."""
    device = array.device if isinstance(array, torch.Tensor) else None
    if isinstance(array, torch.Tensor) and (array.dtype == torch.uint8 or array.is_floating_point()):
        tensor = array
    else:
        values = array.cpu().numpy() if isinstance(array, torch.Tensor) else array
        if values.dtype.kind not in "iuf":
            raise SegZooError(f"{name} holds torch.{values.dtype} values; pass integers in [0, 255] or floats.")
        rule = value_rule(values.dtype)
        if rule is not FLOATS:
            _check_factor(rule is EIGHT_BITS, rescale_factor, name)
            values = grey_levels(values, name)
        elif not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    if tensor.is_floating_point():
        low, high = (float(value) for value in tensor.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise SegZooError(f"{name} holds NaN or infinite values; fill them first, for example with nan_to_num.")
        if rescale_factor is not None and rescale_factor < 1 and low >= 0 and 0 < high <= 1:
            warnings.warn(
                "The values of an image are floats from 0 to 1, and do_rescale multiplies them by rescale_factor once more, "
                "which leaves a nearly black picture. Pass do_rescale=False, or values from 0 to 255.",
                stacklevel=2,
            )
    return tensor


def _check_factor(eight_bits: bool, rescale_factor: float | None, name: str) -> None:
    """Check a factor: values of more bits become 0..255, and a factor for larger values would make them black."""
    if not eight_bits and rescale_factor is not None and rescale_factor < 1 / 256:
        raise SegZooError(
            f"{name}: values of this type are brought to 0..255, but rescale_factor {rescale_factor:g} is for larger ones; "
            "pass the values as a float32 array, which is taken as it is, or set rescale_factor, image_mean and image_std "
            "for 0..255."
        )


def mask_to_tensor(mask: Any, index: int = 0) -> torch.Tensor:
    """One mask of class ids as an int64 tensor (height, width).

    Args:
        mask: `Picture`, PIL picture (not turned), NumPy array or tensor.
        index: position in the batch, for messages.

    Raises:
        SegZooError: values that are not whole numbers, a colour-coded mask, or something that is not a mask.

    Warns:
        UserWarning: the channels of the mask are all equal, and the first one was read.
    """
    name = f"segmentation map {index}"
    if (
        isinstance(mask, PIL.Image.Image)
        or isinstance(mask, np.ndarray)
        and mask.ndim == 3
        and 1 < mask.shape[-1] <= 4
        and mask.shape[0] != 1
    ):
        mask = Picture(mask, name)
    if isinstance(mask, Picture):
        mask = upright(class_ids(mask), mask.orientation)
    elif not isinstance(mask, (np.ndarray, torch.Tensor)):
        raise SegZooError(
            f"{name} is of type {type(mask).__name__}; pass a PIL picture, a path, a NumPy array or a tensor."
        )
    dtype = mask.dtype
    if isinstance(mask, np.ndarray):
        if dtype.kind not in "biuf":
            raise _not_integers(name, dtype)
        mask = torch.from_numpy(mask.astype(np.float64 if mask.dtype.kind == "f" else np.int64))
    if mask.is_complex() or (mask.is_floating_point() and not torch.equal(mask, mask.round())):  # NaN is not equal
        raise _not_integers(name, dtype)
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    elif mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim != 2:
        raise _not_class_ids(name, f"an array of shape {tuple(mask.shape)}")
    return mask.to(torch.int64)


def reduce_labels(mask: Any, ignore_index: int = 255) -> Any:
    """Apply the label rule of data sets whose masks hold 0 for "no class": 0 becomes `ignore_index`, other ids drop by
    one.

    It is mmsegmentation's `reduce_zero_label`.

    Args:
        mask: array or tensor of ids; ids equal to `ignore_index` stay.
        ignore_index: id of pixels that do not count.

    Returns:
        An array or tensor like `mask`, of the same shape; of the same dtype if `ignore_index` fits into it, else
        int64.
    """
    if isinstance(mask, torch.Tensor):
        plain = mask.as_subclass(torch.Tensor)
        if not torch.iinfo(plain.dtype).min <= ignore_index <= torch.iinfo(plain.dtype).max:
            plain = plain.long()
        reduced = torch.where((plain == 0) | (plain == ignore_index), ignore_index, plain - 1).to(plain.dtype)
        return tv_tensors.wrap(reduced, like=mask) if isinstance(mask, tv_tensors.TVTensor) else reduced
    mask = np.asarray(mask)
    if not np.iinfo(mask.dtype).min <= ignore_index <= np.iinfo(mask.dtype).max:
        mask = mask.astype(np.int64)
    return np.where((mask == 0) | (mask == ignore_index), ignore_index, mask - 1).astype(mask.dtype)


def _opened(source: Any, what: str) -> Picture:
    """A picture from a file, an address, bytes, base64 text or an undecoded value of a table."""
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    shown = source[:200] if isinstance(source, str) else None
    try:
        if isinstance(source, str) and (source.startswith("data:") or len(source) >= 1000):
            source = base64.b64decode(source.partition(",")[2] if source.startswith("data:") else source)
        return open_picture(source, what=what)
    except binascii.Error as error:
        raise SegZooError(f"cannot read the {what} {shown!r}: {error}; pass a path, or base64 text.") from None
    except CorruptImageError as error:
        if shown is None:
            raise
        raise CorruptImageError(
            f"cannot read the {what} {shown!r}: {str(error).removeprefix(f'{shown}: ')}"
        ) from error


def _channels_last(
    array: np.ndarray | torch.Tensor,
    name: str,
    num_channels: int,
    convert: bool,
    input_data_format: str | ChannelDimension | None,
) -> bool:
    """Whether the last axis holds the channels; an exact number of channels wins over one that can be converted."""
    if input_data_format is not None:
        return ChannelDimension(input_data_format) == ChannelDimension.LAST
    first, last = array.shape[0], array.shape[-1]
    others = {3: (1, 4), 1: (3, 4)}.get(num_channels, ()) if convert else ()
    for counts in ((num_channels,), others):
        if first in counts and last in counts:
            # Ambiguous, such as a picture with 3 rows: tensors usually have channels first, arrays last.
            return not isinstance(array, torch.Tensor)
        if first in counts:
            return False
        if last in counts:
            return True
    raise channel_mismatch(min(first, last), num_channels, name, f" (shape {tuple(array.shape)})")


def _not_class_ids(name: str, what: str) -> SegZooError:
    return SegZooError(
        f"{name} is {what}, not one class id a pixel; masks are (height, width) of integers. If colours stand for "
        "classes, map them to ids first."
    )


def _not_integers(name: str, dtype: Any) -> SegZooError:
    return SegZooError(
        f"{name} holds {dtype} values that are no whole numbers; class ids are integers: load it without scaling (no ToTensor or rescale) and "
        "pass uint8 or int64."
    )

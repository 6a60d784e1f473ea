"""Resizing of feature maps and logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.errors import SegZooError


def resize(
    x: Tensor, size: Sequence[int | torch.SymInt], mode: str = "bilinear", align_corners: bool = False
) -> Tensor:
    """Resize maps (B, C, H, W) to ``size`` (height, width); returns ``x`` itself when the size is already right.

    ``align_corners`` matters for "bilinear" and "bicubic" only; nothing is antialiased.
    """
    if same_size(x.shape[-2:], size):
        return x
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=None if mode == "nearest" else align_corners)


def enlarge(x: Tensor, factor: int, *, align_corners: bool = False) -> Tensor:
    """Resize maps (B, C, H, W) bilinearly to ``factor`` times their sides."""
    return resize(x, [side * factor for side in x.shape[-2:]], align_corners=align_corners)


def rescale(x: Tensor, scale: float, *, align_corners: bool = False) -> Tensor:
    """Resize maps (B, C, H, W) bilinearly by a factor; the sides are rounded down.

    Where a side is rounded, the places that are read differ from those of `resize` to the same size.

    Raises:
        SegZooError: a side would be below one pixel.
    """
    if scale == 1:
        return x
    if not is_exporting() and min(x.shape[-2:]) * scale < 1:
        raise SegZooError(f"a map of {tuple(x.shape[-2:])} cannot be made {scale} times as large; give larger images")
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=align_corners)


def concatenate(
    maps: Sequence[Tensor], align_corners: bool = False, *, size: Sequence[int | torch.SymInt] | None = None
) -> Tensor:
    """Maps (B, C, H, W) of any resolutions, resized (bilinear) and joined along their channels.

    Args:
        maps: one map at least.
        align_corners: as in `resize`.
        size: (height, width) of the result; None is the first map's.
    """
    size = maps[0].shape[-2:] if size is None else size
    resized = [resize(x, size, align_corners=align_corners) for x in maps]
    return resized[0] if len(resized) == 1 else torch.cat(resized, dim=1)


def in_format_of(x: Tensor, result: Tensor) -> Tensor:
    """A result (B, C, H, W) in the memory format of a map: a mixture makes the layers behind it slow."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def same_size(size: Sequence[int | torch.SymInt], other: Sequence[int | torch.SymInt]) -> bool:
    """Whether two sizes are equal; in exports whether they are for every size that is left free."""
    if is_exporting():
        # Asking whether free sizes are equal would tie the exported graph to those for which the answer holds.
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(a == b) for a, b in zip(size, other, strict=True))
    return tuple(size) == tuple(other)

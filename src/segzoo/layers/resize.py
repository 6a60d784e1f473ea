"""Resizing of feature maps and logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.compat import is_exporting


def resize(
    x: Tensor, size: Sequence[int | torch.SymInt], mode: str = "bilinear", align_corners: bool = False
) -> Tensor:
    """Resize maps (B, C, H, W) to ``size`` (height, width); returns ``x`` itself when the size is already right.

    ``align_corners`` matters for "bilinear" and "bicubic" only; nothing is antialiased.
    """
    if _same(x.shape[-2:], size):
        return x
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=None if mode == "nearest" else align_corners)


def concatenate(maps: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Maps (B, C, H, W) of any resolutions, resized to the first one's (bilinear) and joined along their channels."""
    first, *others = maps
    if not others:
        return first
    return torch.cat([first, *(resize(x, first.shape[-2:], align_corners=align_corners) for x in others)], dim=1)


def _same(size: Sequence[int | torch.SymInt], other: Sequence[int | torch.SymInt]) -> bool:
    if is_exporting():
        # Asking whether free sizes are equal would tie the exported graph to those for which the answer holds.
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(a == b) for a, b in zip(size, other, strict=True))
    return tuple(size) == tuple(other)

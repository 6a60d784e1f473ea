"""Resizing of feature maps and logits."""

from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """Resize maps (B, C, H, W) to ``size`` (height, width); returns ``x`` itself when the size is already right.

    ``align_corners`` only matters for bilinear and bicubic; nothing is antialiased.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=None if mode == "nearest" else align_corners)

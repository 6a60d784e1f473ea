"""Maps as the tokens of a transformer, and back. Both are views where the map is channels-last in memory."""

from torch import Tensor, nn

from segzoo.compat import is_exporting


def to_tokens(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (B, H * W, C) as a map (B, C, H, W) of ``size`` (H, W)."""
    # A transpose first would leave a single image with strides that operators do not recognise as channels-last.
    x = x.unflatten(1, size).permute(0, 3, 1, 2)
    # Of other maps traced programs find out how they lie in memory, and then take no map of one row or column.
    return x.contiguous() if is_exporting() else x


def over_pixels(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer of tokens (B, N, C) makes of a channels-last map (B, H, W, C): a map of the same height and width.

    Linear layers take maps too, but quantised ones of some libraries take tokens alone.
    """
    return layer(x.flatten(1, 2)).unflatten(1, x.shape[1:3])

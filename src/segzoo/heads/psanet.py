"""PSANet's head: each pixel predicts how much it takes from every other one, and how much it gives to it.

From "PSANet: Point-wise Spatial Attention Network for Scene Parsing" (Zhao et al., 2018),
https://hszhao.github.io/papers/eccv18_psanet.pdf, as mmsegmentation's ``PSAHead`` trains it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, OneMapHeadConfig
from segzoo.layers import resize, to_map, to_tokens
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch
from segzoo.sizes import MAX_SIZE

_Side = int | torch.SymInt


@strict
class PSAHeadConfig(OneMapHeadConfig):
    """Options of ``PSAHead``, besides those of ``OneMapHeadConfig``.

    Args:
        psa_type: "collect", "distribute", or "bi-direction" for both.
        mask_size: (height, width) of the neighbourhood for which a pixel predicts weights, in pixels of the shrunk map.
        compact: the weights belong to the places of a shrunk map of ``mask_size`` pixels, not to offsets from the pixel
            itself; the head takes maps of this size alone.
        shrink_factor: by how much the map is shrunk for the attention.
        normalization_factor: what the sums are divided by; None is the number of pixels of the mask.
        psa_softmax: the weights are the softmax of what is predicted. Without it they are the predictions.

    Raises:
        SegZooError: ``mask_size`` is not two numbers or too large, or ``normalization_factor`` is 0.
    """

    model_type = "segzoo_psa_head"

    channels: int = 512
    psa_type: Literal["collect", "distribute", "bi-direction"] = "bi-direction"
    mask_size: Ints = (89, 89)
    compact: bool = False
    shrink_factor: int = 2
    normalization_factor: float | None = 1.0
    psa_softmax: bool = True

    def check(self) -> None:
        """``mask_size`` has a height and a width, and ``normalization_factor`` is a number to divide by."""
        super().check()
        if len(self.mask_size) != 2 or self.mask_size[0] * self.mask_size[1] > MAX_SIZE:
            raise SegZooError(
                f"{type(self).__name__}: mask_size={self.mask_size} must be a height and a width, with {MAX_SIZE} pixels "
                "at most"
            )
        if self.normalization_factor == 0:
            raise SegZooError(f"{type(self).__name__}: normalization_factor=0 cannot be divided by; 1.0 is usual")

    @classmethod
    def tiny(cls) -> Self:
        return cls(in_channels=[32], in_index=[2], channels=16, mask_size=[3, 4], num_labels=5)


class PointwiseAttention(nn.Module):
    """One of the head's directions.

    Args:
        config: of the head.
        collects: whether a pixel's predictions weigh what it takes from the others, rather than what it gives to them.
    """

    def __init__(self, config: PSAHeadConfig, *, collects: bool) -> None:
        super().__init__()
        self.config = config
        # Without offsets the original takes the two for each other, where it has both.
        self.collects = collects != (config.compact and config.psa_type == "bi-direction")
        width, (height, across) = config.channels, config.mask_size
        self.reduction = config.block(sum(config.in_channels), width, 1)
        self.conv = config.block(width, width, 1)
        self.scores = Conv2d(width, height * across, 1, bias=False)

    def forward(self, x: Tensor, size: tuple[_Side, _Side], aligned: _Side) -> Tensor:
        """(B, C, H, W) -> (B, channels, *size), in which each pixel is a sum of all.

        Args:
            x: the head's input.
            size: (height, width) of the shrunk map.
            aligned: whether shrinking aligns the centres of the corner pixels, 0 or 1.
        """
        config = self.config
        x = _resized(self.reduction(x), size, aligned)
        scores = self._by_pixels(self.scores(self.conv(x)))
        if config.psa_softmax:
            scores = scores.softmax(2 if self.collects else 1)
        weights = scores if self.collects else scores.mT
        factor = config.normalization_factor
        divisor = config.mask_size[0] * config.mask_size[1] if factor is None else factor
        return to_map(weights @ to_tokens(x), size) * (1.0 / divisor)

    def _by_pixels(self, scores: Tensor) -> Tensor:
        """Predictions (B, mask height * width, H, W) -> (B, H * W, H * W): of each pixel for each other one.

        Raises:
            SegZooError: the head is ``compact``, and the map has another number of pixels than the mask.
        """
        height, width = scores.shape[-2:]
        if self.config.compact:
            if not is_exporting() and height * width != scores.shape[1]:
                raise SegZooError(
                    f"PSAHead with compact=True takes maps that shrink to {scores.shape[1]} pixels, its mask_size "
                    f"{self.config.mask_size}, and got one of {height}x{width}; use images of the size of its training"
                )
            return scores.flatten(2)
        down, right = self.config.mask_size
        rows, row_is_there = offsets(height, down, scores)
        columns, column_is_there = offsets(width, right, scores)
        places = rows[:, None, :, None], columns[None, :, None, :]
        own = (torch.arange(side, device=scores.device) for side in (height, width))
        here = next(own)[:, None, None, None], next(own)[None, :, None, None]
        found = scores.unflatten(1, (down, right))[:, places[0], places[1], here[0], here[1]]
        there = row_is_there[:, None, :, None] & column_is_there[None, :, None, :]
        # What lies outside the mask has the score 0, and takes part in a softmax.
        return found.masked_fill(~there, 0.0).flatten(3, 4).flatten(1, 2)


def offsets(length: _Side, mask: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(index, inside) of two positions on a line, each (length, length); made once for each length.

    ``index[i, j]`` is the place of the offset from position i to j in a mask, whose middle is i, and ``inside[i, j]``
    whether the mask reaches so far.

    Args:
        length: number of positions.
        mask: number of offsets.
        like: a tensor on the device of the result.
    """
    traced = torch.compiler.is_compiling() or is_exporting() or isinstance(like, FakeTensor)
    if traced or (like.is_cuda and torch.cuda.is_current_stream_capturing()):
        return _offsets(length, mask, like.device)  # a constant of the program, whose memory is its own
    return _kept_offsets(length, mask, like.device)


def _offsets(length: _Side, mask: int, device: torch.device) -> tuple[Tensor, Tensor]:
    places = torch.arange(length, device=device)
    index = places[None] - places[:, None] + (mask - 1) // 2
    return index.clamp(0, mask - 1), (index >= 0) & (index < mask)


@lru_cache(maxsize=64)
def _kept_offsets(length: int, mask: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # the next call may be a training's
        return _offsets(length, mask, device)


class PSAHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: PSAHeadConfig

    def __init__(self, config: PSAHeadConfig):
        super().__init__(config)
        in_channels, width = sum(config.in_channels), config.channels
        directions = ("collect", "distribute") if config.psa_type == "bi-direction" else (config.psa_type,)
        self.directions = nn.ModuleDict(
            {name: PointwiseAttention(config, collects=name == "collect") for name in directions}
        )
        # Its padding lets the map grow by a pixel on each side, which the resize after it squeezes in again.
        self.projection = config.block(len(directions) * width, in_channels, 1, padding=1)
        self.fusion = config.block(2 * in_channels, width, 3, padding=1)
        self.post_init()

    def features(self, x: Tensor) -> Tensor:
        size, aligned = self._shrunk(x.shape[-2:])
        found = torch.cat([direction(x, size, aligned) for direction in self.directions.values()], dim=1)
        found = _resized(self.projection(found), x.shape[-2:], aligned)
        return self.fusion(torch.cat([x, found], dim=1))

    def _shrunk(self, size: Sequence[_Side]) -> tuple[tuple[_Side, _Side], _Side]:
        """The size of the map for the attention, and 1 where resizing to it and back aligns the corners' centres, or 0.

        Raises:
            SegZooError: nothing would be left of the map.
        """
        factor = self.config.shrink_factor
        height, width = size
        if factor == 1:
            return (height, width), int(self.config.align_corners)
        # 1 where neither side divides; in whole numbers, for sizes that are free in an export
        odd = (height % factor + factor - 1) // factor * ((width % factor + factor - 1) // factor)
        height, width = height // factor + odd, width // factor + odd
        if not is_exporting() and 0 in (height, width):
            raise SegZooError(
                f"PSAHead shrinks its map {factor} times, and one of {size[0]}x{size[1]} is too small for it; use larger images"
            )
        return (height, width), odd

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PointwiseAttention):  # which comes after its layers
            reset_as_torch(module.scores)
        else:
            super()._init_weights(module)


def _resized(x: Tensor, size: Sequence[_Side], aligned: _Side) -> Tensor:
    """`resize` with ``align_corners`` where ``aligned`` is 1; in an export with free sizes, as products that do both."""
    if isinstance(aligned, int):
        return resize(x, size, align_corners=bool(aligned))
    (height, width), (rows, columns) = x.shape[-2:], size
    return _line(height, rows, aligned, x) @ x @ _line(width, columns, aligned, x).mT


def _line(length: _Side, resized: _Side, aligned: _Side, like: Tensor) -> Tensor:
    """(resized, length): how much each position of a line counts in each of the line resized."""
    new = torch.arange(resized, device=like.device).to(like.dtype)
    corners = new * (length - 1) / new[-1:].clamp(min=1)
    cells = ((new + 0.5) * length / resized - 0.5).clamp(min=0)
    place = corners * aligned + cells * (1 - aligned)
    old = torch.arange(length, device=like.device).to(like.dtype)
    return (1 - (torch.minimum(place, old[-1:])[:, None] - old).abs()).clamp(min=0)


register_head(PSAHeadConfig, PSAHead)

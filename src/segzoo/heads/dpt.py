"""DPT's head: tokens of a plain vision transformer become maps of four resolutions, which are fused from coarse to fine.

From "Vision Transformers for Dense Prediction" (Ranftl et al., 2021), https://arxiv.org/abs/2103.13413, as
mmsegmentation's ``DPTHead`` trains it.
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_head
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig
from segzoo.layers import rescale, resize, to_map, to_tokens
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch

_MAPS = 4


@strict
class DPTHeadConfig(HeadConfig):
    """Options of ``DPTHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the four maps from the first block to the last, and after them, unless ``readout`` is
            "ignore", of their class tokens, maps of one pixel. None reads all maps of a backbone that returns these
            alone.
        readout: what becomes of a map's class token: "ignore", "add" to every pixel, or "project", by a layer that reads
            both.
        reassemble_channels: channels of the four maps at 4, 2, 1 and half times the resolution.
        activation: the function before each convolution of the fusion's residual units.

    Raises:
        SegZooError: there are not four maps, or not a class token for each of them.
    """

    model_type = "segzoo_dpt_head"

    readout: Literal["ignore", "add", "project"] = "project"
    reassemble_channels: Ints = (96, 192, 384, 768)

    def check(self) -> None:
        """There are as many maps as the head reads."""
        super().check()
        if len(self.reassemble_channels) != _MAPS:
            raise SegZooError(f"DPTHeadConfig: reassemble_channels={self.reassemble_channels} must be {_MAPS} numbers")
        maps, count = self.in_channels or self.in_index, _MAPS if self.readout == "ignore" else 2 * _MAPS
        if maps is not None and len(maps) != count:
            wanted = (
                f"{_MAPS} maps" if self.readout == "ignore" else f"{_MAPS} maps and then their {_MAPS} class tokens"
            )
            raise SegZooError(
                f"DPTHeadConfig: with readout={self.readout!r} the head reads {wanted}, and not {len(maps)} maps; name them in "
                "in_index, and let the backbone's out_features have them"
            )
        tokens = [] if self.in_channels is None else self.in_channels[_MAPS:]
        if tokens and tokens != self.in_channels[:_MAPS]:
            raise SegZooError(
                f"DPTHeadConfig: in_channels={self.in_channels} must give each class token the channels of its map"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[16, 16, 16, 32],
            channels=16,
            readout="ignore",
            reassemble_channels=[8, 8, 16, 16],
            num_labels=5,
        )


class Readout(nn.Module):
    """Brings a class token into its map by a layer that reads both."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(2 * channels, channels)
        self.activation = nn.GELU()

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Map (B, C, H, W) and class token (B, C, 1, 1) -> map (B, C, H, W)."""
        pixels = to_tokens(x)
        both = torch.cat([pixels, to_tokens(token).expand_as(pixels)], dim=2)
        return to_map(self.activation(self.linear(both)), (x.shape[2], x.shape[3]))


class ResidualUnit(nn.Module):
    """Two convolutions, an activation before and a norm after each, and a skip connection."""

    def __init__(self, config: DPTHeadConfig):
        super().__init__()
        width = config.channels
        self.activation = config.make_activation()
        self.conv1 = config.block(width, width, 3, padding=1)  # whose activation is that before the second
        self.conv2 = config.block(width, width, 3, padding=1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(self.activation(x.clone())))  # an activation may work in place


class FusionBlock(nn.Module):
    """Adds a finer map to what the blocks before made, and doubles the size.

    Args:
        config: of the head.
        first: the block is the first one, which has nothing to add to.
    """

    def __init__(self, config: DPTHeadConfig, *, first: bool):
        super().__init__()
        self.skip = None if first else ResidualUnit(config)
        self.unit = ResidualUnit(config)
        self.project = Conv2d(config.channels, config.channels, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.skip is not None:
            x = x + self.skip(resize(finer, x.shape[-2:]))
        # The original doubles first; a 1x1 convolution of the smaller map gives the same.
        return rescale(self.project(self.unit(x)), 2, align_corners=True)


class DPTHead(Head):
    """Reads four maps of one resolution, with their class tokens or without, and returns logits at 8 times that."""

    config: DPTHeadConfig

    def __init__(self, config: DPTHeadConfig):
        super().__init__(config)
        sources, widths = config.in_channels[:_MAPS], config.reassemble_channels
        self.readouts = nn.ModuleList(Readout(c) for c in sources) if config.readout == "project" else None
        self.projections = nn.ModuleList(Conv2d(c, width, 1) for c, width in zip(sources, widths, strict=True))
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], kernel_size=3, stride=2, padding=1),
            ]
        )
        self.convs = nn.ModuleList(Conv2d(width, config.channels, 3, padding=1, bias=False) for width in widths)
        self.fusion_blocks = nn.ModuleList(FusionBlock(config, first=i == 0) for i in range(_MAPS))
        self.fusion_conv = config.block(config.channels, config.channels, 3, padding=1, activation="relu")
        self.post_init()

    def features(self, *maps: Tensor) -> Tensor:
        maps, tokens = maps[:_MAPS], maps[_MAPS:]
        if self.readouts is not None:
            maps = [readout(x, token) for readout, x, token in zip(self.readouts, maps, tokens, strict=True)]
        elif self.config.readout == "add":
            maps = [x + token for x, token in zip(maps, tokens, strict=True)]
        layers = zip(maps, self.projections, self.resize_layers, self.convs, strict=True)
        finest_first = [conv(resized(project(x))) for x, project, resized, conv in layers]
        first, *others = self.fusion_blocks
        x = first(finest_first.pop())
        for block in others:
            x = block(x, finest_first.pop())
        return self.fusion_conv(x)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module in [*self.resize_layers]:
            reset_as_torch(module)
        else:
            super()._init_weights(module)


register_head(DPTHeadConfig, DPTHead)

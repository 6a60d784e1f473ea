"""ERFNet: residual blocks of 3x1 and 1x3 convolutions, and a decoder of transposed convolutions.

"ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation" (Romera et al., 2017),
https://ieeexplore.ieee.org/document/8063438. The numbers are those of mmsegmentation's ``ERFNet``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import MAX_LAYERS, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import TransposedConvNormAct, resize
from segzoo.layers.conv import Conv2d, ConvNormAct, build_norm
from segzoo.layers.initial import reset_as_torch

# Keyword arguments of ERFNetConfig.
VARIANTS = {"erfnet": {}}


@strict
class ERFNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``ERFNetBackbone``, besides those of its conv blocks.

    The maps are "stem" with stride 2, one of each stage of the encoder ("stage1", "stage2"), and one of each stage of
    the decoder ("stage3", "stage4"), of which the last has stride 2. That one alone is returned unless maps are chosen.

    Args:
        norm_eps: epsilon of the norms.
        channels: channels of the stem and of the encoder's stages, each of which halves the resolution.
        blocks: number of residual blocks in each stage of the encoder.
        dilations: dilations of the last stage's blocks, one after the other and again from the first; other blocks
            are not dilated.
        decoder_channels: channels of the decoder's stages, each of which doubles the resolution.
        decoder_blocks: number of residual blocks in each of them.
        dropout: probability with which the encoder's blocks drop a value in training.

    Raises:
        SegZooError: a list has the wrong length, or an option is out of range.
    """

    model_type = "segzoo_erfnet"

    norm_eps: float = 1e-3
    channels: Ints = (16, 64, 128)
    blocks: Ints = (5, 8)
    dilations: Ints = (2, 4, 8, 16)
    decoder_channels: Ints = (64, 16)
    decoder_blocks: Ints = (2, 2)
    dropout: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        self.dropout = float(self.dropout)  # a 0 is no count, of which there must be one
        super().__post_init__(**kwargs)

    @property
    def num_stages(self) -> int:
        return len(self.blocks) + len(self.decoder_blocks)

    @property
    def default_out_features(self) -> list[str]:
        return self.stage_names[-1:]

    def check(self) -> None:
        """Lists have an entry for each stage, and every stage of the encoder widens."""
        super().check()
        if len(self.channels) != len(self.blocks) + 1 or not self.dilations:
            raise SegZooError(
                f"ERFNet: channels={self.channels} need an entry for the stem and each stage of blocks={self.blocks}, and "
                f"dilations={self.dilations} one at least"
            )
        if not len(self.decoder_channels) == len(self.decoder_blocks) == len(self.blocks):
            raise SegZooError(
                f"ERFNet: decoder_channels={self.decoder_channels} and decoder_blocks={self.decoder_blocks} need an entry "
                f"for each of {len(self.blocks)} stages"
            )
        widths = [self.num_channels, *self.channels]
        if sorted(set(widths)) != widths:
            raise SegZooError(
                f"ERFNet: num_channels={self.num_channels} and channels={self.channels} must grow: a convolution adds to "
                "the channels of the pooled map"
            )
        if sum(self.blocks) + sum(self.decoder_blocks) > MAX_LAYERS:
            raise SegZooError(
                f"ERFNet: blocks={self.blocks} and decoder_blocks={self.decoder_blocks} are out of range; no model has "
                f"more than {MAX_LAYERS}"
            )
        if not 0 <= self.dropout < 1:
            raise SegZooError(f"ERFNet: dropout={self.dropout} must be 0 at least and below 1")

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 12, 16], blocks=[1, 2], dilations=[2, 4], decoder_channels=[12, 8], decoder_blocks=[1, 1]
        )


class ERFNetDownsampler(nn.Module):
    """Halves a map: a convolution with stride 2 beside a max pool, joined, then norm and activation.

    Args:
        config: gives norm and activation.
        in_channels, out_channels: channels of the map before and after it; the convolution adds the difference.
    """

    def __init__(self, config: ERFNetConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.norm = build_norm(config.norm, out_channels, eps=config.norm_eps, momentum=config.norm_momentum)
        self.activation = config.make_activation()

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv(x)
        pooled = resize(F.max_pool2d(x, 2), conv.shape[-2:])  # smaller where a side is odd
        return self.activation(self.norm(torch.cat([conv, pooled], dim=1)))


class ERFNetBlock(GradientCheckpointingLayer):
    """Two pairs of a 3x1 and a 1x3 convolution, of which the second is dilated, added to their input.

    Args:
        config: gives norms and activations.
        channels: channels of the map.
        dilation: dilation of the second pair.
        dropout: probability with which a value of the branch is dropped in training.
    """

    def __init__(self, config: ERFNetConfig, channels: int, *, dilation: int = 1, dropout: float = 0.0):
        super().__init__()
        options = config.block_options
        bare = options | {"norm": None}
        self.convs = nn.Sequential()
        for spread, last in ((1, False), (dilation, True)):
            vertical = {"padding": (spread, 0), "dilation": (spread, 1)}
            horizontal = {"padding": (0, spread), "dilation": (1, spread), "bias": True}
            self.convs.append(ConvNormAct(channels, channels, (3, 1), **vertical, **bare))
            activation = {"activation": None} if last else {}
            self.convs.append(ConvNormAct(channels, channels, (1, 3), **horizontal, **options | activation))
        self.dropout = nn.Dropout(dropout)
        self.activation = config.make_activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dropout(self.convs(x)) + x)


class ERFNetBackbone(Backbone):
    """Returns the maps that ``config.out_features`` names.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 2, each stage of the encoder twice that of the one
    before, each stage of the decoder half of it.
    """

    config: ERFNetConfig
    _no_split_modules = ["ERFNetBlock"]

    def __init__(self, config: ERFNetConfig):
        super().__init__(config)
        self.stem = ERFNetDownsampler(config, config.num_channels, config.channels[0])
        self.stages = nn.ModuleList()
        last = len(config.blocks) - 1
        for stage, (blocks, channels) in enumerate(zip(config.blocks, config.channels[1:], strict=True)):
            layers = nn.Sequential(ERFNetDownsampler(config, config.channels[stage], channels))
            for block in range(blocks):
                dilation = config.dilations[block % len(config.dilations)] if stage == last else 1
                layers.append(ERFNetBlock(config, channels, dilation=dilation, dropout=config.dropout))
            self.stages.append(layers)
        coarse = config.channels[-1]
        for blocks, channels in zip(config.decoder_blocks, config.decoder_channels, strict=True):
            layers = nn.Sequential(TransposedConvNormAct(coarse, channels, 3, **config.block_options))
            layers.extend(ERFNetBlock(config, channels) for _ in range(blocks))
            self.stages.append(layers)
            coarse = channels
        self.num_features = [*config.channels, *config.decoder_channels]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        maps = [self.stem(pixel_values)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            reset_as_torch(module)
        else:
            super()._init_weights(module)


register_backbone(ERFNetConfig, ERFNetBackbone, variants=VARIANTS)

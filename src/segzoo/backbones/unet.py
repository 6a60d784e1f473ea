"""UNet: an encoder, and a decoder that returns to the picture's resolution over maps of the encoder.

"U-Net: Convolutional Networks for Biomedical Image Segmentation" (Ronneberger et al., 2015),
https://arxiv.org/abs/1505.04597. The numbers are those of mmsegmentation's ``UNet``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import MAX_LAYERS, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import TransposedConvNormAct, resize
from segzoo.sizes import MAX_SIZE

# Keyword arguments of UNetConfig.
VARIANTS = {"unet_s5_d16": {}}


@strict
class UNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``UNetBackbone``, besides those of its conv blocks.

    There are as many maps as stages, from coarse to fine: "stage1" is the encoder's last one, the others are the
    decoder's. The last one has ``width`` channels and, unless the first stage has a stride, the picture's resolution.
    Lists of the decoder are in the order of the encoder's stages, from fine to coarse, without the last one.

    Args:
        width: channels of the first stage; they double with every stage.
        strides: stride of each stage's first convolution, 1 or 2. There are as many stages as strides.
        pools: whether a map is halved by a max pool before each stage but the first. A stage with stride 2 has none.
        convs: number of convolutions of each stage.
        dilations: dilation of each stage's convolutions after the first.
        decoder_convs: number of convolutions at each step of the decoder.
        decoder_dilations: dilation of these convolutions after the first.
        upsampling: how the decoder doubles a map: "interpolate" (bilinear, then a 1x1 convolution) or "deconvolve" (a
            transposed convolution).
        deconvolution_kernel: side of the transposed convolutions' kernels, even.

    Raises:
        SegZooError: a list has the wrong length, or an option is out of range.
    """

    model_type = "segzoo_unet"

    width: int = 64
    strides: Ints = (1, 1, 1, 1, 1)
    pools: list[bool] | tuple[bool, ...] = (True, True, True, True)
    convs: Ints = (2, 2, 2, 2, 2)
    dilations: Ints = (1, 1, 1, 1, 1)
    decoder_convs: Ints = (2, 2, 2, 2)
    decoder_dilations: Ints = (1, 1, 1, 1)
    upsampling: Literal["interpolate", "deconvolve"] = "interpolate"
    deconvolution_kernel: int = 4

    @property
    def num_stages(self) -> int:
        return len(self.strides)

    @property
    def stage_names(self) -> list[str]:
        return [f"stage{i}" for i in range(1, self.num_stages + 1)]

    @property
    def channels(self) -> list[int]:
        """Channels of the encoder's stages."""
        return [self.width * 2**stage for stage in range(self.num_stages)]

    @property
    def halves(self) -> list[bool]:
        """Whether each stage halves the resolution."""
        return [
            stride == 2 or pool for stride, pool in zip(self.strides, [False, *self.pools], strict=True)
        ]  # the first stage has no pool

    @property
    def size_multiple(self) -> int:
        """The encoder halves a map as often as its stages say, and the decoder doubles it as often."""
        return 2 ** sum(self.halves)

    def check(self) -> None:
        """Lists fit the number of stages, which have 2 at least, and strides are 1 or 2."""
        super().check()
        stages = len(self.strides)
        if not 2 <= stages <= 12:
            raise SegZooError(f"UNet: {stages} stages (strides={self.strides}); give 2 to 12")
        for name in ("convs", "dilations", "pools", "decoder_convs", "decoder_dilations"):
            wanted = stages - (name not in ("convs", "dilations"))
            if len(getattr(self, name)) != wanted:
                raise SegZooError(
                    f"UNet: {name}={getattr(self, name)} needs {wanted} entries for {stages} stages, as many as strides say"
                )
        if not set(self.strides) <= {1, 2}:
            raise SegZooError(f"UNet: strides={self.strides} must be 1 or 2")
        if sum(self.convs) + sum(self.decoder_convs) > MAX_LAYERS:
            raise SegZooError(
                f"UNet: convs={self.convs} and decoder_convs={self.decoder_convs} are out of range; no model has more "
                f"than {MAX_LAYERS} layers"
            )
        if self.channels[-1] > MAX_SIZE:
            raise SegZooError(
                f"UNet: {self.channels[-1]} channels in the last stage; no model has more than {MAX_SIZE}"
            )
        if self.deconvolution_kernel % 2:
            raise SegZooError(f"UNet: deconvolution_kernel={self.deconvolution_kernel} must be even")

    @classmethod
    def tiny(cls) -> Self:
        return cls(width=4)


def _convolutions(config: UNetConfig, in_channels: int, out_channels: int, **spread: int) -> nn.Sequential:
    """3x3 convolutions.

    Args:
        config: gives norms and activations.
        in_channels, out_channels: channels before the first and after each of them.
        spread: their number ``count``, the ``stride`` of the first, and the ``dilation`` of the others.
    """
    layers = nn.Sequential()
    for i in range(spread["count"]):
        stride, dilation = (spread.get("stride", 1), 1) if i == 0 else (1, spread["dilation"])
        layers.append(
            config.block(
                in_channels if i == 0 else out_channels,
                out_channels,
                3,
                stride=stride,
                padding=dilation,
                dilation=dilation,
            )
        )
    return layers


class UNetEncoderBlock(GradientCheckpointingLayer):
    """A max pool, if there is one, and convolutions.

    Args:
        config: the backbone's config.
        stage: number of the stage, from 0 on.
    """

    def __init__(self, config: UNetConfig, stage: int):
        super().__init__()
        pools = stage > 0 and config.pools[stage - 1] and config.strides[stage] == 1
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()
        self.convs = _convolutions(
            config,
            config.channels[stage - 1] if stage else config.num_channels,
            config.channels[stage],
            count=config.convs[stage],
            stride=config.strides[stage],
            dilation=config.dilations[stage],
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.pool(x))


class UNetDecoderBlock(GradientCheckpointingLayer):
    """Brings a map to the size and width of a finer one of the encoder, joins the two, and has convolutions.

    Args:
        config: the backbone's config.
        stage: number of the stage of the finer map, from 0 on.
    """

    def __init__(self, config: UNetConfig, stage: int):
        super().__init__()
        fine, coarse = config.channels[stage : stage + 2]
        doubles = config.halves[stage + 1]
        if doubles and config.upsampling == "deconvolve":
            self.upsample = TransposedConvNormAct(coarse, fine, config.deconvolution_kernel, **config.block_options)
        else:
            self.upsample = config.block(coarse, fine, 1)
        self.convs = _convolutions(
            config, 2 * fine, fine, count=config.decoder_convs[stage], dilation=config.decoder_dilations[stage]
        )

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Maps (B, C, H, W), the encoder's and the coarser one."""
        if not isinstance(self.upsample, TransposedConvNormAct):
            x = resize(x, skip.shape[-2:])
        return self.convs(torch.cat([skip, self.upsample(x)], dim=1))


class UNetBackbone(Backbone):
    """Returns the maps that ``config.out_features`` names, from coarse to fine.

    ``pixel_values`` is (B, num_channels, H, W), with sides that are multiples of ``config.size_multiple``: 16 with five
    stages of which four pool.
    """

    config: UNetConfig
    _no_split_modules = ["UNetEncoderBlock", "UNetDecoderBlock"]

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        self.encoder = nn.ModuleList(UNetEncoderBlock(config, stage) for stage in range(config.num_stages))
        self.decoder = nn.ModuleList(UNetDecoderBlock(config, stage) for stage in range(config.num_stages - 1))
        self.num_features = config.channels[::-1]
        self.post_init()

    @property
    def num_depths(self) -> int:
        """The encoder's stages, and the decoder's after them."""
        return 2 * self.config.num_stages - 1

    def parameter_depth(self, name: str) -> int:
        """The stages of the encoder from fine to coarse, those of the decoder from coarse to fine."""
        part, stage = name.split(".")[:2]
        return int(stage) if part == "encoder" else self.num_depths - 1 - int(stage)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x, skips = pixel_values, []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        maps = [x]
        for block, skip in zip(reversed(self.decoder), reversed(skips[:-1]), strict=True):
            maps.append(block(skip, maps[-1]))
        return maps


register_backbone(UNetConfig, UNetBackbone, variants=VARIANTS)

"""ConvNeXt: a pyramid of convolutional stages whose blocks have the proportions of a transformer's.

"A ConvNet for the 2020s" (Liu et al., 2022), https://arxiv.org/abs/2201.03545. The numbers are those of its
segmentation code (https://github.com/facebookresearch/ConvNeXt) and of mmpretrain's ``ConvNeXt``; those of mmcls differ
in one epsilon. Version 2 normalises the response of its channels: "ConvNeXt V2" (Woo et al., 2023),
https://arxiv.org/abs/2301.00808. All maps are channels-last inside.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import DropPath, over_pixels
from segzoo.layers.vit import FeedForward, drop_path_rates

_DEEP = [3, 3, 27, 3]

# Keyword arguments of ConvNeXtConfig.
VARIANTS = {
    "convnext_tiny": {},
    "convnext_small": {"depths": _DEEP},
    "convnext_base": {"depths": _DEEP, "channels": [128, 256, 512, 1024]},
    "convnext_large": {"depths": _DEEP, "channels": [192, 384, 768, 1536]},
    "convnext_xlarge": {"depths": _DEEP, "channels": [256, 512, 1024, 2048]},
}


@strict
class ConvNeXtConfig(BackboneConfig):
    """Options of ``ConvNeXtBackbone``; the defaults are ConvNeXt-T's.

    Args:
        channels: width of each stage.
        depths: number of blocks of each stage.
        patch_size: side and stride of the first convolution's kernel, in pixels.
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        response_norm: the blocks have version 2's `ResponseNorm`.
        norm_eps: epsilon of the norms.
        downsample_norm_eps: epsilon of the norms between the stages.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: there is no stage, or ``channels`` and ``depths`` differ in length.
    """

    model_type = "segzoo_convnext"

    channels: Ints = (96, 192, 384, 768)
    depths: Ints = (3, 3, 9, 3)
    patch_size: int = 4
    layer_scale: float | None = 1e-6
    response_norm: bool = False
    norm_eps: float = 1e-6
    downsample_norm_eps: float = 1e-6
    drop_path_rate: float = 0.0

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    def check(self) -> None:
        """Each stage has a width and a number of blocks."""
        super().check()
        if not 1 <= len(self.depths) == len(self.channels) <= 8:
            raise SegZooError(
                f"ConvNeXt: depths={self.depths} and channels={self.channels} need one entry for each of 1 to 8 stages"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=[8, 12, 16, 24], depths=[1, 1, 2, 1], layer_scale=0.5, drop_path_rate=0.1)


class ResponseNorm(nn.Module):
    """Adds to each channel of the tokens of maps (B, N, C) what it is when multiplied by its length over all tokens, divided
    by the mean of these lengths over the channels; learned factors, 0 at first, scale and shift that.

    From "ConvNeXt V2" (Woo et al., 2023), https://arxiv.org/abs/2301.00808, where it is "global response normalization".

    Args:
        channels: width of the tokens.
        eps: what is added to the mean.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        response = lengths / (lengths.mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * (x * response) + self.bias + x


class ResponseFeedForward(FeedForward):
    """A feed-forward part with a `ResponseNorm` before its second layer."""

    def __init__(self, channels: int, hidden: int):
        super().__init__(channels, hidden)
        self.norm = ResponseNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.activation(self.fc1(x))))


class ConvNeXtBlock(GradientCheckpointingLayer):
    """A depthwise 7x7 convolution, a norm and a feed-forward part, in a residual branch on channels-last maps.

    Args:
        config: the backbone's config.
        channels: width of the maps.
        drop_path: probability of dropping the branch, while training.
    """

    def __init__(self, config: ConvNeXtConfig, channels: int, drop_path: float):
        super().__init__()
        self.layer_scale = config.layer_scale
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.mlp = (ResponseFeedForward if config.response_norm else FeedForward)(channels, 4 * channels)
        self.scale = None if config.layer_scale is None else nn.Parameter(torch.full((channels,), config.layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.depthwise_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        branch = over_pixels(self.mlp, self.norm(branch))
        return x + self.drop_path(branch if self.scale is None else branch * self.scale)


class ConvNeXtDownsample(nn.Module):
    """A norm, and a convolution that halves the sides of a channels-last map; odd last rows and columns are cut off."""

    def __init__(self, in_channels: int, out_channels: int, norm_eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(in_channels, eps=norm_eps)
        self.conv = nn.Conv2d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNeXtStage(nn.Module):
    """The blocks of one resolution, after the step down to it.

    Args:
        config: the backbone's config.
        stage: number of the stage, from 0.
        drop_paths: probability of dropping the branch, for each block.
    """

    def __init__(self, config: ConvNeXtConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        width = config.channels[stage]
        self.downsample = None
        if stage:
            self.downsample = ConvNeXtDownsample(config.channels[stage - 1], width, config.downsample_norm_eps)
        self.layers = nn.ModuleList(ConvNeXtBlock(config, width, rate) for rate in drop_paths)

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        for layer in self.layers:
            x = layer(x)
        return x


class ConvNeXtBackbone(Backbone):
    """Returns the maps that ``config.out_features`` names, at strides of 1, 1, 2, 4, ... patches.

    ``pixel_values`` is (B, num_channels, H, W). Pixels beyond the last whole patch, and odd last rows and columns of a
    stage's map, do not reach the next. The maps of the stages that ``config.out_features`` named when the backbone was
    built are normalised; a stage continues from the map before that.
    """

    config: ConvNeXtConfig
    _no_split_modules = ["ConvNeXtBlock"]

    def __init__(self, config: ConvNeXtConfig):
        super().__init__(config)
        width, patch = config.channels[0], config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.embedding_norm = nn.LayerNorm(width, eps=config.norm_eps)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        self.stages = nn.ModuleList(
            ConvNeXtStage(config, stage, [next(rates) for _ in range(depth)])
            for stage, depth in enumerate(config.depths)
        )
        channels = dict(zip(config.stage_names, [width, *config.channels], strict=True))
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(channels[name], eps=config.norm_eps) for name in config.out_features if name != "stem"}
        )
        self.num_features = list(channels.values())
        self.post_init()

    @property
    def num_depths(self) -> int:
        """Number of depths for layer-wise learning rates: 7 for ConvNeXt-T and 13 for the deeper ones, as in the original."""
        depths = self.config.depths
        return max(4 + depths[min(2, len(depths) - 1)] // 3, len(depths) + 1)

    def parameter_depth(self, name: str) -> int | None:
        """Depth of a parameter as the original's stage-wise optimizer counts it: 0 for the stem and all steps down, and
        the number of the stage, from 1, for its blocks. Norms of the returned maps learn at the full rate.
        """
        part, *rest = name.split(".")
        if part == "norms":
            return None
        return int(rest[0]) + 1 if part == "stages" and rest[1] == "layers" else 0

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.embedding_norm(self.patch_embedding(pixel_values).permute(0, 2, 3, 1))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [x.permute(0, 3, 1, 2) for x in maps]

    def finish(self, feature_map: Tensor, name: str) -> Tensor:
        if name not in self.norms:
            return feature_map
        return self.norms[name](feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        elif isinstance(module, ConvNeXtBlock) and module.scale is not None:
            init.constant_(module.scale, module.layer_scale)
        elif isinstance(module, ResponseNorm):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


register_backbone(ConvNeXtConfig, ConvNeXtBackbone, variants=VARIANTS)

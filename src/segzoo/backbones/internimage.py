"""InternImage: a convolutional backbone whose spatial operator is deformable convolution v3.

"InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (Wang et al., 2023),
https://arxiv.org/abs/2211.05778; the numbers are those of https://github.com/OpenGVLab/InternImage. All maps are
channels-last inside.
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
from segzoo.layers import DropPath, PointwiseLinear, over_pixels
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.vit import FeedForward
from segzoo.ops import DCNv3

NORM_EPS = 1e-6

_POST = {"post_norm": True}
_LARGE = _POST | {"offset_scale": 2.0}
_HUGE = {
    "layer_scale": None,
    "center_feature_scale": True,
    "depthwise_kernel_size": 5,
    "post_norm_blocks": [5, 11, 17, 23, 29],
}

# Keyword arguments of InternImageConfig.
VARIANTS = {
    "internimage-t": {"channels": 64, "depths": [4, 4, 18, 4], "groups": [4, 8, 16, 32], "drop_path_rate": 0.2},
    "internimage-s": {"channels": 80, "depths": [4, 4, 21, 4], "groups": [5, 10, 20, 40], "drop_path_rate": 0.3}
    | _POST,
    "internimage-b": {"channels": 112, "depths": [4, 4, 21, 4], "groups": [7, 14, 28, 56], "drop_path_rate": 0.4}
    | _POST,
    "internimage-l": {"channels": 160, "depths": [5, 5, 22, 5], "groups": [10, 20, 40, 80], "drop_path_rate": 0.4}
    | _LARGE,
    "internimage-xl": {"channels": 192, "depths": [5, 5, 24, 5], "groups": [12, 24, 48, 96], "drop_path_rate": 0.4}
    | _LARGE,
    "internimage-h": {"channels": 320, "depths": [6, 6, 32, 6], "groups": [10, 20, 40, 80], "drop_path_rate": 0.5}
    | _HUGE
    | {"residual_post_norm": True},
    "internimage-g": {"channels": 512, "depths": [2, 2, 48, 4], "groups": [16, 32, 64, 128], "drop_path_rate": 0.5}
    | _HUGE
    | {"post_norm": True, "post_norm_blocks": [5, 11, 17, 23, 29, 35, 41, 47]},
}


@strict
class InternImageConfig(BackboneConfig):
    """Options of ``InternImageBackbone``; the defaults are InternImage-T.

    Args:
        channels: width of the first stage; it doubles with every stage.
        depths: number of layers of each stage.
        groups: number of groups of the deformable convolutions of each stage.
        mlp_ratio: hidden width of the feed-forward part, relative to the stage's.
        kernel_size: side of the deformable convolution's kernel, odd.
        depthwise_kernel_size: side of the kernel of the depthwise convolution that predicts offsets and weights, odd.
        offset_scale: factor on the sampling grid and the offsets.
        remove_center: leave out the kernel's central point.
        center_feature_scale: blend the samples with the projected input at the position itself, and end every stage
            with a norm (H, G).
        post_norm: norms after the operators (S, B, L, XL, G) instead of before them.
        residual_post_norm: a second norm after each operator, with norms before it (H).
        post_norm_blocks: layers of the third stage, counted from 0, that are followed by a norm of their own (H, G).
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        drop_path_rate: probability of dropping a residual branch in the last layer; it grows linearly from 0.
        drop_path_uniform: drop with the probability ``drop_path_rate`` in all layers.
        dropout: probability of dropping a value after the stem and in the feed-forward parts.

    Raises:
        SegZooError: lists, channels, kernels or norms do not fit each other.
    """

    model_type = "segzoo_internimage"

    channels: int = 64
    depths: Ints = (4, 4, 18, 4)
    groups: Ints = (4, 8, 16, 32)
    mlp_ratio: float = 4.0
    kernel_size: int = 3
    depthwise_kernel_size: int = 3
    offset_scale: float = 1.0
    remove_center: bool = False
    center_feature_scale: bool = False
    post_norm: bool = False
    residual_post_norm: bool = False
    post_norm_blocks: Ints = ()
    layer_scale: float | None = 1.0
    drop_path_rate: float = 0.0
    drop_path_uniform: bool = False
    dropout: float = 0.0

    def check(self) -> None:
        """``depths`` and ``groups`` fit the stages and their widths, kernels are odd, and norms fit each other."""
        super().check()
        if len(self.depths) != len(self.groups):
            raise SegZooError(
                f"InternImage: depths={self.depths} and groups={self.groups} need one entry for each stage"
            )
        for stage, groups in enumerate(self.groups):
            if self.channels * 2**stage % groups:
                raise SegZooError(
                    f"InternImage: {self.channels * 2**stage} channels of stage {stage + 1} do not divide into {groups} groups"
                )
        if self.kernel_size % 2 == 0 or self.depthwise_kernel_size % 2 == 0:
            raise SegZooError("InternImage: kernel_size and depthwise_kernel_size must be odd")
        if self.residual_post_norm and (self.post_norm or self.layer_scale is not None):
            raise SegZooError("InternImage: residual_post_norm excludes post_norm and layer_scale")
        if self.post_norm_blocks and (self.num_stages < 3 or max(self.post_norm_blocks) >= self.depths[2]):
            raise SegZooError(
                f"InternImage: post_norm_blocks={self.post_norm_blocks} go beyond the third stage's layers"
            )

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=8, depths=[1, 1, 2, 1], groups=[1, 2, 2, 4], post_norm=True, drop_path_rate=0.1)


class DeformableConv(nn.Module):
    """DCNv3 with its projections: a depthwise convolution of the input predicts where and how to sample it.

    Maps are channels-last, (B, H, W, channels).

    Args:
        config: the backbone's config.
        channels: width of the maps, a multiple of ``groups``.
        groups: number of groups of channels, each of which has its own sampling points.
    """

    def __init__(self, config: InternImageConfig, channels: int, groups: int):
        super().__init__()
        kernel, points = config.depthwise_kernel_size, config.kernel_size**2 - config.remove_center
        self.groups = groups
        self.sampling = {
            "kernel_size": config.kernel_size,
            "padding": config.kernel_size // 2,
            "offset_scale": config.offset_scale,
            "remove_center": config.remove_center,
            "softmax": True,
        }
        self.depthwise_conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.depthwise_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.activation = nn.GELU()
        self.sample = DCNv3()
        self.offset = PointwiseLinear(channels, groups * points * 2)
        self.mask = PointwiseLinear(channels, groups * points)
        self.input_proj = PointwiseLinear(channels, channels)
        self.output_proj = PointwiseLinear(channels, channels)
        self.center_scale = PointwiseLinear(channels, groups) if config.center_feature_scale else None

    def forward(self, x: Tensor) -> Tensor:
        context = self.depthwise_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        context = self.activation(self.depthwise_norm(context))
        projected = over_pixels(self.input_proj, x)
        offset, mask = over_pixels(self.offset, context), over_pixels(self.mask, context)
        sampled = self.sample(projected, offset, mask, groups=self.groups, **self.sampling)
        if self.center_scale is not None:
            share = over_pixels(self.center_scale, context).sigmoid().unsqueeze(-1)
            by_group = (self.groups, -1)
            sampled = torch.lerp(sampled.unflatten(-1, by_group), projected.unflatten(-1, by_group), share).flatten(-2)
        return over_pixels(self.output_proj, sampled)


class LayerScale(nn.Module):
    """Multiplies each channel of a channels-last map by a learned factor, which starts at ``value``."""

    def __init__(self, channels: int, value: float):
        super().__init__()
        self.value = value
        self.scale = nn.Parameter(torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class InternImageLayer(GradientCheckpointingLayer):
    """Deformable convolution and feed-forward, each in a residual branch, on channels-last maps.

    Args:
        config: the backbone's config.
        channels: width of the maps.
        groups: number of groups of the deformable convolution.
        drop_path: probability of dropping a branch, while training.
    """

    def __init__(self, config: InternImageConfig, channels: int, groups: int, drop_path: float):
        super().__init__()
        self.dcn = DeformableConv(config, channels, groups)
        self.mlp = FeedForward(channels, int(channels * config.mlp_ratio), config.dropout)
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.post_norm = config.post_norm
        residual = config.residual_post_norm
        self.residual_norm1 = _norm(channels) if residual else nn.Identity()
        self.residual_norm2 = _norm(channels) if residual else nn.Identity()
        scale = config.layer_scale
        self.scale1 = nn.Identity() if scale is None else LayerScale(channels, scale)
        self.scale2 = nn.Identity() if scale is None else LayerScale(channels, scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = x + self.drop_path(self.scale1(self.norm1(self.dcn(x))))
            return x + self.drop_path(self.scale2(self.norm2(over_pixels(self.mlp, x))))
        x = x + self.drop_path(self.scale1(self.residual_norm1(self.dcn(self.norm1(x)))))
        return x + self.drop_path(self.scale2(self.residual_norm2(over_pixels(self.mlp, self.norm2(x)))))


class InternImageStage(nn.Module):
    """The layers of one resolution, the norms between and after them, and the step down to the next resolution.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_paths: probability of dropping a branch, for each layer.
    """

    def __init__(self, config: InternImageConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        channels = config.channels * 2**stage
        self.layers = nn.ModuleList(InternImageLayer(config, channels, config.groups[stage], p) for p in drop_paths)
        self.post_norm_blocks = list(config.post_norm_blocks) if stage == 2 else []
        self.post_norms = nn.ModuleList(_norm(channels) for _ in self.post_norm_blocks)
        self.norm = _norm(channels) if not config.post_norm or config.center_feature_scale else nn.Identity()
        self.downsample = None
        if stage < config.num_stages - 1:
            self.downsample = StridedConv(channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A channels-last map -> the map of this stage, and the map that enters the next (the same in the last stage)."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.post_norm_blocks:
                x = self.post_norms[self.post_norm_blocks.index(i)](x)
        x = self.norm(x)
        return x, x if self.downsample is None else self.downsample(x)


class StridedConv(nn.Module):
    """Halves the sides of a channels-last map: a 3x3 convolution with stride 2 and a norm."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=bias)
        self.norm = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class InternImageBackbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, at strides 4, 8, 16 and 32.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 4.
    """

    config: InternImageConfig
    _no_split_modules = ["InternImageLayer"]

    def __init__(self, config: InternImageConfig):
        super().__init__(config)
        width, total = config.channels, sum(config.depths)
        self.stem = nn.Sequential(
            StridedConv(config.num_channels, width // 2, bias=True),
            nn.GELU(),
            StridedConv(width // 2, width, bias=True),
        )
        self.dropout = nn.Dropout(config.dropout)
        rates = [
            config.drop_path_rate * (1 if config.drop_path_uniform else i / max(total - 1, 1)) for i in range(total)
        ]
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            start = sum(config.depths[:stage])
            self.stages.append(InternImageStage(config, stage, rates[start : start + depth]))
        self.num_features = [width, *(width * 2**stage for stage in range(config.num_stages))]
        self.post_init()

    @property
    def num_depths(self) -> int:
        """Number of depths for layer-wise learning rates: the stem and every layer."""
        return 1 + sum(self.config.depths)

    def parameter_depth(self, name: str) -> int:
        """Depth of a parameter as the original's optimizer counts it, 0 for the stem: what follows a stage's layers
        belongs to the next stage's first layer, and the k-th norm between layers to layer k, whichever it follows.
        """
        part, *rest = name.split(".")
        if part != "stages":
            return 0
        stage, kind, index = int(rest[0]), rest[1], rest[2]
        if kind in ("layers", "post_norms"):
            return 1 + sum(self.config.depths[:stage]) + int(index)
        return 1 + sum(self.config.depths[: min(stage + 1, self.config.num_stages - 1)])

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            reset_as_torch(module)
            return
        super()._init_weights(module)
        if isinstance(module, DeformableConv):
            # Training starts from an ordinary grid with equal weights.
            for layer in (module.offset, module.mask, module.center_scale):
                if layer is not None:
                    init.zeros_(layer.weight)
                    init.zeros_(layer.bias)
            for layer in (module.input_proj, module.output_proj):
                init.xavier_uniform_(layer.weight)
                init.zeros_(layer.bias)
        elif isinstance(module, LayerScale):
            init.constant_(module.scale, module.value)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.dropout(self.stem(pixel_values.permute(0, 2, 3, 1)))
        maps = [x]
        for stage in self.stages:
            stage_map, x = stage(x)
            maps.append(stage_map)
        return [m.permute(0, 3, 1, 2) for m in maps]


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=NORM_EPS)


register_backbone(InternImageConfig, InternImageBackbone, variants=VARIANTS)

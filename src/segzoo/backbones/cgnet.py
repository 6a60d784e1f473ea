"""CGNet: blocks that join a pixel's neighbourhood, its wider surroundings and the whole map.

"CGNet: A Light-weight Context Guided Network for Semantic Segmentation" (Wu et al., 2018),
https://arxiv.org/abs/1811.08201. The numbers are those of mmsegmentation's ``CGNet``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import BatchNormConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import BatchNorm2d, ConvNormAct
from segzoo.layers.conv import Conv2d

# Keyword arguments of CGNetConfig.
VARIANTS = {"cgnet_m3n21": {}}


@strict
class CGNetConfig(BatchNormConfig, BackboneConfig):
    """Options of ``CGNetBackbone``. Its norms are batch norms, its activations PReLUs.

    The maps are "stem", "stage1" and "stage2" with strides 2, 4 and 8. The first two hold the shrunk images too, so
    that they have ``num_channels`` channels more than the stem and twice the first stage; the last one has twice the
    channels of the second stage.

    Args:
        norm_eps, norm_momentum: epsilon of the batch norms, and share of the new batch in their running statistics.
        channels: channels of the stem and of the two stages; of a stage an even number.
        blocks: number of blocks in each stage, of which the first halves the resolution.
        dilations: dilation of the convolutions for the surroundings in each stage.
        reductions: factor by which the layers that read the whole map are narrower inside, in each stage.

    Raises:
        SegZooError: a list has the wrong length, or an option is out of range.
    """

    model_type = "segzoo_cgnet"

    norm_eps: float = 1e-3
    channels: Ints = (32, 64, 128)
    blocks: Ints = (3, 21)
    dilations: Ints = (2, 4)
    reductions: Ints = (8, 16)

    @property
    def num_stages(self) -> int:
        return 2

    def check(self) -> None:
        """Lists have an entry for each stage, stages have a block at least, and channels divide as the blocks need."""
        super().check()
        if len(self.channels) != 3:
            raise SegZooError(f"CGNet: channels={self.channels} needs three entries, for the stem and two stages")
        for name in ("blocks", "dilations", "reductions"):
            if len(getattr(self, name)) != 2:
                raise SegZooError(f"CGNet: {name}={getattr(self, name)} needs an entry for each of two stages")
        if min(self.blocks) < 1:
            raise SegZooError(f"CGNet: blocks={self.blocks} must be 1 at least")
        for channels, reduction in zip(self.channels[1:], self.reductions, strict=True):
            if channels % 2 or channels < reduction:
                raise SegZooError(
                    f"CGNet: channels={self.channels} of the stages must be even and not below reductions={self.reductions}"
                )

    def block(self, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> ConvNormAct:
        """A convolution, a batch norm and a PReLU with a slope for each channel."""
        norm = {"norm_eps": self.norm_eps, "norm_momentum": self.norm_momentum}
        block = ConvNormAct(in_channels, out_channels, kernel_size, activation=None, **norm, **options)
        block.activation = nn.PReLU(out_channels)
        return block

    def norm_act(self, channels: int) -> nn.Sequential:
        """A batch norm and a PReLU of joined maps."""
        norm = BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)
        return nn.Sequential(norm, nn.PReLU(channels))

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=[8, 12, 16], blocks=[2, 2], reductions=[1, 2])


class ContextGuidedBlock(GradientCheckpointingLayer):
    """Neighbourhood and surroundings of each pixel, joined and weighted by channel; added to the input.

    Args:
        config: the backbone's config.
        stage: number of the stage, 0 or 1.
        in_channels: channels of the input.
        first: whether this is the stage's first block, which halves the resolution and adds nothing.
    """

    def __init__(self, config: CGNetConfig, stage: int, in_channels: int, *, first: bool):
        super().__init__()
        channels, dilation = config.channels[stage + 1], config.dilations[stage]
        width = channels if first else channels // 2
        self.adds = not first
        self.reduce = (
            config.block(in_channels, width, 3, stride=2, padding=1) if first else config.block(in_channels, width, 1)
        )
        self.local = Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.surrounding = Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width, bias=False)
        self.joint = config.norm_act(2 * width)
        self.project = Conv2d(2 * width, channels, 1, bias=False) if first else nn.Identity()
        inside = channels // config.reductions[stage]
        self.gate = nn.Sequential(
            nn.Linear(channels, inside), nn.ReLU(inplace=True), nn.Linear(inside, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        joint = self.project(self.joint(torch.cat([self.local(reduced), self.surrounding(reduced)], dim=1)))
        output = joint * self.gate(joint.mean((2, 3)))[..., None, None]
        return x + output if self.adds else output


class CGNetBackbone(Backbone):
    """Returns the maps that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 2, 4 and 8.
    """

    config: CGNetConfig
    _no_split_modules = ["ContextGuidedBlock"]

    def __init__(self, config: CGNetConfig):
        super().__init__(config)
        stem, fine, coarse = config.channels
        self.num_features = [stem + config.num_channels, 2 * fine + config.num_channels, 2 * coarse]
        self.stem = nn.Sequential(
            config.block(config.num_channels, stem, 3, stride=2, padding=1),
            config.block(stem, stem, 3, padding=1),
            config.block(stem, stem, 3, padding=1),
        )
        self.stages = nn.ModuleList()
        for stage, blocks in enumerate(config.blocks):
            sources = [self.num_features[stage]] + [config.channels[stage + 1]] * (blocks - 1)
            self.stages.append(
                nn.ModuleList(
                    ContextGuidedBlock(config, stage, source, first=i == 0) for i, source in enumerate(sources)
                )
            )
        self.norms = nn.ModuleList(config.norm_act(channels) for channels in self.num_features)
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        half = F.avg_pool2d(pixel_values, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        maps = [self.norms[0](torch.cat([self.stem(pixel_values), half], dim=1))]
        for stage, norm in zip(self.stages, self.norms[1:], strict=True):
            first = x = stage[0](maps[-1])
            for block in stage[1:]:
                x = block(x)
            joined = [x, first, quarter] if len(maps) == 1 else [first, x]
            maps.append(norm(torch.cat(joined, dim=1)))
        return maps

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)


register_backbone(CGNetConfig, CGNetBackbone, variants=VARIANTS)

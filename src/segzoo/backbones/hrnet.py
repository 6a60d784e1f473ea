"""HRNet: branches of up to four resolutions side by side, which exchange their features.

"Deep High-Resolution Representation Learning for Visual Recognition" (Wang et al., 2019),
https://arxiv.org/abs/1908.07919. The numbers are those of mmsegmentation's ``HRNet``
(https://github.com/open-mmlab/mmsegmentation) and of MIT's ``hrnetv2``
(https://github.com/CSAILVision/semantic-segmentation-pytorch).
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.resnet import ResNetBlock
from segzoo.base import MAX_LAYERS, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import resize

_FULL = {"stem_blocks": 4, "modules": [1, 4, 3], "blocks": [4, 4, 4]}

# Keyword arguments of HRNetConfig.
VARIANTS = {
    "hrnet_w18_small": {"width": 18, "stem_blocks": 2, "modules": [1, 3, 2], "blocks": [2, 2, 2]},
    "hrnet_w18": {"width": 18} | _FULL,
    "hrnet_w32": {"width": 32} | _FULL,
    "hrnet_w40": {"width": 40} | _FULL,
    "hrnet_w48": {"width": 48} | _FULL,
}


@strict
class HRNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``HRNetBackbone``, besides those of its conv blocks.

    The returned maps ("stage1" to "stage4") are the four branches after the last module: strides 4, 8, 16 and 32, with
    1, 2, 4 and 8 times ``width`` channels.

    Args:
        width: channels of the finest branch.
        stem_channels: width of the two convolutions with stride 2, and of the bottlenecks after them.
        stem_blocks: number of bottleneck blocks before the branches part.
        modules: numbers of exchange modules with two, three and four branches.
        blocks: numbers of basic blocks that each branch of such a module has before the exchange.
        upsample_by_factor: a coarser branch's map is enlarged by a whole factor first, and then resized where odd
            sizes left it larger than the finer one (mmsegmentation); False resizes it at once (MIT). Where sizes are
            multiples of 32 both give the same.

    Raises:
        SegZooError: a list does not have three entries, or a size is below 1.
    """

    model_type = "segzoo_hrnet"

    width: int = 18
    stem_channels: int = 64
    stem_blocks: int = 4
    modules: Ints = (1, 4, 3)
    blocks: Ints = (4, 4, 4)
    upsample_by_factor: bool = True

    @property
    def branch_channels(self) -> list[int]:
        """Channels of the four branches, from fine to coarse."""
        return [self.width * 2**branch for branch in range(4)]

    def check(self) -> None:
        """Lists have three entries, for two, three and four branches, and all sizes are 1 at least."""
        super().check()
        for name in ("modules", "blocks"):
            if len(getattr(self, name)) != 3:
                raise SegZooError(
                    f"HRNet: {name}={getattr(self, name)} needs three entries, for two, three and four branches"
                )
        if min(self.width, self.stem_channels, self.stem_blocks, *self.modules, *self.blocks) < 1:
            raise SegZooError("HRNet: width, stem_channels, stem_blocks, modules and blocks must be at least 1")
        if sum(modules * blocks for modules, blocks in zip(self.modules, self.blocks, strict=True)) > MAX_LAYERS:
            raise SegZooError(
                f"HRNet: modules={self.modules} of blocks={self.blocks} is out of range; no model has more than {MAX_LAYERS} blocks"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(width=4, stem_channels=8, stem_blocks=1, modules=[1, 1, 1], blocks=[1, 1, 1])


class HRNetExchange(nn.Module):
    """Every branch's map becomes the activated sum of all branches' maps, each brought to its resolution and width.

    Args:
        config: the backbone's config.
        branches: number of branches, 2 to 4.
    """

    def __init__(self, config: HRNetConfig, branches: int):
        super().__init__()
        self.upsample_by_factor = config.upsample_by_factor
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(config, source, target) for source in range(branches)) for target in range(branches)
        )
        self.activation = config.make_activation()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W) of the branches, from fine to coarse; the same shapes come back."""
        return [self._sum(target, maps) for target in range(len(maps))]

    def _sum(self, target: int, maps: Sequence[Tensor]) -> Tensor:
        size, total = maps[target].shape[-2:], None
        for source, (path, x) in enumerate(zip(self.paths[target], maps, strict=True)):
            x = path(x)
            if source > target and self.upsample_by_factor:
                x = resize(x, [side * 2 ** (source - target) for side in x.shape[-2:]])
            x = resize(x, size)
            total = x if total is None else total + x
        return self.activation(total)


def _path(config: HRNetConfig, source: int, target: int) -> nn.Module:
    """The way from one branch to another: a 1x1 convolution to a finer one (resized afterwards), to a coarser one 3x3
    convolutions with stride 2, one per halving.
    """
    if source == target:
        return nn.Identity()
    old, new = config.branch_channels[source], config.branch_channels[target]
    if source > target:
        return config.block(old, new, 1, activation=None)
    steps = [config.block(old, old, 3, stride=2, padding=1) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, config.block(old, new, 3, stride=2, padding=1, activation=None))


class HRNetModule(nn.Module):
    """Residual blocks on every branch, then an exchange between the branches.

    Args:
        config: the backbone's config.
        branches: number of branches, 2 to 4.
    """

    def __init__(self, config: HRNetConfig, branches: int):
        super().__init__()
        blocks = config.blocks[branches - 2]
        self.branches = nn.ModuleList(
            nn.Sequential(*(ResNetBlock(config, width, width, bottleneck=False) for _ in range(blocks)))
            for width in config.branch_channels[:branches]
        )
        self.exchange = HRNetExchange(config, branches)

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """Maps (B, C, H, W) of the branches, from fine to coarse; the same shapes come back."""
        return self.exchange([branch(x) for branch, x in zip(self.branches, maps, strict=True)])


class HRNetStage(nn.Module):
    """A new branch of half the resolution, and modules over all branches so far.

    Args:
        config: the backbone's config.
        in_channels: channels of the maps before the stage; if there are several, they already have their branches'
            widths.
        branches: number of branches of the stage, 2 to 4.
    """

    def __init__(self, config: HRNetConfig, in_channels: Sequence[int], branches: int):
        super().__init__()
        self.transitions = nn.ModuleList()
        for branch, width in enumerate(config.branch_channels[:branches]):
            old = branch < len(in_channels)
            source = in_channels[branch if old else -1]
            self.transitions.append(
                nn.Identity()
                if old and source == width
                else config.block(source, width, 3, stride=1 if old else 2, padding=1)
            )
        self.exchanges = nn.ModuleList(HRNetModule(config, branches) for _ in range(config.modules[branches - 2]))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the branches before the stage, from fine to coarse; one more comes back."""
        sources = [*maps, maps[-1]]
        maps = [transition(x) for transition, x in zip(self.transitions, sources, strict=True)]
        for module in self.exchanges:
            maps = module(*maps)
        return maps


class HRNetBackbone(Backbone):
    """Returns the branches that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 4, the branches strides 4, 8, 16 and 32.
    """

    config: HRNetConfig
    _no_split_modules = ["ResNetBlock", "HRNetExchange"]

    def __init__(self, config: HRNetConfig):
        super().__init__(config)
        width = config.stem_channels
        self.stem = nn.Sequential(
            config.block(config.num_channels, width, 3, stride=2, padding=1),
            config.block(width, width, 3, stride=2, padding=1),
        )
        self.stem_blocks = nn.Sequential(
            *(
                ResNetBlock(config, width if i == 0 else 4 * width, width, bottleneck=True)
                for i in range(config.stem_blocks)
            )
        )
        channels = config.branch_channels
        self.stages = nn.ModuleList(
            HRNetStage(config, [4 * width] if branches == 2 else channels[: branches - 1], branches)
            for branches in (2, 3, 4)
        )
        self.num_features = [width, *channels]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        stem = self.stem(pixel_values)
        maps = [self.stem_blocks(stem)]
        for stage in self.stages:
            maps = stage(maps)
        return [stem, *maps]


register_backbone(HRNetConfig, HRNetBackbone, variants=VARIANTS)

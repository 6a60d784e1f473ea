"""Twins: PCPVT, whose blocks attend to a coarser grid, and SVT, in which every other block attends within windows.

"Twins: Revisiting the Design of Spatial Attention in Vision Transformers" (Chu et al., 2021),
https://arxiv.org/abs/2104.13840. The numbers are those of its authors' ``pcpvt_*`` and ``alt_gvt_*``
(https://github.com/Meituan-AutoML/Twins) and of mmsegmentation's ``PCPVT`` and ``SVT``
(https://github.com/open-mmlab/mmsegmentation), which differ in the epsilon of some norms and in what they pad.
"""

from typing import Self

import torch
from torch import Tensor, nn

from segzoo.auto import register_backbone
from segzoo.backbones.base import PatchPyramidBackbone, PatchPyramidConfig
from segzoo.backbones.plain_vit import whole_patches
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import to_map, to_tokens
from segzoo.layers.spatial_reduction import SpatialReductionAttention
from segzoo.layers.vit import Attention, ViTBlock, drop_path_rates, from_windows, into_windows

_PCPVT = {"drop_path_rate": 0.2}
_SVT = {"mlp_ratios": [4, 4, 4, 4], "windows": [7, 7, 7, 7], "stage_norm": True, "drop_path_rate": 0.2}

# Keyword arguments of TwinsConfig.
VARIANTS = {
    "twins_pcpvt_small": _PCPVT,
    "twins_pcpvt_base": {**_PCPVT, "depths": [3, 4, 18, 3]},
    "twins_pcpvt_large": {**_PCPVT, "depths": [3, 8, 27, 3]},
    "twins_svt_small": {
        **_SVT,
        "channels": [64, 128, 256, 512],
        "depths": [2, 2, 10, 4],
        "num_heads": [2, 4, 8, 16],
    },
    "twins_svt_base": {
        **_SVT,
        "channels": [96, 192, 384, 768],
        "depths": [2, 2, 18, 2],
        "num_heads": [3, 6, 12, 24],
    },
    "twins_svt_large": {
        **_SVT,
        "channels": [128, 256, 512, 1024],
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
    },
}

_OUTSIDE = -1000.0  # added to the scores of what mmsegmentation keeps from being attended to


@strict
class TwinsConfig(PatchPyramidConfig):
    """Options of ``TwinsBackbone``; the defaults are PCPVT-S's. Lists have an entry for each stage.

    Args:
        channels: widths of the stages.
        depths: numbers of blocks.
        num_heads: numbers of attention heads, divisors of the widths.
        strides: sides, in pixels of the stage's input, of the patches that become its tokens.
        reductions: how much coarser the grid is that patches attend to.
        windows: sides, in patches, of the windows within which every other block attends, the first one among them
            (SVT); None: all blocks attend to the coarser grid (PCPVT).
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        qkv_bias: queries, keys and values have a bias.
        projection_bias: the projection after attention to the coarser grid has a bias; mmsegmentation's has one only with
            ``qkv_bias``.
        stage_norm: a layer norm after each stage, also on the way to the next one.
        norm_eps: epsilon of the norms in front of the branches and after the stages.
        patch_norm_eps: epsilon of the norms of patches and of the coarser grids.
        pad_patches: pad with zeros, on the right and at the bottom, to whole patches (mmsegmentation); False leaves out
            the rows and columns that do not fill one (the authors).
        mask_padding: within windows nothing attends to what pads the grid to whole windows, if it is padded both on the
            right and at the bottom; as in mmsegmentation not if only on one side. False: never (the authors).
        dropout: probability of dropping a value of the patches, after attention and in the feed-forward parts.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.
        drop_path_twice: draw twice whether to drop a branch, except that of attention within windows
            (mmsegmentation).

    Raises:
        SegZooError: the lists differ in length, a width does not divide into its heads, or a window has no patch.
    """

    model_type = "segzoo_twins"
    family = "Twins"
    per_stage = ("depths", "num_heads", "strides", "reductions", "windows", "mlp_ratios")

    channels: Ints = (64, 128, 320, 512)
    depths: Ints = (3, 4, 6, 3)
    num_heads: Ints = (1, 2, 5, 8)
    strides: Ints = (4, 2, 2, 2)
    reductions: Ints = (8, 4, 2, 1)
    windows: Ints | None = None
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (8, 8, 4, 4)
    qkv_bias: bool = True
    projection_bias: bool = True
    stage_norm: bool = False
    norm_eps: float = 1e-6
    patch_norm_eps: float = 1e-5
    pad_patches: bool = True
    mask_padding: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_twice: bool = False

    def check(self) -> None:
        """Every list has an entry for each stage, widths are multiples of their heads, and windows have patches."""
        super().check()
        self.check_heads(self.num_heads)
        if self.windows is not None and min(self.windows, default=1) < 1:
            raise SegZooError(f"Twins: windows={self.windows} must be 1 at least")

    def window(self, stage: int, block: int) -> int:
        """Side of the windows of a block, both counted from 0; 0 for one that attends to the coarser grid."""
        return 0 if self.windows is None or block % 2 else self.windows[stage]

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 8, 16, 16],
            depths=[2, 1, 2, 1],
            num_heads=[1, 1, 2, 2],
            windows=[3, 3, 2, 2],
            mlp_ratios=[2, 2, 2, 2],
            stage_norm=True,
            drop_path_rate=0.1,
        )


class WindowAttention(Attention):
    """Attention within square windows of a grid that is padded, on the right and at the bottom, with zeros.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        side: side of the windows, in patches.
    """

    def __init__(self, config: TwinsConfig, stage: int, side: int):
        super().__init__(
            config,
            config.channels[stage],
            config.num_heads[stage],
            qkv_bias="all" if config.qkv_bias else "none",
            dropout=config.attention_dropout,
        )
        self.side, self.mask_padding = side, config.mask_padding

    def forward(self, x: Tensor, grid: tuple[int, int], position_bias: Tensor | None = None) -> Tensor:
        """Tokens (B, height * width, C) of a grid (height, width) -> tokens of the same shape."""
        if self.mask_padding:
            outside = padding_mask(grid, self.side, x)[:, None, None]
            position_bias = (outside * _OUTSIDE).repeat(x.shape[0], 1, 1, 1)
        windows = into_windows(x, grid, self.side)
        return from_windows(super().forward(windows, (self.side, self.side), position_bias), grid, self.side)


def padding_mask(grid: tuple[int, int], side: int, like: Tensor) -> Tensor:
    """1 where a window's patch pads a grid that does not divide into windows in both directions, else 0.

    Args:
        grid: (height, width) in patches.
        side: side of the windows.
        like: a tensor whose dtype and device the mask gets.

    Returns:
        (windows, side * side), all 0 if one of the grid's sides divides into windows.
    """
    height, width = grid
    below = torch.arange(height + -height % side, device=like.device) >= height
    right = torch.arange(width + -width % side, device=like.device) >= width
    # In tensors, because an exported graph is for any size.
    padded = (below[:, None] | right) & below.any() & right.any()
    padded = padded.unflatten(1, (-1, side)).unflatten(0, (-1, side))
    return padded.transpose(1, 2).flatten(2).flatten(0, 1).to(like.dtype)


class TwinsBlock(ViTBlock):
    """A block whose two branches are dropped with probabilities of their own.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        block: the block in the stage, counted from 0.
        drop_path: probability of dropping a branch, while training.
    """

    def __init__(self, config: TwinsConfig, stage: int, block: int, drop_path: float):
        channels, side = config.channels[stage], config.window(stage, block)
        if side:
            attention: nn.Module = WindowAttention(config, stage, side)
        else:
            attention = SpatialReductionAttention(
                config,
                channels,
                config.num_heads[stage],
                reduction=config.reductions[stage],
                norm_eps=config.patch_norm_eps,
                qkv_bias=config.qkv_bias,
                projection_bias=config.projection_bias,
                dropout=config.attention_dropout,
            )
        # Two draws one after the other drop as often, and scale what is left as much, as one with this probability.
        twice = 1 - (1 - drop_path) ** 2 if config.drop_path_twice else drop_path
        super().__init__(
            attention,
            channels,
            int(channels * config.mlp_ratios[stage]),
            norm_eps=config.norm_eps,
            dropout=config.dropout,
            drop_path=twice,
            attention_drop_path=drop_path if side else twice,
        )


class TwinsStage(nn.Module):
    """Patches of a map, and the blocks over them; a convolution after the first block tells positions.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_paths: probability of dropping a branch, for each block.
    """

    def __init__(self, config: TwinsConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        channels, stride = config.channels[stage], config.strides[stage]
        self.pad_patches, self.stride = config.pad_patches, stride
        self.least = (
            config.reductions[stage] if any(not config.window(stage, i) for i in range(len(drop_paths))) else 1
        )
        before = config.channels[stage - 1] if stage else config.num_channels
        self.patch_embedding = nn.Conv2d(before, channels, stride, stride=stride)
        self.patch_norm = nn.LayerNorm(channels, eps=config.patch_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.position_encoding = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.blocks = nn.ModuleList(TwinsBlock(config, stage, i, rate) for i, rate in enumerate(drop_paths))
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps) if config.stage_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) -> a map of the stage's width, at a resolution lower by the stage's stride."""
        x = self.patch_embedding(whole_patches(x, self.stride) if self.pad_patches else x)
        grid = (x.shape[2], x.shape[3])
        if min(grid) < self.least:
            raise SegZooError(
                f"Twins: the image is too small: a stage has a grid of {grid[0]}x{grid[1]} patches, and attends to one "
                f"{self.least} times as coarse; give larger images"
            )
        x = self.dropout(self.patch_norm(to_tokens(x)))
        for i, block in enumerate(self.blocks):
            x = block(x, grid)
            if i == 0:
                x = x + to_tokens(self.position_encoding(to_map(x, grid)))
        return to_map(self.norm(x), grid)


class TwinsBackbone(PatchPyramidBackbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32.

    Raises:
        SegZooError: in ``forward``, an image whose coarser grid would have no patch: a side below 29 pixels, usually.
    """

    config: TwinsConfig
    _no_split_modules = ["TwinsBlock"]
    _supports_flash_attn = False  # neither takes a mask
    _supports_flex_attn = False

    def __init__(self, config: TwinsConfig):
        super().__init__(config)
        rates, self.stages = iter(drop_path_rates(config.drop_path_rate, sum(config.depths))), nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(TwinsStage(config, stage, [next(rates) for _ in range(depth)]))
        self.num_features = list(config.channels)
        self.post_init()


register_backbone(TwinsConfig, TwinsBackbone, variants=VARIANTS)

"""Swin: a pyramid of transformer stages, whose blocks attend within windows that every second block shifts.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al., 2021),
https://arxiv.org/abs/2103.14030. The numbers are those of its segmentation code
(https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation) and of mmsegmentation's
``SwinTransformer``. transformers' Swin, whose maps are the same, splits the fused projection.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.plain_vit import whole_patches
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import PointwiseLinear, resize, to_map, to_tokens
from segzoo.layers.vit import ViTBlock, drop_path_rates
from segzoo.layers.window_attention import WindowAttention, resize_window_table, windows_of

_DEEP = [2, 2, 18, 2]

# Keyword arguments of SwinConfig.
VARIANTS = {
    "swin_tiny": {},
    "swin_small": {"depths": _DEEP},
    "swin_base": {"channels": 128, "depths": _DEEP, "num_heads": [4, 8, 16, 32]},
    "swin_base_window12": {"channels": 128, "depths": _DEEP, "num_heads": [4, 8, 16, 32], "window_size": 12},
    "swin_large": {"channels": 192, "depths": _DEEP, "num_heads": [6, 12, 24, 48]},
    "swin_large_window12": {"channels": 192, "depths": _DEEP, "num_heads": [6, 12, 24, 48], "window_size": 12},
}


@strict
class SwinConfig(BackboneConfig):
    """Options of ``SwinBackbone``; the defaults are Swin-T's.

    Args:
        channels: width of the first stage; each further stage is twice as wide as the one before it.
        depths: number of blocks of each stage.
        num_heads: number of attention heads of each stage, a divisor of its width.
        window_size: side of the windows, in tokens.
        patch_size: side of the patches, in pixels.
        mlp_ratio: hidden width of the feed-forward parts, relative to their stage's width.
        qkv_bias: queries, keys and values have a bias.
        patch_norm: the embedded patches are normalised.
        merging_norm: the tokens that a merging joins are normalised; mmsegmentation's only with ``patch_norm``.
        image_size: side, or (height, width), in pixels, of the images that learned positions are made for, which are
            resized (bicubic) to images of other sizes; None: there are none beside the offsets within windows.
        norm_eps: epsilon of the norms.
        dropout: probability of dropping a value of the embedded patches, after attention and in the feed-forward
            parts.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: there is no stage, ``depths`` and ``num_heads`` differ in length, a width does not divide into its
            heads, or a size is out of range.
    """

    model_type = "segzoo_swin"

    channels: int = 96
    depths: Ints = (2, 2, 6, 2)
    num_heads: Ints = (3, 6, 12, 24)
    window_size: int = 7
    patch_size: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    merging_norm: bool = True
    image_size: int | Ints | None = None
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def stage_channels(self) -> list[int]:
        """Width of each stage."""
        return [self.channels * 2**stage for stage in range(len(self.depths))]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(height, width), in patches, of the images that learned positions are made for."""
        if self.image_size is None:
            return None
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size

    def check(self) -> None:
        """Each stage has blocks, windows and heads that fit it."""
        super().check()
        if not 1 <= len(self.depths) == len(self.num_heads) <= 8:
            raise SegZooError(
                f"Swin: depths={self.depths} and num_heads={self.num_heads} need one entry for each of 1 to 8 stages"
            )
        for channels, heads in zip(self.stage_channels, self.num_heads, strict=True):
            if channels % heads:
                raise SegZooError(f"Swin: a stage of {channels} channels does not divide into {heads} heads")
        if not 1 <= self.window_size <= 64:
            raise SegZooError(f"Swin: window_size={self.window_size} must be from 1 to 64 tokens")
        if isinstance(self.image_size, list) and len(self.image_size) != 2 or 0 in (self.grid or ()):
            raise SegZooError(
                f"Swin: image_size={self.image_size} must be a side or (height, width), of {self.patch_size} pixels at least"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=8,
            depths=[2, 1, 2],
            num_heads=[1, 2, 4],
            window_size=3,
            mlp_ratio=2.0,
            image_size=[32, 48],
            drop_path_rate=0.1,
        )


class PatchMerging(nn.Module):
    """Halves a grid of tokens: the four of a square become one of twice the width, normalised unless the eps is None."""

    def __init__(self, channels: int, norm_eps: float | None):
        super().__init__()
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(4 * channels, eps=norm_eps)
        self.reduction = PointwiseLinear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, N, C) of a grid -> tokens (B, M, 2 * C) and their grid; sides are padded to even ones."""
        x = whole_patches(to_map(x, grid), 2).permute(0, 2, 3, 1)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        height, width = x.shape[1], x.shape[3]
        # of a square first the left ones, from above
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
        return self.reduction(self.norm(x)), (height, width)


class SwinStage(nn.Module):
    """Blocks of one width; those at odd places shift the windows by half of their side.

    Args:
        config: the backbone's config.
        stage: number of the stage, from 0.
        drop_paths: probability of dropping a residual branch, for each block.
    """

    def __init__(self, config: SwinConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        width = config.stage_channels[stage]
        self.window_size = config.window_size
        self.layers = nn.ModuleList(
            ViTBlock(
                WindowAttention(
                    config,
                    width,
                    config.num_heads[stage],
                    config.window_size,
                    qkv_bias=config.qkv_bias,
                    dropout=config.attention_dropout,
                ),
                width,
                int(width * config.mlp_ratio),
                norm_eps=config.norm_eps,
                dropout=config.dropout,
                drop_path=rate,
            )
            for rate in drop_paths
        )
        last = stage == config.num_stages - 1
        self.downsample = None if last else PatchMerging(width, config.norm_eps if config.merging_norm else None)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of a grid (height, width) -> tokens of the same shape."""
        side = self.window_size
        kinds = [windows_of(grid, side, shift, x.device) for shift in (0, side // 2)[: len(self.layers)]]
        for i, layer in enumerate(self.layers):
            x = layer(x, kinds[i % 2])
        return x


class SwinBackbone(Backbone):
    """Returns the maps that ``config.out_features`` names, at strides of 1, 1, 2, 4, ... patches.

    ``pixel_values`` is (B, num_channels, H, W) of any size: images are padded with zeros, at the right and bottom, to
    whole patches, and maps between stages to even sides. Those of the stages that ``config.out_features`` named when
    the backbone was built are normalised; a stage continues from the map before that.
    """

    config: SwinConfig
    _no_split_modules = ["ViTBlock"]
    _supports_flash_attn = False  # neither takes a bias
    _supports_flex_attn = False

    def __init__(self, config: SwinConfig):
        super().__init__(config)
        width, patch = config.channels, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.embedding_norm = nn.LayerNorm(width, eps=config.norm_eps) if config.patch_norm else nn.Identity()
        if config.grid is None:
            self.position_embeddings = None
        else:
            height, columns = config.grid
            self.position_embeddings = nn.Parameter(torch.zeros(1, height * columns, width))
        self.dropout = nn.Dropout(config.dropout)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        self.stages = nn.ModuleList(
            SwinStage(config, stage, [next(rates) for _ in range(depth)]) for stage, depth in enumerate(config.depths)
        )
        channels = dict(zip(config.stage_names, [width, *config.stage_channels], strict=True))
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(channels[name], eps=config.norm_eps) for name in config.out_features if name != "stem"}
        )
        self.num_features = list(channels.values())
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.patch_embedding(whole_patches(pixel_values, self.config.patch_size))
        grid = (x.shape[2], x.shape[3])
        x = self.embedding_norm(to_tokens(x))
        if self.position_embeddings is not None and self.config.grid is not None:
            positions = to_map(self.position_embeddings, self.config.grid)
            x = x + to_tokens(resize(positions, grid, mode="bicubic"))
        x = self.dropout(x)
        maps = [to_map(x, grid)]
        for stage in self.stages:
            x = stage(x, grid)
            maps.append(to_map(x, grid))
            if stage.downsample is not None:
                x, grid = stage.downsample(x, grid)
        return maps

    def finish(self, feature_map: Tensor, name: str) -> Tensor:
        if name not in self.norms:
            return feature_map
        size = (feature_map.shape[2], feature_map.shape[3])
        return to_map(self.norms[name](to_tokens(feature_map)), size)

    def resize_windows(self, window_size: int) -> None:
        """Change the side of the windows, in tokens, and the config, and resize the tables of offsets (bicubic)."""
        self.config.window_size = window_size
        self.config.check()
        for stage in self.stages:
            stage.window_size = window_size
            for layer in stage.layers:
                table = layer.attention.relative_position_bias_table.detach()
                layer.attention.relative_position_bias_table = nn.Parameter(resize_window_table(table, window_size))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SwinBackbone) and module.position_embeddings is not None:
            init.trunc_normal_(module.position_embeddings, std=0.02)
        elif isinstance(module, WindowAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=0.02)


register_backbone(SwinConfig, SwinBackbone, variants=VARIANTS)

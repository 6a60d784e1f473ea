"""The plain vision transformer of ViT, DeiT, AugReg, MAE and DINOv2, with learned position embeddings that are resized.

"An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), https://arxiv.org/abs/2010.11929; "Training data-efficient
image transformers" (Touvron et al., 2021), https://arxiv.org/abs/2012.12877; windowed attention as in ViTDet,
https://arxiv.org/abs/2203.16527. The numbers are those of mmsegmentation
(https://github.com/open-mmlab/mmsegmentation), of the ViT inside ViT-Adapter (https://github.com/czczup/ViT-Adapter)
and of iBOT (https://github.com/bytedance/ibot); DINOv2's of "DINOv2: Learning Robust Visual Features without Supervision"
(Oquab et al., 2023), https://arxiv.org/abs/2304.07193. transformers' ViT has neither learned scales of its branches, nor drop
path, nor windows, and always runs with its class token.
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_backbone
from segzoo.backbones.plain_vit import (
    FixedSizeViTBackbone,
    FixedSizeViTConfig,
    resize_positions,
    vit_blocks,
)
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import to_tokens
from segzoo.layers.vit import Attention

_SIZES = {
    "t": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "s": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}

# Keyword arguments of ViTConfig.
VARIANTS = {f"vit-{size}": options for size, options in _SIZES.items()}


@strict
class ViTConfig(FixedSizeViTConfig):
    """Options of ``ViTBackbone``; the defaults are ViT-B/16.

    Args:
        image_size: side, or (height, width), in pixels, of the images that the position embeddings were made for; they
            are resized to others.
        interpolation: how they are resized, "bicubic" or "bilinear".
        interpolation_offset: added to the sides of an image, in patches, for the factors by which places are scaled;
            DINO and iBOT have 0.1.
        class_token: send a class token through the blocks, before the patches.
        pre_norm: a layer norm before the first block, as CLIP has it.
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        qkv_bias: queries, keys and values have a bias.
        drop_attention: drop path drops the branches with the attention too. mmsegmentation from 0.24 on drops those with
            the feed-forward parts alone.
        gated: the feed-forward parts are gated (SwiGLU), and two thirds as wide, rounded up to a multiple of 8.
        windows: for each block the side of its attention windows in patches, 0 for attention over the whole image; an
            empty list is 0 for all.

    Raises:
        SegZooError: ``windows`` does not have an entry per block, or is used together with a class token.
    """

    model_type = "segzoo_vit"

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    interpolation_offset: float = 0.0
    class_token: bool = True
    pre_norm: bool = False
    layer_scale: float | None = None
    qkv_bias: bool = True
    drop_attention: bool = True
    gated: bool = False
    windows: Ints = ()

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.class_token)

    def check(self) -> None:
        """There is a window for each block, if any, and with a class token all windows are 0."""
        super().check()
        if self.windows and len(self.windows) != self.num_hidden_layers:
            raise SegZooError(
                f"ViT: windows={self.windows} needs one entry for each of {self.num_hidden_layers} blocks"
            )
        if any(self.windows) and self.class_token:
            raise SegZooError("ViT: a class token has no place in windows; set class_token=False, or windows to 0")

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2.0,
            image_size=64,
            class_token=False,
            layer_scale=0.5,
            windows=[0, 3, 0, 3],
            drop_path_rate=0.1,
        )


class ViTBackbone(FixedSizeViTBackbone):
    """Returns the maps of the blocks that ``config.out_features`` names, all at the stride of a patch."""

    config: ViTConfig

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        width, (height, columns) = config.hidden_size, config.grid
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if config.class_token else None
        # The first position is the class token's. Checkpoints always have it; without a class token it is not used.
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + height * columns, width))
        self.dropout = nn.Dropout(config.dropout)
        self.pre_norm = nn.LayerNorm(width, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        attentions = (
            Attention(
                config,
                width,
                config.num_attention_heads,
                qkv_bias="all" if config.qkv_bias else "none",
                window=window,
                dropout=config.attention_dropout,
            )
            for window in config.windows or [0] * config.num_hidden_layers
        )
        self.layers = vit_blocks(
            config, attentions, config.layer_scale, gated=config.gated, drop_attention=config.drop_attention
        )
        self.post_init()

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The class token, if there is one, and the patches, with their position embeddings."""
        x = self.patch_embedding(pixel_values)
        grid = (x.shape[2], x.shape[3])
        config = self.config
        positions = resize_positions(
            self.position_embeddings,
            config.grid,
            grid,
            prefix=1,
            mode=config.interpolation,
            offset=config.interpolation_offset,
        )
        tokens = to_tokens(x) + positions[:, 1:]
        if self.class_token is not None:
            first = self.class_token + positions[:, :1]
            tokens = torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.pre_norm(self.dropout(tokens)), grid

    def fit_positions(self, made_for: tuple[int, int]) -> None:
        config = self.config
        positions = resize_positions(
            self.position_embeddings.detach(), made_for, config.grid, prefix=1, mode=config.interpolation
        )
        self.position_embeddings = nn.Parameter(positions)

    def fit_images(self, size: tuple[int, int]) -> None:
        """Does nothing: the position embeddings are resized with every batch."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ViTBackbone):
            init.trunc_normal_(module.position_embeddings, std=0.02)
            if module.class_token is not None:
                init.trunc_normal_(module.class_token, std=0.02)


register_backbone(ViTConfig, ViTBackbone, variants=VARIANTS)

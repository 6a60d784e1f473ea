"""InternViT-6B: a plain vision transformer with RMS norms, also of queries and keys, and absolute positions.

"InternVL: Scaling up Vision Foundation Models and Aligning for Generic Visual-Linguistic Tasks" (Chen et al., 2024),
https://arxiv.org/abs/2312.14238. The numbers are those of its segmentation code
(https://github.com/OpenGVLab/InternVL), which runs the backbone in bfloat16 and the heads in float32. transformers'
InternVL splits the fused projection, gives no maps, and resizes positions silently.
"""

from typing import Self

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
from segzoo.layers import RMSNorm, resize, to_tokens
from segzoo.layers.vit import Attention

# Keyword arguments of InternViTConfig.
VARIANTS = {
    "internvit-6b-224px": {},
    "internvit-6b-448px-v1-0": {"image_size": 448},
    **{
        f"internvit-6b-448px-{version}": {"image_size": 448, "num_hidden_layers": 45}
        for version in ("v1-2", "v1-5", "v2-5")
    },
}


@strict
class InternViTConfig(FixedSizeViTConfig):
    """Options of ``InternViTBackbone``; the defaults are InternViT-6B's for images of 224 x 224.

    Args:
        resize_positions: resize the position embeddings (bicubic) for every batch of another size. Otherwise images of
            other sizes are an error.
        layer_scale: initial value of the learned scales of the residual branches; None for none.
    """

    model_type = "segzoo_internvit"

    hidden_size: int = 3200
    num_hidden_layers: int = 48
    num_attention_heads: int = 25
    patch_size: int = 14
    resize_positions: bool = False
    layer_scale: float | None = 0.1

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2.0,
            image_size=[56, 84],
            resize_positions=True,
            layer_scale=0.5,
            drop_path_rate=0.1,
        )


class InternViTAttention(Attention):
    """Attention whose queries and keys are normalised as whole vectors, over all heads together."""

    def __init__(self, config: InternViTConfig):
        width = config.hidden_size
        super().__init__(config, width, config.num_attention_heads, qkv_bias="none", dropout=config.attention_dropout)
        self.q_norm = RMSNorm(width, eps=config.norm_eps)
        self.k_norm = RMSNorm(width, eps=config.norm_eps)

    def heads(self, qkv: Tensor) -> list[Tensor]:
        """As of every attention; values are not normalised."""
        query, key, value = qkv.chunk(3, dim=-1)
        return [
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_norm(query), self.k_norm(key), value)
        ]


class InternViTBackbone(FixedSizeViTBackbone):
    """Returns the maps of the blocks that ``config.out_features`` names, all at the stride of a patch.

    Images may be of another dtype than the weights. A segmentation model that is loaded in half precision keeps its
    heads in float32, as the original does.

    Raises:
        SegZooError: in ``forward``, an image of a size that the position embeddings are not made for (see
            ``InternViTConfig.resize_positions``).
    """

    config: InternViTConfig
    heads_in_float32 = True

    def __init__(self, config: InternViTConfig):
        super().__init__(config)
        width, (height, columns) = config.hidden_size, config.grid
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + height * columns, width))
        self.dropout = nn.Dropout(config.dropout)
        attentions = (InternViTAttention(config) for _ in range(config.num_hidden_layers))
        self.layers = vit_blocks(config, attentions, config.layer_scale, norm=RMSNorm)
        self.post_init()

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """A class token and the patches, with their position embeddings."""
        x = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        grid, made_for, positions = (x.shape[2], x.shape[3]), self.config.grid, self.position_embeddings
        if self.config.resize_positions:
            positions = resize_positions(positions, made_for, grid, prefix=1)
        elif grid != made_for:
            patch = self.config.patch_size
            height, width = (side * patch for side in made_for)
            raise SegZooError(
                f"this InternViT is made for images of {height}x{width}, and was given {grid[0] * patch}x{grid[1] * patch}; "
                f"train on crops of {height}x{width} (crop_size), give window_size=({height}, {width}) for sliding windows, "
                "or set resize_positions=True in the backbone's config"
            )
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), to_tokens(x)], dim=1)
        return self.dropout(tokens + positions), grid

    def resize_image(self, image_size: int | Ints, patch_size: int | None = None) -> None:
        """Resize the position embeddings, and change the config, to images of another size.

        Args:
            image_size: side, or (height, width), in pixels.
            patch_size: side of the patches, to whose kernels those of now are resized (bicubic); None keeps them.
        """
        config, made_for, kernels = self.config, self.config.grid, self.patch_embedding.weight.detach()
        if patch_size not in (None, config.patch_size):
            config.patch_size, sides = patch_size, (patch_size, patch_size)
            self.patch_embedding.kernel_size = self.patch_embedding.stride = sides
            self.patch_embedding.weight = nn.Parameter(resize(kernels, sides, mode="bicubic"))
            config.image_size = [side * patch_size for side in made_for]  # the grid stays
        super().resize_image(image_size)

    def fit_positions(self, made_for: tuple[int, int]) -> None:
        positions = resize_positions(self.position_embeddings.detach(), made_for, self.config.grid, prefix=1)
        self.position_embeddings = nn.Parameter(positions)

    def fit_images(self, size: tuple[int, int]) -> None:
        """Resize the position embeddings to the grid of whole patches that images of this (height, width) have."""
        if not self.config.resize_positions:
            super().fit_images(size)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InternViTBackbone):
            init.trunc_normal_(module.position_embeddings, std=0.02)
            init.trunc_normal_(module.class_token, std=0.02)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)


register_backbone(InternViTConfig, InternViTBackbone, variants=VARIANTS)

"""The plain vision transformer of Uni-Perceiver: a ViT without class token, whose embedded patches pass a norm.

"Uni-Perceiver: Pre-training Unified Architecture for Generic Perception for Zero-shot and Few-shot Tasks" (Zhu et al.,
2022), https://arxiv.org/abs/2112.01522. The numbers are those of the encoder inside ViT-Adapter
(https://github.com/czczup/ViT-Adapter), which has neither text nor the type embeddings of the whole model.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_backbone
from segzoo.backbones.plain_vit import PlainViTBackbone, PlainViTConfig, resize_positions, vit_blocks
from segzoo.base import strict
from segzoo.layers import to_tokens
from segzoo.layers.vit import Attention


@strict
class UniPerceiverConfig(PlainViTConfig):
    """Options of ``UniPerceiverBackbone``; the defaults are Uni-Perceiver-B's.

    Args:
        image_size: side of the square images that the position embeddings were made for, in pixels; they are resized
            to others.
        num_frames: number of frames of a video that have an embedding each; an image is the first frame.
        layer_scale: initial value of the learned scales of the residual branches.
    """

    model_type = "segzoo_uniperceiver"

    norm_eps: float = 1e-5
    image_size: int = 224
    num_frames: int = 8
    layer_scale: float = 0.0

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2.0,
            image_size=64,
            num_frames=2,
            layer_scale=0.5,
            drop_path_rate=0.1,
        )


class UniPerceiverBackbone(PlainViTBackbone):
    """Returns the maps of the blocks that ``config.out_features`` names, all at the stride of a patch."""

    config: UniPerceiverConfig

    def __init__(self, config: UniPerceiverConfig):
        super().__init__(config)
        width, side = config.hidden_size, config.image_size // config.patch_size
        self.position_embeddings = nn.Parameter(torch.zeros(side * side, width))
        self.frame_embeddings = nn.Parameter(torch.zeros(config.num_frames, width))
        self.embedding_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        attentions = (
            Attention(config, width, config.num_attention_heads, dropout=config.attention_dropout)
            for _ in range(config.num_hidden_layers)
        )
        self.layers = vit_blocks(config, attentions, config.layer_scale)
        self.post_init()

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The patches with the embeddings of their positions and of the first frame, normalised."""
        x = self.patch_embedding(pixel_values)
        grid = (x.shape[2], x.shape[3])
        side = self.config.image_size // self.config.patch_size
        positions = resize_positions(self.position_embeddings.unsqueeze(0), (side, side), grid)
        return self.dropout(self.embedding_norm(to_tokens(x) + positions + self.frame_embeddings[:1])), grid

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UniPerceiverBackbone):
            init.normal_(module.position_embeddings)
            init.normal_(module.frame_embeddings)


register_backbone(UniPerceiverConfig, UniPerceiverBackbone)

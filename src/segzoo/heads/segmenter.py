"""Segmenter's mask head: a transformer over patches and class tokens, whose cosines are the scores.

From "Segmenter: Transformer for Semantic Segmentation" (Strudel et al., 2021), https://arxiv.org/abs/2105.05633, as
mmsegmentation's ``SegmenterMaskTransformerHead`` trains it.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.auto import register_head
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadOutput, OneMapHeadConfig
from segzoo.layers import Float32LayerNorm, PointwiseLinear, in_float32, to_map, to_tokens, without_autocast
from segzoo.layers.vit import Attention, ViTBlock, drop_path_rates


@strict
class SegmenterHeadConfig(OneMapHeadConfig):
    """Options of ``SegmenterHead``, besides those of ``OneMapHeadConfig``; ``norm`` and ``activation`` are not used.

    Args:
        channels: width of the tokens.
        num_layers: number of transformer blocks.
        num_heads: number of attention heads, a divisor of ``channels``.
        mlp_ratio: hidden width of the feed-forward parts, relative to ``channels``.
        dropout: probability of dropping a value after attention and in the feed-forward parts, while training.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.
        drop_attention: drop path drops the branches with the attention too. mmsegmentation from 0.24 on drops those with
            the feed-forward parts alone.
        norm_eps: epsilon of all layer norms.

    Raises:
        SegZooError: ``channels`` does not divide into the heads.
    """

    model_type = "segzoo_segmenter_head"

    channels: int = 768
    num_layers: int = 2
    num_heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.1
    drop_attention: bool = True

    def check(self) -> None:
        """``channels`` is a multiple of ``num_heads``."""
        super().check()
        if self.channels % self.num_heads:
            raise SegZooError(
                f"SegmenterHeadConfig: channels={self.channels} does not divide into num_heads={self.num_heads}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[32],
            in_index=[2],
            channels=16,
            num_heads=2,
            mlp_ratio=2.0,
            drop_path_rate=0.0,  # a dropped branch has no gradients
            num_labels=5,
        )


class ClassTokens(nn.Module):
    """What depends on the classes: a token (1, K, C) for each, and the norm of a pixel's K cosines.

    The head calls it before the blocks and behind them, since only its own forward may read its weights.
    """

    def __init__(self, num_labels: int, channels: int, norm_eps: float):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, num_labels, channels))
        self.norm = Float32LayerNorm(num_labels, eps=norm_eps)

    def forward(self, pixels: Tensor, classes: Tensor | None = None) -> Tensor:
        """Without ``classes``, pixels (B, N, C) -> the same with the class tokens behind them, (B, N + K, C).

        With classes (B, K, C) -> the normalised cosines (B, N, K) between both, in float32 at least: the norm enlarges
        the small differences between the cosines, which half precision would round away.
        """
        if classes is None:
            return torch.cat([pixels, self.tokens.expand(pixels.shape[0], -1, -1).to(pixels.dtype)], dim=1)
        with without_autocast(pixels.device):
            pixels, classes = (F.normalize(x, dim=-1) for x in in_float32(pixels, classes))
            return self.norm(pixels @ classes.transpose(1, 2))


class SegmenterHead(Head):
    """Reads one map, or the concatenation of several, and returns logits at its resolution."""

    config: SegmenterHeadConfig
    _no_split_modules = ["ViTBlock"]

    def __init__(self, config: SegmenterHeadConfig):
        super().__init__(config)
        width = config.channels
        self.projection = PointwiseLinear(sum(config.in_channels), width)
        self.layers = nn.ModuleList(
            ViTBlock(
                Attention(config, width, config.num_heads, dropout=config.attention_dropout),
                width,
                int(width * config.mlp_ratio),
                norm_eps=config.norm_eps,
                dropout=config.dropout,
                drop_path=rate,
                attention_drop_path=None if config.drop_attention else 0.0,
            )
            for rate in drop_path_rates(config.drop_path_rate, config.num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.pixel_projection = PointwiseLinear(width, width, bias=False)
        self.class_projection = PointwiseLinear(width, width, bias=False)
        self.post_init()

    def build_classifier(self, config: SegmenterHeadConfig) -> nn.Module:
        """The class tokens, which go through the blocks, and the norm of the scores."""
        return ClassTokens(config.num_outputs, config.channels, config.norm_eps)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> HeadOutput:
        """As `Head.forward`; the logits are in float32 at least."""
        (x,) = self.select(feature_maps)
        grid = (x.shape[2], x.shape[3])
        tokens = self.classifier(self.projection(to_tokens(x)))
        count = self.config.num_outputs
        for layer in self.layers:
            tokens = layer(tokens, grid)
        tokens = self.norm(tokens)
        pixels, classes = self.pixel_projection(tokens[:, :-count]), self.class_projection(tokens[:, -count:])
        return HeadOutput(logits=to_map(self.classifier(pixels, classes), grid))

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            init.trunc_normal_(module.tokens, std=0.02)
        else:
            super()._init_weights(module)


register_head(SegmenterHeadConfig, SegmenterHead)

"""Attention of all patches to a coarser grid, whose cost does not grow with the square of the image's size.

"Pyramid Vision Transformer" (Wang et al., 2021), https://arxiv.org/abs/2102.12122, in the form that SegFormer's MiT and
Twins have.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from segzoo.layers.pointwise import PointwiseLinear
from segzoo.layers.pyramid_pooling import pool_to_grid
from segzoo.layers.tokens import to_map, to_tokens
from segzoo.layers.vit import eager_attention


class SpatialReductionAttention(nn.Module):
    """Multi-head attention in which every patch attends to the patches of a grid ``reduction`` times as coarse.

    A convolution without overlap makes the coarse grid; rows and columns that do not fill one of its patches are left
    out of it. In the linear attention of PVT v2 ("PVT v2: Improved Baselines with Pyramid Vision Transformer", Wang et
    al., 2022, https://arxiv.org/abs/2106.13797) the grid has the same size for every image, and holds averages.

    Args:
        config: the model's config, which names the implementation of attention.
        channels: width of the tokens.
        num_heads: number of heads.
        reduction: how much coarser the grid of keys and values is; 1 for the grid itself, without convolution and norm.
        norm_eps: epsilon of the norm after the convolution.
        pooled: side of the grid of averages, for linear attention; None for a coarser grid by ``reduction``.
        qkv_bias: queries, keys and values have a bias.
        projection_bias: the projection after attention has one.
        dropout: probability of dropping an attention weight, while training.
    """

    is_causal = False

    def __init__(
        self,
        config: PreTrainedConfig,
        channels: int,
        num_heads: int,
        *,
        reduction: int,
        norm_eps: float,
        pooled: int | None = None,
        qkv_bias: bool = True,
        projection_bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.config, self.num_heads, self.dropout = config, num_heads, dropout
        self.scaling = (channels // num_heads) ** -0.5
        self.q = PointwiseLinear(channels, channels, bias=qkv_bias)
        self.kv = PointwiseLinear(channels, 2 * channels, bias=qkv_bias)
        self.reduction, self.norm, self.pooled = None, None, pooled
        if reduction > 1 or pooled:
            side = 1 if pooled else reduction
            self.reduction = nn.Conv2d(channels, channels, side, stride=side)
            self.norm = nn.LayerNorm(channels, eps=norm_eps)
        self.proj = PointwiseLinear(channels, channels, bias=projection_bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix the tokens (B, height * width, C) of a grid (height, width), whose sides are ``reduction`` at least."""
        query, coarse = self.q(x), x
        if self.pooled:
            averages = pool_to_grid(to_map(x, grid), self.pooled)
            coarse = F.gelu(self.norm(to_tokens(self.reduction(averages))))
        elif self.reduction is not None:
            coarse = self.norm(to_tokens(self.reduction(to_map(x, grid))))
        key, value = self.kv(coarse).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(
            self,
            query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2),
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.proj(mixed.flatten(2))

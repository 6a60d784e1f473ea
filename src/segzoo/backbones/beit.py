"""BEiT: a plain vision transformer that learns attention biases for offsets between patches, for one image size.

"BEiT: BERT Pre-Training of Image Transformers" (Bao et al., 2021), https://arxiv.org/abs/2106.08254, and "BEiT v2"
(Peng et al., 2022), https://arxiv.org/abs/2208.06366; fine-tuned in the same form, with absolute positions and biases
on keys beside, MAE (https://arxiv.org/abs/2111.06377). The numbers are those of the BEiT inside ViT-Adapter
(https://github.com/czczup/ViT-Adapter) and of BEiT and MAE in mmsegmentation
(https://github.com/open-mmlab/mmsegmentation). transformers' BEiT misreads the tables of images that are not square as
transposed, and resizes tables silently and bilinearly.
"""

from functools import cache
from typing import Self

import numpy as np
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
from segzoo.base import strict
from segzoo.errors import SegZooError
from segzoo.layers import to_map, to_tokens
from segzoo.layers.relative_position import offset_pairs
from segzoo.layers.vit import Attention

# Keyword arguments of BeitConfig.
VARIANTS = {
    "beit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "layer_scale": 0.1},
    "beit-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "layer_scale": 1e-5},
}
_MAE = {"layer_scale": 1.0, "key_bias": True, "absolute_positions": True}
VARIANTS |= {f"mae-{size}": VARIANTS[f"beit-{size}"] | _MAE for size in "bl"}


@strict
class BeitConfig(FixedSizeViTConfig):
    """Options of ``BeitBackbone``; the defaults are BEiT-B/16 for images of 224 x 224.

    Args:
        resize_tables: resize the tables, and absolute positions, for every batch of another size. Otherwise images of
            other sizes are an error in training, and larger ones always; in evaluation smaller images read the part of
            the tables that they need, and the first rows and columns of the absolute positions.
        relative_positions: every block learns a table of biases for the offsets between patches.
        absolute_positions: learned position embeddings are added to the patches and to the class token.
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        qkv_bias: queries and values have a bias.
        key_bias: keys have one too, as in MAE.

    Raises:
        SegZooError: ``key_bias`` without ``qkv_bias``.
    """

    model_type = "segzoo_beit"

    resize_tables: bool = False
    relative_positions: bool = True
    absolute_positions: bool = False
    layer_scale: float | None = 0.1
    qkv_bias: bool = True
    key_bias: bool = False

    def check(self) -> None:
        """Keys have a bias only where queries and values have one."""
        super().check()
        if self.key_bias and not self.qkv_bias:
            raise SegZooError("BEiT: key_bias=True needs qkv_bias=True")

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2.0,
            image_size=[64, 96],
            resize_tables=True,
            layer_scale=0.5,
            drop_path_rate=0.1,
        )


class BeitAttention(Attention):
    """Attention over a class token and patches, with a learned bias for each offset between two patches, if any.

    For a grid of H x W patches the table has a row for each of the (2H - 1) * (2W - 1) offsets, vertical ones
    outermost, then one for the class token as query, one for it as key and one for both; its columns are the heads.
    """

    def __init__(self, config: BeitConfig):
        biased = "all" if config.key_bias else "query_value"
        super().__init__(
            config,
            config.hidden_size,
            config.num_attention_heads,
            qkv_bias=biased if config.qkv_bias else "none",
            dropout=config.attention_dropout,
        )
        height, width = self.table_grid = config.grid
        self.resize_tables = config.resize_tables
        self.relative_position_bias_table = None
        if config.relative_positions:
            rows = (2 * height - 1) * (2 * width - 1) + 3
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, config.num_attention_heads))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix the tokens (B, 1 + height * width, C): a class token and the patches of ``grid`` (height, width)."""
        table, made_for = self.relative_position_bias_table, self.table_grid
        if table is None:
            return super().forward(x, grid)
        if self.resize_tables and grid != made_for:
            table, made_for = resize_bias_table(table, made_for, grid), grid
        return super().forward(x, grid, position_bias(table, made_for, grid).to(x.dtype))


def position_bias(table: Tensor, made_for: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The bias of every pair of tokens, (1, heads, 1 + patches, 1 + patches), read from a table.

    Args:
        table: (rows, heads): offsets between patches, row by row, then class token to patch, patch to class token, and
            class token to itself.
        made_for: (height, width), in patches, of the grid that the table belongs to.
        grid: (height, width), in patches, of the image, no larger than ``made_for``; its offsets are in the middle of
            the table.
    """
    (height, width), (rows, columns) = made_for, grid
    patches = rows * columns
    distances = table[:-3].t().unflatten(1, (2 * height - 1, 2 * width - 1))
    distances = distances[:, height - rows : height + rows - 1, width - columns : width + columns - 1]
    from_class, to_class, to_itself = table[-3:].t().unflatten(1, (3, 1, 1)).unbind(1)
    first = torch.cat([to_itself, from_class.expand(-1, 1, patches)], dim=2)
    others = torch.cat([to_class.expand(-1, patches, 1), offset_pairs(distances, grid)], dim=2)
    return torch.cat([first, others], dim=1).unsqueeze(0)


def resize_bias_table(table: Tensor, made_for: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize a table to another grid as BEiT does: near offsets stay sharp, far ones are spread in geometric steps.

    A cubic spline through the old entries, at places that follow a geometric sequence, is read at the new offsets; the
    three rows of the class token are kept.

    Args:
        table: (rows, heads) for the grid ``made_for``.
        made_for: (height, width), in patches, of the table's grid.
        grid: (height, width), in patches, of the wanted grid.
    """
    if made_for == grid:
        return table
    sizes = [(2 * b - 1, 2 * a - 1) for a, b in zip(made_for, grid, strict=True)]  # new and old offsets of each axis
    matrices = spline_matrices(made_for, grid).to(table.device).split([new * old for new, old in sizes])
    along_y, along_x = (matrix.view(size) for matrix, size in zip(matrices, sizes, strict=True))
    old = table[:-3].unflatten(0, tuple(old for _, old in sizes)).double()
    new = torch.einsum("yi,ijh,xj->yxh", along_y, old, along_x).flatten(0, 1)
    return torch.cat([new.to(table.dtype), table[-3:]])


@torch.compiler.assume_constant_result
def spline_matrices(made_for: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The weights (new, old) of each axis's old offsets in each new one, those of y before those of x; float64.

    A cubic spline (not-a-knot) is linear in its values, and so a matrix. Through three offsets or fewer the spline is
    linear. It is one tensor, and the same one each time, because a compiled model may hold one result of this function.
    """
    with torch.inference_mode(False):  # the next call may be a training's
        matrices = torch.from_numpy(_spline_matrices(made_for, grid))
    if type(matrices) is not Tensor:  # one of an exporter's, which means nothing afterwards
        return matrices
    return _KEPT.setdefault((made_for, grid), matrices)


_KEPT: dict[tuple[tuple[int, int], tuple[int, int]], Tensor] = {}


@cache
def _spline_matrices(made_for: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    parts = [_spline_matrix(2 * a - 1, 2 * b - 1).ravel() for a, b in zip(made_for, grid, strict=True)]
    return np.concatenate(parts)


def _spline_matrix(old: int, new: int) -> np.ndarray:
    from scipy.interpolate import make_interp_spline

    if old == 1:
        return np.ones((new, 1))
    places = geometric_places(old, new)
    wanted = np.clip(
        np.arange(new) - new // 2, places[0], places[-1]
    )  # the last place falls short of it by a millionth
    return make_interp_spline(places, np.eye(old), k=3 if old > 3 else 1)(wanted)


def geometric_places(old: int, new: int) -> list[float]:
    """Where the old offsets are placed: 0, 1, 1 + q, 1 + q + q^2 ... on both sides, with the q that takes the last one
    to the largest new offset. As in the original, q is between 1.01 and 1.5 and found to a millionth.
    """
    low, high, q = 1.01, 1.5, 1.0
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (old // 2)) / (1 - q) > new // 2 else (q, high)
    right = [sum(q**i for i in range(steps)) for steps in range(1, old // 2 + 1)]
    return [-place for place in reversed(right)] + [0.0] + right


class BeitBackbone(FixedSizeViTBackbone):
    """Returns the maps of the blocks that ``config.out_features`` names, all at the stride of a patch.

    Raises:
        SegZooError: in ``forward``, an image of a size that the positions are not made for (see
            ``BeitConfig.resize_tables``).
    """

    config: BeitConfig
    _supports_flash_attn = False  # neither takes a bias
    _supports_flex_attn = False

    def __init__(self, config: BeitConfig):
        super().__init__(config)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = None
        if config.absolute_positions:
            height, width = config.grid
            self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + height * width, config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        attentions = (BeitAttention(config) for _ in range(config.num_hidden_layers))
        self.layers = vit_blocks(config, attentions, config.layer_scale)
        self.post_init()

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """A class token and the patches, with absolute positions if there are any; attention adds the relative ones."""
        x = self.patch_embedding(pixel_values)
        grid = (x.shape[2], x.shape[3])
        self._check_size(grid)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), to_tokens(x)], dim=1)
        if self.position_embeddings is not None:
            tokens = tokens + self._positions(grid)
        return self.dropout(tokens), grid

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        positions, made_for = self.position_embeddings, self.config.grid
        if grid == made_for:
            return positions
        if self.config.resize_tables:
            return resize_positions(positions, made_for, grid, prefix=1)
        patches = to_map(positions[:, 1:], made_for)[:, :, : grid[0], : grid[1]]
        return torch.cat([positions[:, :1], to_tokens(patches)], dim=1)

    def fit_positions(self, made_for: tuple[int, int]) -> None:
        grid = self.config.grid
        if self.position_embeddings is not None:
            resized = resize_positions(self.position_embeddings.detach(), made_for, grid, prefix=1)
            self.position_embeddings = nn.Parameter(resized)
        for attention in (layer.attention for layer in self.layers):
            attention.table_grid = grid
            if attention.relative_position_bias_table is not None:
                resized = resize_bias_table(attention.relative_position_bias_table.detach(), made_for, grid)
                attention.relative_position_bias_table = nn.Parameter(resized)

    def fit_images(self, size: tuple[int, int]) -> None:
        """Resize the positions to the grid of whole patches that images of this (height, width) have."""
        if not self.config.resize_tables:
            super().fit_images(size)

    def _check_size(self, grid: tuple[int, int]) -> None:
        made_for, patch = self.config.grid, self.config.patch_size
        positions = self.config.relative_positions or self.config.absolute_positions
        if self.config.resize_tables or grid == made_for or not positions:
            return
        fits = grid[0] <= made_for[0] and grid[1] <= made_for[1]
        if fits and not self.training:
            return
        height, width = (side * patch for side in made_for)
        given = f"{grid[0] * patch}x{grid[1] * patch}"
        if self.training:
            fix = f"train on crops of {height}x{width} (crop_size), or set resize_tables=True in the backbone's config"
        else:
            fix = f"give window_size=({height}, {width}) for sliding windows, or set resize_tables=True in the backbone's config"
        raise SegZooError(f"this BEiT is made for images of {height}x{width}, and was given {given}; {fix}")

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BeitBackbone):
            init.trunc_normal_(module.class_token, std=0.02)
            if module.position_embeddings is not None:
                init.trunc_normal_(module.position_embeddings, std=0.02)
        elif isinstance(module, BeitAttention):
            if module.relative_position_bias_table is not None:
                init.zeros_(module.relative_position_bias_table)
            if module.q_bias is not None:
                init.zeros_(module.q_bias)
                init.zeros_(module.v_bias)


register_backbone(BeitConfig, BeitBackbone, variants=VARIANTS)

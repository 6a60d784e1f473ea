"""What segzoo's plain vision transformers share: patches of one width and one resolution throughout."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from segzoo.backbones.base import Backbone, BackboneConfig, evenly_spaced_layers
from segzoo.base import Ints, strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.layers import resize, to_map, to_tokens
from segzoo.layers.resize import same_size
from segzoo.layers.vit import ViTBlock, drop_path_rates


@strict
class PlainViTConfig(BackboneConfig):
    """Options of every plain ViT of segzoo. By default the outputs of four evenly spaced blocks are returned.

    Args:
        hidden_size: width of the tokens.
        num_hidden_layers: number of blocks; ``"stage3"`` in ``out_features`` is the output of the third as a map, and
            ``"token3"`` its class token as a map of one pixel.
        num_attention_heads: number of attention heads, a divisor of ``hidden_size``.
        mlp_ratio: hidden width of the feed-forward part, relative to ``hidden_size``.
        patch_size: side of the patches, in pixels.
        patch_bias: the projection of the patches has a bias.
        pad: pad images with zeros, on the right and at the bottom, to whole patches. Otherwise what lies behind the
            last whole patch is not read.
        pad_around: with ``pad``, half of the zeros, rounded down, are on the left and at the top, as DINOv2's heads
            have them.
        norm_eps: epsilon of the norms.
        dropout: probability of dropping a value of the embedded tokens, after attention and in the feed-forward parts.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.
        drop_path_uniform: drop with the probability ``drop_path_rate`` in all blocks.
        final_norm: apply a layer norm to the returned maps.
        normed_maps: the maps that this norm is applied to: "all", or "last" for the last block's alone.

    Raises:
        SegZooError: ``hidden_size`` does not divide into the heads.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    patch_size: int = 16
    patch_bias: bool = True
    pad: bool = True
    pad_around: bool = False
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_uniform: bool = False
    final_norm: bool = False
    normed_maps: Literal["all", "last"] = "all"

    def check(self) -> None:
        """``hidden_size`` is a multiple of ``num_attention_heads``."""
        super().check()
        if self.hidden_size % self.num_attention_heads:
            raise SegZooError(
                f"{type(self).__name__}: hidden_size={self.hidden_size} does not divide into "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before those of the patches; the first of them is the class token."""
        return 1

    @property
    def num_stages(self) -> int:
        return self.num_hidden_layers

    @property
    def stage_names(self) -> list[str]:
        """``"stem"`` for the embedded patches, ``"stage1"`` ... for the output of every block, and, where there is a
        class token, ``"token1"`` ... for the class token after every block.
        """
        tokens = [f"token{i}" for i in range(1, self.num_hidden_layers + 1)] if self.num_prefix_tokens else []
        return [*super().stage_names, *tokens]

    @property
    def default_out_features(self) -> list[str]:
        return [f"stage{i}" for i in evenly_spaced_layers(self.num_hidden_layers)]


@strict
class FixedSizeViTConfig(PlainViTConfig):
    """Options of a plain ViT with positions that are made for one size of images.

    Args:
        image_size: side, or (height, width), in pixels, of the images that the positions are made for.

    Raises:
        SegZooError: ``image_size`` is neither a side nor a pair, or is smaller than a patch.
    """

    image_size: int | Ints = 224

    def check(self) -> None:
        """``image_size`` is a side or a pair, and holds one patch at least."""
        super().check()
        if len(self.sides) != 2 or min(self.sides) < self.patch_size:
            raise SegZooError(
                f"{type(self).__name__}: image_size={self.image_size} must be a side or (height, width), of "
                f"{self.patch_size} pixels at least"
            )

    @property
    def sides(self) -> list[int]:
        """Height and width of ``image_size``, in pixels."""
        return [self.image_size] * 2 if isinstance(self.image_size, int) else list(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width), in patches, of the images that the positions are made for."""
        height, width = (side // self.patch_size for side in self.sides)
        return height, width


class PlainViTBackbone(Backbone):
    """Base of segzoo's plain ViTs: subclasses set ``layers`` and write `embed`, which turns an image into tokens.

    ``pixel_values`` is (B, num_channels, H, W); the maps are (B, hidden_size, H / patch_size, W / patch_size), rounded
    up, or without ``config.pad`` down. Class tokens are maps (B, hidden_size, 1, 1).
    """

    config: PlainViTConfig
    _no_split_modules = ["ViTBlock"]
    has_attentions = True

    layers: nn.ModuleList
    norm: nn.Module

    def __init__(self, config: PlainViTConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.final_norm else nn.Identity()
        self.num_features = [config.hidden_size] * len(config.stage_names)

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens (B, prefix + patches, hidden_size) for the first block, and the patches' grid (height, width).

        Args:
            pixel_values: images (B, num_channels, H, W) of whole patches; what lies behind the last one is not read.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `embed`")

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        *,
        only_embed: bool = False,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Tensor, tuple[int, int]]:
        """The maps that ``config.out_features`` names.

        Args:
            pixel_values: normalised images (B, num_channels, H, W).
            output_hidden_states: return all maps as well, in the order of ``config.stage_names``; None follows the
                config.
            output_attentions: return the attention weights of every block as well, (B, heads, tokens, tokens), or with
                windows (B * windows, heads, side * side, side * side); None follows the config.
            only_embed: return what `embed` does, for networks that run the blocks themselves. They ask for it here,
                because hooks on ``forward`` bring the model's own parameters to where they are needed.
            kwargs: ``return_dict=False`` returns a tuple.

        Raises:
            SegZooError: ``output_attentions`` with an implementation of attention that gives no weights.
        """
        if only_embed:
            return self.embed(pixel_values)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is not None:
            kwargs["output_hidden_states"] = output_hidden_states
        if not output_attentions:
            if kwargs.get("output_hidden_states", self.config.output_hidden_states):
                return super().forward(pixel_values, return_dict=True, **kwargs)
            maps = self.chosen(pixel_values, self.out_features)
            return BackboneOutput(feature_maps=tuple(self.finish(maps[name], name) for name in self.out_features))
        if self.config._attn_implementation != "eager":
            raise SegZooError(
                f"attention by {self.config._attn_implementation!r} gives no weights, which output_attentions asks for; load "
                "the model with attn_implementation='eager', or call set_attn_implementation('eager')"
            )
        attentions: list[Tensor] = []
        modules = [layer.attention for layer in self.layers]
        try:
            for module in modules:
                module.recorded = attentions
            output = super().forward(pixel_values, return_dict=True, **kwargs)
        finally:
            for module in modules:
                module.recorded = None
        output["attentions"] = tuple(attentions)
        return output

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ViTBlock) and module.scale1 is not None:
            init.constant_(module.scale1, module.layer_scale)
            init.constant_(module.scale2, module.layer_scale)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.chosen(pixel_values, self.stage_names)
        return [maps[name] for name in self.stage_names]

    def chosen(self, pixel_values: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Those of `features` that are named; the others are freed on the way, unless gradients need them."""
        config = self.config
        if config.pad:
            pixel_values = whole_patches(pixel_values, config.patch_size, around=config.pad_around)
        x, grid = self.embed(pixel_values)
        prefix, maps = config.num_prefix_tokens, {}
        if "stem" in names:
            maps["stem"] = to_map(x[:, prefix:], grid)
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x, grid)
            if config.normed_maps == "last" and i == len(self.layers):
                x = self.norm(x)
            if f"stage{i}" in names:
                maps[f"stage{i}"] = to_map(x[:, prefix:], grid)
            if f"token{i}" in names:
                maps[f"token{i}"] = to_map(x[:, :1], (1, 1))
        return maps

    def finish(self, feature_map: Tensor, name: str) -> Tensor:
        if self.config.normed_maps == "last":
            return feature_map
        size = (feature_map.shape[2], feature_map.shape[3])
        return to_map(self.norm(to_tokens(feature_map)), size)


class FixedSizeViTBackbone(PlainViTBackbone):
    """Base of plain ViTs with positions that are made for one size of images: subclasses write `fit_positions`."""

    config: FixedSizeViTConfig

    def fit_positions(self, made_for: tuple[int, int]) -> None:
        """Resize the positions from the grid ``made_for`` (height, width), in patches, to that of the config."""
        raise NotImplementedError(f"{type(self).__name__} has no `fit_positions`")

    def resize_image(self, image_size: int | Ints) -> None:
        """Resize the positions, and change the config, to images of another size.

        Args:
            image_size: side, or (height, width), in pixels.

        Raises:
            SegZooError: the size is no side and no pair, or is smaller than a patch.
        """
        config, made_for = self.config, self.config.grid
        config.image_size = image_size if isinstance(image_size, int) else list(image_size)
        config.check()
        if config.grid != made_for:
            self.fit_positions(made_for)

    def fit_images(self, size: tuple[int, int]) -> None:
        """Resize the positions to the grid of whole patches that images of this (height, width) have."""
        patch = self.config.patch_size
        self.resize_image([-(-side // patch) * patch for side in size])


def resize_positions(
    positions: Tensor,
    made_for: tuple[int, int],
    grid: tuple[int, int],
    *,
    prefix: int = 0,
    mode: str = "bicubic",
    offset: float = 0.0,
) -> Tensor:
    """Resize position embeddings to another grid, not antialiased.

    Args:
        positions: (1, prefix + height * width, C), those of the patches of ``made_for`` row by row.
        made_for: (height, width) of their grid.
        grid: (height, width) of the wanted grid.
        prefix: number of positions before the patches', which are kept.
        mode: "bicubic" or "bilinear".
        offset: added to the sides of ``grid`` for the factors by which places are scaled.
    """
    # Without an offset the same grid gives the same numbers, so that exports of any size need no case for it.
    if made_for == grid if offset else same_size(made_for, grid):
        return positions
    patches = to_map(positions[:, prefix:], made_for)
    if offset:
        factors = tuple((new + offset) / old for new, old in zip(grid, made_for, strict=True))
        patches = F.interpolate(patches, scale_factor=factors, mode=mode)
    else:
        patches = resize(patches, grid, mode=mode)
    return torch.cat([positions[:, :prefix], to_tokens(patches)], dim=1) if prefix else to_tokens(patches)


def vit_blocks(
    config: PlainViTConfig,
    attentions: Iterable[nn.Module],
    layer_scale: float | None,
    norm: Callable[..., nn.Module] = nn.LayerNorm,
    *,
    gated: bool = False,
    drop_attention: bool = True,
) -> nn.ModuleList:
    """The blocks of a plain ViT.

    Args:
        config: the ViT's config.
        attentions: for each block the module that mixes its tokens.
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        norm: ``norm(channels, eps=...)`` makes a norm of tokens.
        gated: the feed-forward parts are gated, and two thirds as wide, rounded up to a multiple of 8.
        drop_attention: drop path drops the branches with the attention too.
    """
    width, depth = config.hidden_size, config.num_hidden_layers
    rates = drop_path_rates(config.drop_path_rate, depth, uniform=config.drop_path_uniform)
    hidden = int(width * config.mlp_ratio)
    if gated:
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
    return nn.ModuleList(
        ViTBlock(
            attention,
            width,
            hidden,
            norm_eps=config.norm_eps,
            gated=gated,
            norm=norm,
            layer_scale=layer_scale,
            dropout=config.dropout,
            drop_path=rate,
            attention_drop_path=None if drop_attention else 0.0,
        )
        for attention, rate in zip(attentions, rates, strict=True)
    )


def whole_patches(pixel_values: Tensor, patch_size: int, *, around: bool = False) -> Tensor:
    """Images (B, C, H, W) padded with zeros to multiples of the patch size.

    Args:
        pixel_values: the images.
        patch_size: side of the patches, in pixels.
        around: put half of the zeros, rounded down, on the left and at the top, instead of all on the right and at the
            bottom.
    """
    height, width = pixel_values.shape[-2:]
    if not is_exporting() and height % patch_size == 0 and width % patch_size == 0:  # traced, it holds for every size
        return pixel_values
    # Of whole numbers of patches, not of remainders: of these traced programs know that they are multiples.
    rows, columns = ((side + patch_size - 1) // patch_size for side in (height, width))
    below, right = rows * patch_size - height, columns * patch_size - width
    if not around:
        return F.pad(pixel_values, (0, right, 0, below))
    return F.pad(pixel_values, (right // 2, right - right // 2, below // 2, below - below // 2))

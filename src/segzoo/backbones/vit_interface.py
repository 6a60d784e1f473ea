"""What an adapter needs from a plain vision transformer, be it segzoo's or transformers'.

An adapter embeds an image, runs some blocks, changes the patch tokens, and runs the next blocks. ``plain_vit_of`` says
how this is done for each kind of config; no other code distinguishes between ViTs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from segzoo.auto import AutoBackbone
from segzoo.compat import VIT_BLOCKS
from segzoo.errors import SegZooError


@dataclass(frozen=True, kw_only=True)
class PlainViT:
    """How to drive one kind of plain ViT.

    Args:
        build: builds a model from its config, with random weights.
        load: ``load(name_or_path, **hub_options)`` loads a model with its trained weights.
        blocks: dotted path of the list of blocks inside the model.
        norm: dotted path of the norm after the last block.
        prefix: number of tokens before those of the patches, from the model's config.
        embed: ``embed(vit, pixel_values) -> (tokens, options)`` for images whose sides are multiples of the patch
            size, unless it does not pad; the options are keyword arguments of every block.
        pads: whether images are padded to whole patches, from the model's config; otherwise what lies behind the last
            whole patch is not read.
        idle: names of parameters that no feature depends on.
    """

    build: Callable[[PreTrainedConfig], nn.Module]
    load: Callable[..., nn.Module]
    blocks: str
    norm: str
    prefix: Callable[[PreTrainedConfig], int]
    embed: Callable[[nn.Module, Tensor], tuple[Tensor, dict[str, Any]]]
    pads: Callable[[PreTrainedConfig], bool] = lambda config: True
    idle: tuple[str, ...] = ()

    def blocks_of(self, vit: nn.Module) -> nn.ModuleList:
        """The transformer blocks of a model, first to last."""
        return reduce(getattr, self.blocks.split("."), vit)

    def norm_of(self, vit: nn.Module) -> nn.Module:
        """The norm after the last block of a model, which may be an identity."""
        return reduce(getattr, self.norm.split("."), vit)

    def depth(self, name: str) -> int | None:
        """Depth of a parameter: 0 for embeddings, 1 for the first block; None for the norm after the last block."""
        if name.startswith(f"{self.blocks}."):
            return 1 + int(name.removeprefix(f"{self.blocks}.").partition(".")[0])
        return None if name.startswith(f"{self.norm}.") else 0


def _embed_own(vit: nn.Module, pixel_values: Tensor) -> tuple[Tensor, dict[str, Any]]:
    tokens, grid = vit(pixel_values, only_embed=True)
    return tokens, {"grid": grid}


def _embed_vit(vit: nn.Module, pixel_values: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return vit.embeddings(pixel_values, interpolate_pos_encoding=True), {}


def _embed_dinov2(vit: nn.Module, pixel_values: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return vit.embeddings(pixel_values), {}


def _embed_dinov3(vit: nn.Module, pixel_values: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return vit.embeddings(pixel_values), {"position_embeddings": vit.rope_embeddings(pixel_values)}


_BACKBONE = {"build": AutoBackbone.from_config, "load": AutoBackbone.from_pretrained}
_OWN = _BACKBONE | {
    "blocks": "layers",
    "norm": "norm",
    "prefix": lambda config: config.num_prefix_tokens,
    "embed": _embed_own,
    "pads": lambda config: config.pad,
}
_MASK = {"idle": ("embeddings.mask_token",)}
_DINOV2 = _BACKBONE | _MASK | {"blocks": "encoder.layer", "norm": "layernorm", "embed": _embed_dinov2}

PLAIN_VITS = {
    "segzoo_vit": PlainViT(**_OWN),
    "segzoo_beit": PlainViT(**_OWN),
    "segzoo_internvit": PlainViT(**_OWN),
    "segzoo_uniperceiver": PlainViT(**_OWN),
    "vit": PlainViT(
        build=partial(AutoModel.from_config, add_pooling_layer=False),
        load=partial(AutoModel.from_pretrained, add_pooling_layer=False),
        blocks=VIT_BLOCKS,
        norm="layernorm",
        prefix=lambda config: 1,
        embed=_embed_vit,
    ),
    "dinov2": PlainViT(prefix=lambda config: 1, **_DINOV2),
    "dinov2_with_registers": PlainViT(prefix=lambda config: 1 + config.num_register_tokens, **_DINOV2),
    "dinov3_vit": PlainViT(
        blocks="model.layer",
        norm="norm",
        prefix=lambda config: 1 + config.num_register_tokens,
        embed=_embed_dinov3,
        **_BACKBONE,
        **_MASK,
    ),
}


def plain_vit_of(config: PreTrainedConfig) -> PlainViT:
    """How to drive the ViT that a config describes.

    Raises:
        SegZooError: the config is not of a plain ViT that segzoo knows.
    """
    known = PLAIN_VITS.get(config.model_type)
    if known is None:
        raise SegZooError(
            f"a ViT adapter cannot use a {config.model_type!r}; its vit_config is one of {', '.join(PLAIN_VITS)}"
        )
    return known


def patch_size_of(config: PreTrainedConfig) -> int:
    """The side of a ViT's square patches, in pixels.

    Raises:
        SegZooError: the patches are not square.
    """
    size = config.patch_size
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise SegZooError(f"a ViT adapter needs square patches, and the ViT's are {size}")
    return sides.pop()

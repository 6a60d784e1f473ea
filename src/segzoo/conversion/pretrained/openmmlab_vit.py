"""Pre-training files of plain ViTs in OpenMMLab's layout -> backbones.

Classifiers of mmpretrain, and files that mmsegmentation's converters wrote from timm's or AugReg's for its own ViT, such
as those of Segmenter.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.vit import ViTConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.pretrained.vit import heads_of_width
from segzoo.conversion.rules.mmseg_vit import mmpretrain_keys, mmseg_keys

_LEFT_OUT = ("head.{}",)


def is_openmmlab_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a plain ViT, with the names of mmsegmentation or mmpretrain."""
    state = _without_prefix(state)
    attention = {"layers.0.attn.qkv.weight", "layers.0.attn.attn.in_proj_weight"} & state.keys()
    tables = "layers.0.attn.relative_position_bias_table" in state
    return {"patch_embed.projection.weight", "layers.0.ln1.weight", "cls_token"} <= state.keys() and (
        bool(attention) and not tables
    )


def translate_openmmlab_vit(state: Mapping[str, Tensor], source: str = "the file") -> PretrainedBackbone:
    """Translates a file to its backbone, made for the image size that its position embeddings have.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: the positions are no square, there are none, or the number of heads is not known for the width.
    """
    state = _without_prefix(state)
    kernels, positions = state["patch_embed.projection.weight"], state.get("pos_embed")
    width, channels, patch, _ = kernels.shape
    if positions is None or "layers.0.ffn.layers.0.0.weight" not in state:
        raise ConversionError(f"{source}: it has no pos_embed or no feed-forward part; it is no plain ViT")
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1:  # with a token for distillation too
        raise ConversionError(
            f"{source}: its {positions.shape[1]} positions are no square of patches and a class token"
        )
    mmseg = "layers.0.attn.attn.in_proj_weight" in state
    scaled = "layers.0.attn.gamma1.weight" in state
    config = ViTConfig(
        image_size=side * patch,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=count_entries(state, "layers."),
        num_attention_heads=heads_of_width(width, source),
        mlp_ratio=state["layers.0.ffn.layers.0.0.weight"].shape[0] / width,
        patch_size=patch,
        patch_bias="patch_embed.projection.bias" in state,
        pre_norm="pre_norm.weight" in state,
        qkv_bias=bool({"layers.0.attn.attn.in_proj_bias", "layers.0.attn.qkv.bias"} & state.keys()),
        layer_scale=1e-5 if scaled else None,
        final_norm="ln1.weight" in state,
    )
    rules = [*(KeyRule(name, None) for name in _LEFT_OUT), *(mmseg_keys if mmseg else mmpretrain_keys)(config)]
    return PretrainedBackbone(config, state, KeyTable(rules))


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state.items()}


KIND = PretrainedKind("plain ViT", is_openmmlab_vit, translate_openmmlab_vit)

"""Published weights of InternViT-6B -> backbones: 224 px, and 448 px of the versions 1.0, 1.2, 1.5 and 2.5.

The .pth files are bare dicts, or hold one under ``module``, mostly in bfloat16; later versions have 45 blocks of 48.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.internvit import InternViTConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.internvit import internvit_keys

_HEAD_CHANNELS = 128  # of each attention head, which the weights do not tell
# What belongs to other uses of the encoder: the pooling for texts, a classifier.
_LEFT_OUT = ("clip_projector.{}", "head.{}", "norm.{}", "fc_norm.{}")


def is_pretrained_internvit(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of an InternViT alone, with the names of its authors' .pth files."""
    return {
        "patch_embed.proj.weight",
        "pos_embed",
        "blocks.0.ls1.gamma",
        "blocks.0.attn.q_norm.weight",
    } <= state.keys()


def translate_pretrained_internvit(state: Mapping[str, Tensor], source: str = "the file") -> PretrainedBackbone:
    """Translates a file to its backbone, made for the image size that its position embeddings have.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: the width is no multiple of an attention head's, the positions are no square, or queries have
            a bias.
    """
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    patches = state["pos_embed"].shape[1] - 1
    side = round(patches**0.5)
    if width % _HEAD_CHANNELS or side * side != patches or "blocks.0.attn.qkv.bias" in state:
        raise ConversionError(
            f"{source}: no published InternViT with norms of queries has a width of {width}, {patches} positions and "
            f"{'a' if 'blocks.0.attn.qkv.bias' in state else 'no'} bias of queries; give one of InternViT-6B"
        )
    config = InternViTConfig(
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=count_entries(state, "blocks."),
        num_attention_heads=width // _HEAD_CHANNELS,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        patch_size=patch,
        image_size=side * patch,
    )
    rules = [*(KeyRule(name, None) for name in _LEFT_OUT), *internvit_keys()]
    return PretrainedBackbone(config, dict(state), KeyTable(rules))


KIND = PretrainedKind("InternViT", is_pretrained_internvit, translate_pretrained_internvit)

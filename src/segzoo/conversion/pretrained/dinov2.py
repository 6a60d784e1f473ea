"""DINOv2's ViTs alone, as they were released -> backbones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.vit import ViTConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.dinov2 import dinov2_keys

_CHANNELS_OF_A_HEAD = 64  # in all of them


def is_dinov2(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ViT with DINOv2's names."""
    return {"patch_embed.proj.weight", "pos_embed", "mask_token", "blocks.0.ls1.gamma"} <= state.keys()


def translate_dinov2(state: Mapping[str, Tensor], source: str = "the file") -> PretrainedBackbone:
    """Translates a ViT's file to its backbone, which returns its last map, after the last norm.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: the ViT has register tokens.
    """
    if "register_tokens" in state:
        raise ConversionError(
            f"{source}: DINOv2's ViTs with register tokens are not converted; use transformers' own "
            "(facebook/dinov2-with-registers-small, -base, -large or -giant), which segzoo takes as a backbone"
        )
    kernel, fc1 = state["patch_embed.proj.weight"], state.get("blocks.0.mlp.fc1.weight")
    (width, channels, patch, _), depth = kernel.shape, count_entries(state, "blocks.")
    config = ViTConfig(
        image_size=math.isqrt(state["pos_embed"].shape[1] - 1) * patch,
        patch_size=patch,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // _CHANNELS_OF_A_HEAD,
        mlp_ratio=4.0 if fc1 is None else fc1.shape[0] / width,
        gated=fc1 is None,
        layer_scale=1e-5,
        interpolation_offset=0.1,
        pad_around=True,
        final_norm=True,
    )
    return PretrainedBackbone(config, dict(state), KeyTable(dinov2_keys(gated=fc1 is None)))


KIND = PretrainedKind(title="a ViT of DINOv2", recognises=is_dinov2, translate=translate_dinov2)

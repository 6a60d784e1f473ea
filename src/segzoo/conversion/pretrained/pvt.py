"""ImageNet classifiers of PVT v1 -> backbones, as its authors name them. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from segzoo.backbones.pvt import VARIANTS, PVTConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.pvt import pvt_keys

_LEFT_OUT = ("head.{}", "norm.{}", "cls_token")
_HEAD_WIDTH = 64


def is_pvt(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a PVT v1 classifier."""
    return {"patch_embed1.proj.weight", "pos_embed1", "block1.0.attn.q.weight"} <= state.keys()


def translate_pvt(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
    """
    stages = [stage for stage in range(1, 9) if f"patch_embed{stage}.proj.weight" in state]
    kernels = [state[f"patch_embed{stage}.proj.weight"] for stage in stages]
    channels = [kernel.shape[0] for kernel in kernels]
    try:
        hidden = [state[f"block{stage}.0.mlp.fc1.weight"].shape[0] for stage in stages]
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a PVT: {error.args[0]} is missing") from error
    reductions = [f"block{stage}.0.attn.sr.weight" for stage in stages]
    config = PVTConfig(
        num_channels=kernels[0].shape[1],
        channels=channels,
        depths=[count_entries(state, f"block{stage}.") for stage in stages],
        num_heads=[max(width // _HEAD_WIDTH, 1) for width in channels],
        patch_sizes=[kernel.shape[-1] for kernel in kernels],
        reductions=[state[name].shape[-1] if name in state else 1 for name in reductions],
        mlp_ratios=[wide // width for wide, width in zip(hidden, channels, strict=True)],
        image_size=isqrt(state["pos_embed1"].shape[1]) * kernels[0].shape[-1],
        qkv_bias="block1.0.attn.q.bias" in state,
        drop_path_rate=VARIANTS["pvt_tiny"]["drop_path_rate"],
    )
    rules = [*(KeyRule(name, None) for name in _LEFT_OUT), *pvt_keys(config)]
    return PretrainedBackbone(config, dict(state), KeyTable(rules))


KIND = PretrainedKind("PVT classifier", is_pvt, translate_pvt)

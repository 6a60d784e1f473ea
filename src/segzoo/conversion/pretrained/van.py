"""ImageNet classifiers of VAN -> backbones, as its authors name them. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.van import VARIANTS, VANConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.van import van_keys


def is_van(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a VAN classifier."""
    return {"patch_embed1.proj.weight", "block1.0.attn.spatial_gating_unit.conv_spatial.weight"} <= state.keys()


def translate_van(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
    """
    stages = [stage for stage in range(1, 9) if f"patch_embed{stage}.proj.weight" in state]
    try:
        channels = [state[f"patch_embed{stage}.proj.weight"].shape[0] for stage in stages]
        hidden = [state[f"block{stage}.0.mlp.fc1.weight"].shape[0] for stage in stages]
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a VAN: {error.args[0]} is missing") from error
    config = VANConfig(
        num_channels=state["patch_embed1.proj.weight"].shape[1],
        channels=channels,
        depths=[count_entries(state, f"block{stage}.") for stage in stages],
        mlp_ratios=[wide // width for wide, width in zip(hidden, channels, strict=True)],
        drop_path_rate=VARIANTS["van_b0"]["drop_path_rate"],
    )
    return PretrainedBackbone(config, dict(state), KeyTable([KeyRule("head.{}", None), *van_keys(config)]))


KIND = PretrainedKind("VAN classifier", is_van, translate_van)

"""ImageNet classifiers of PoolFormer -> backbones: its authors' files and mmpretrain's. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segzoo.backbones.poolformer import PoolFormerConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.poolformer import poolformer_keys

_PREFIXES = ("", "backbone.")  # of the authors' files, and of mmpretrain's
_LEFT_OUT = ("norm.{}", "head.{}")
_STAGES = 4


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """What the names of the backbone's tensors begin with; None if there is no PoolFormer."""
    names = ("patch_embed.proj.weight", "network.0.0.layer_scale_1", "network.1.proj.weight")
    return next((p for p in _PREFIXES if {f"{p}{name}" for name in names} <= state.keys()), None)


def is_poolformer(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a PoolFormer classifier."""
    return _prefix(state) is not None


def translate_poolformer(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
    """
    prefix = _prefix(state) or ""
    patches = ["patch_embed.proj.weight", *(f"network.{2 * stage - 1}.proj.weight" for stage in range(1, _STAGES))]
    try:
        kernels = [state[f"{prefix}{name}"] for name in patches]
        hidden = [state[f"{prefix}network.{2 * stage}.0.mlp.fc1.weight"].shape[0] for stage in range(_STAGES)]
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a PoolFormer: {error.args[0]} is missing") from error
    channels = [kernel.shape[0] for kernel in kernels]
    config = PoolFormerConfig(
        num_channels=kernels[0].shape[1],
        channels=channels,
        depths=[count_entries(state, f"{prefix}network.{2 * stage}.") for stage in range(_STAGES)],
        mlp_ratios=[wide // width for wide, width in zip(hidden, channels, strict=True)],
        patch_sizes=[kernel.shape[-1] for kernel in kernels],
    )
    state, fresh = dict(state), False
    for stage, width in enumerate(channels):
        name = f"{prefix}norm{2 * stage}"
        if f"{name}.weight" not in state:
            fresh = True
            state |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    notes = ["norms of maps: a classifier has none of its own; they begin anew, as in the original's segmentation"]
    return PretrainedBackbone(config, state, KeyTable(_rules(config, prefix)), notes=notes if fresh else [])


def _rules(config: PoolFormerConfig, prefix: str) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield from (rule.inside(prefix, "") for rule in poolformer_keys(config))


KIND = PretrainedKind("PoolFormer classifier", is_poolformer, translate_poolformer)

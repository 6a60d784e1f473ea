"""ImageNet classifiers of Twins -> backbones: the authors' .pth files, timm's, and those that mmsegmentation renamed.

A backbone of SVT has norms after its stages, which a classifier has not: they begin as those of a new backbone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segzoo.backbones.twins import TwinsConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.twins import MMSEG_EPS, mmseg_keys, original_keys

# Channels of each attention head, and the side of the windows, which the weights do not tell.
_PCPVT_HEAD, _SVT_HEAD, _WINDOW = 64, 32, 7
_POSITIONS = {"blocks": "pos_block.0.proj.0.weight", "layers": "position_encodings.0.proj.weight"}
_LEFT_OUT = ("norm.{}", "head.{}")
_BIASES = ("qkv.bias", "q.bias", "attn.in_proj_bias")
# The layers that make patches, and the first layer of a feed-forward part.
_NAMES = {"blocks": ("proj", "mlp.fc1"), "layers": ("projection", "ffn.layers.0.0")}


def _spelling(state: Mapping[str, Tensor]) -> str | None:
    """What the list of the stages' blocks is called: "blocks" by the authors, "layers" in mmsegmentation's files."""
    return next((name for name, key in _POSITIONS.items() if {key, f"{name}.0.0.norm1.weight"} <= state.keys()), None)


def is_twins(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a Twins classifier or backbone."""
    return _spelling(state) is not None


def translate_twins(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: a width is no multiple of an attention head's, or layers are missing.
    """
    blocks = _spelling(state)
    if blocks is None:
        raise ConversionError(f"{source}: these are no weights of Twins")
    grouped = f"{blocks}.0.0.attn.qkv.weight" in state
    head = _SVT_HEAD if grouped else _PCPVT_HEAD
    stages = range(count_entries(state, f"{blocks}."))
    depths = [count_entries(state, f"{blocks}.{i}.") for i in stages]
    coarse = [f"{blocks}.{i}.{1 if grouped else 0}.attn.sr.weight" for i in stages]
    try:
        patches = [state[f"patch_embeds.{i}.{_NAMES[blocks][0]}.weight"] for i in stages]
        hidden = [state[f"{blocks}.{i}.0.{_NAMES[blocks][1]}.weight"].shape[0] for i in stages]
    except KeyError as error:
        raise ConversionError(f"{source}: {error.args[0]} is missing from these weights of Twins") from None
    widths = [patch.shape[0] for patch in patches]
    if any(width % head for width in widths):
        raise ConversionError(f"{source}: no published Twins has stages of the widths {widths}, in heads of {head}")
    config = TwinsConfig(
        num_channels=patches[0].shape[1],
        channels=widths,
        depths=depths,
        num_heads=[width // head for width in widths],
        strides=[patch.shape[-1] for patch in patches],
        reductions=[state[name].shape[-1] if name in state else 1 for name in coarse],
        windows=[_WINDOW] * len(widths) if grouped else None,
        mlp_ratios=[size / width for size, width in zip(hidden, widths, strict=True)],
        qkv_bias=any(f"{blocks}.0.0.attn.{name}" in state for name in _BIASES),
        stage_norm=grouped or "norm_list.0.weight" in state,
        norm_eps=1e-6 if blocks == "blocks" else MMSEG_EPS,
    )
    new = grouped and "norm_list.0.weight" not in state
    weights = dict(state)
    for stage, width in enumerate(widths if new else ()):
        weights |= {f"norm_list.{stage}.weight": torch.ones(width), f"norm_list.{stage}.bias": torch.zeros(width)}
    rules = (
        original_keys() if blocks == "blocks" else (*(KeyRule(name, None) for name in _LEFT_OUT), *mmseg_keys(config))
    )
    notes = ["the norms after the stages, which a classifier does not have, begin at 1 and 0"] if new else []
    return PretrainedBackbone(config, weights, KeyTable(rules), notes=notes)


KIND = PretrainedKind("Twins classifier", is_twins, translate_twins)

"""ImageNet classifiers of ConvNeXt -> backbones: its authors' files, ImageNet-22k included, mmcls's, timm's, transformers'.

The weights reveal the config. In mmcls's the classifier's last norm becomes that of the last stage's map, as it does in
mmsegmentation; the authors' segmentation leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segzoo.backbones.convnext import ConvNeXtConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.convnext import AUTHORS, MMCLS, TRANSFORMERS, Spelling

TIMM = Spelling(
    stem_conv="stem.0",
    stem_norm="stem.1",
    downsample="stages.{}.downsample",
    block="stages.{}.blocks.{}",
    depthwise="conv_dw",
    linear="mlp.fc",
    response=("mlp.grn.weight", "mlp.grn.bias"),
)
_LAYOUTS = (
    ("", AUTHORS),
    ("backbone.", MMCLS),
    ("", MMCLS),
    ("", TIMM),
    ("convnext.", TRANSFORMERS),
    ("convnextv2.", TRANSFORMERS),
)
# The classifier, and the norm of pooled maps.
_LEFT_OUT = ("norm.{}", "head.{}", "convnext.layernorm.{}", "convnextv2.layernorm.{}", "classifier.{}")


def is_convnext(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ConvNeXt classifier, and of no segmentation model."""
    return _layout(state) is not None


def _layout(state: Mapping[str, Tensor]) -> tuple[str, Spelling] | None:
    """The prefix of the backbone's tensors, and their spelling."""
    return next((found for found in _LAYOUTS if _in_first_block(*found, found[1].depthwise) in state), None)


def _in_first_block(prefix: str, spelling: Spelling, layer: str) -> str:
    return f"{prefix}{spelling.block.format(0, 0)}.{layer}.weight"


def translate_convnext(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
    """
    prefix, spelling = _layout(state) or _LAYOUTS[0]
    try:
        config = config_from_weights(state, prefix, spelling)
        has_kernels = state[_in_first_block(prefix, spelling, f"{spelling.linear}1")].ndim == 4
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a ConvNeXt: {error.args[0]} is missing") from error
    state, fresh = dict(state), 0
    for stage, channels in enumerate(config.channels):
        name = f"{prefix}{spelling.output_norm}{stage + spelling.first_output}"
        if f"{name}.weight" not in state:
            fresh += 1
            state |= {f"{name}.weight": torch.ones(channels), f"{name}.bias": torch.zeros(channels)}
    which = (
        "a classifier has none; they begin"
        if fresh == config.num_stages
        else "a classifier has the last; others begin"
    )
    notes = [f"norms of maps: {which} anew, as in the original's segmentation"] if fresh else []
    table = KeyTable(_rules(config, prefix, spelling, has_kernels=has_kernels))
    return PretrainedBackbone(config, state, table, notes=notes)


def config_from_weights(state: Mapping[str, Tensor], prefix: str, spelling: Spelling) -> ConvNeXtConfig:
    """The config that the weights of a classifier reveal.

    Raises:
        KeyError: a weight is missing; the argument names it.
    """
    stages, blocks, _ = spelling.block.split("{}")
    count = count_entries(state, f"{prefix}{stages}")
    depthwise = [f"{prefix}{spelling.block.format(i, 0)}.{spelling.depthwise}.weight" for i in range(count)]
    _, channels, patch, _ = state[f"{prefix}{spelling.stem_conv}.weight"].shape
    return ConvNeXtConfig(
        num_channels=channels,
        channels=[state[name].shape[0] for name in depthwise],
        depths=[count_entries(state, f"{prefix}{stages}{i}{blocks}") for i in range(count)],
        patch_size=patch,
        layer_scale=1e-6 if f"{prefix}{spelling.block.format(0, 0)}.{spelling.scale}" in state else None,
        response_norm=f"{prefix}{spelling.block.format(0, 0)}.{spelling.response[0]}" in state,
    )


def _rules(config: ConvNeXtConfig, prefix: str, spelling: Spelling, *, has_kernels: bool) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    kernels = spelling.kernel_keys() if has_kernels else []
    yield from (rule.inside(prefix, "") for rule in (*kernels, *spelling.keys(config)))


KIND = PretrainedKind("ConvNeXt classifier", is_convnext, translate_convnext)

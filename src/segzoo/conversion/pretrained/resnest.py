"""ImageNet classifiers of ResNeSt -> backbones, as its authors, timm and mmpretrain name them. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.resnest import DEPTHS, ResNeStConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind
from segzoo.conversion.pretrained.resnet import classifier_rules, depth_of, stem_of, without_prefix
from segzoo.conversion.rules.resnest import attention_keys

_STRIDES = (
    'strides: the maps are pooled behind the split attention, as in ResNeSt-50, 101 and 200; the weights of a "fast" one, which '
    "pools before it, look the same"
)


def is_resnest(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ResNeSt classifier."""
    state = without_prefix(state)
    return {"layer1.0.conv2.fc1.weight", "layer4.0.conv2.bn0.weight"} <= state.keys() and bool(
        {"fc.weight", "head.fc.weight"} & state.keys()
    )


def translate_resnest(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, the depth is unknown, or it is a "fast" variant.
    """
    state = without_prefix(state)
    stem = stem_of(state)
    try:
        branches, inside = state["layer1.0.conv2.conv.weight"].shape[:2]
        width, attention = (state[f"layer4.0.{name}.weight"].shape[0] for name in ("conv1", "conv2.fc1"))
        planes = state["layer1.0.conv3.weight"].shape[0] // 4
        radix, parts = branches // (width // 8), width // 8 // inside
        if (radix, parts, width) != (2, 2, 8 * planes):
            raise ConversionError(
                f'{source}: {branches} branches of {inside} channels are a "fast" ResNeSt\'s, which pools before its split attention; '
                "it is not supported"
            )
        config = ResNeStConfig(
            num_channels=state[f"{stem[0][0]}.weight"].shape[1],
            depth=depth_of(state, DEPTHS, "ResNeSt", source),
            stem="deep" if len(stem) == 3 else "plain",
            stem_channels=state[f"{stem[-1][0]}.weight"].shape[0],
            base_channels=planes,
            base_width=planes,
            radix=radix,
            reduction_factor=width * radix // attention,
            average_downsample="layer2.0.downsample.2.weight" in state,
        )
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a ResNeSt: {error.args[0]} is missing") from error
    table = KeyTable((*attention_keys(config), *classifier_rules(config, stem)))
    return PretrainedBackbone(config, state, table, notes=[_STRIDES])


KIND = PretrainedKind("ResNeSt classifier", is_resnest, translate_resnest)

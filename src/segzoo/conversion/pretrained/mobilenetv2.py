"""ImageNet classifiers of MobileNetV2 -> backbones, with timm's names. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from segzoo.backbones.mobilenetv2 import STAGES, MobileNetV2Config
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries

_LEFT_OUT = ("conv_head.{}", "bn2.{}", "classifier.{}")
_LAST = "blocks.6.0.conv_pwl.weight"
# timm's names of the convolutions and norms of a block; a first stage has no convolution that widens.
_NARROW = {"conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "project.conv", "bn2": "project.norm"}
_WIDE = {
    "conv_pw": "expand.conv",
    "bn1": "expand.norm",
    "conv_dw": "depthwise.conv",
    "bn2": "depthwise.norm",
    "conv_pwl": "project.conv",
    "bn3": "project.norm",
}


def is_mobilenetv2(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a MobileNetV2 classifier; relatives have other blocks first and last."""
    names = {"conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pwl.weight", "conv_head.weight", _LAST}
    return names <= state.keys() and not any(".se." in key for key in state)


def translate_mobilenetv2(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: its stages have other numbers of blocks than MobileNetV2's.
    """
    blocks = [count_entries(state, f"blocks.{i}.") for i in range(len(STAGES))]
    wanted = [number for _, _, number in STAGES]
    if blocks != wanted:
        raise ConversionError(f"{source}: its stages have {blocks} blocks, and those of MobileNetV2 {wanted}")
    config = MobileNetV2Config(
        num_channels=state["conv_stem.weight"].shape[1],
        widen_factor=round(state[_LAST].shape[0] / STAGES[-1][1], 2),
    )
    return PretrainedBackbone(config, dict(state), KeyTable(_rules()))


def _rules() -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield KeyRule("conv_stem.{}", "stem.conv.{}")
    yield KeyRule("bn1.{}", "stem.norm.{}")
    for stage in range(len(STAGES)):
        for old, new in (_WIDE if stage else _NARROW).items():
            yield KeyRule(f"blocks.{stage}.{{}}.{old}.{{}}", f"stages.{stage}.{{}}.{new}.{{}}")


KIND = PretrainedKind("MobileNetV2 classifier", is_mobilenetv2, translate_mobilenetv2)

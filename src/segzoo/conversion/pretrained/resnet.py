"""ImageNet classifiers of the ResNet family -> backbones: torchvision's, timm's, mmpretrain's and MIT scene parsing's.

Names and shapes reveal the whole config, but for dilations, which change no weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from segzoo.backbones.resnet import DEPTHS, ResNetConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.resnet import stage_keys

# The three convolutions of a deep stem with their norms, by the name of the first convolution.
_DEEP_STEMS = {
    "conv1.0": (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")),  # timm
    "stem.0": (("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")),  # mmpretrain
    "conv1": (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),  # MIT scene parsing
}
_PLAIN_STEM = (("conv1", "bn1"),)
_CLASSIFIERS = ("fc.{}", "head.{}")


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a classifier of the ResNet family."""
    state = without_prefix(state)
    return {"layer1.0.conv1.weight", "layer4.0.bn2.weight"} <= state.keys() and bool(
        {"fc.weight", "head.fc.weight"} & state.keys()
    )


def translate_resnet(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, or the blocks are no ResNet's or ResNeXt's.
    """
    state = without_prefix(state)
    try:
        stem = stem_of(state)
        config = _config(state, stem, source)
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a ResNet: {error.args[0]} is missing") from error
    return PretrainedBackbone(config, state, KeyTable(classifier_rules(config, stem)))


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without mmpretrain's ``backbone.``."""
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def stem_of(state: Mapping[str, Tensor]) -> tuple[tuple[str, str], ...]:
    """The names of the stem's convolutions, each with its norm's."""
    for first, stem in _DEEP_STEMS.items():
        if f"{first}.weight" in state and f"{stem[2][0]}.weight" in state:
            return stem
    return _PLAIN_STEM


def depth_of(
    state: Mapping[str, Tensor], depths: Mapping[int, tuple[tuple[int, ...], bool]], name: str, source: str
) -> int:
    """The depth of a network by its numbers of blocks and their kind.

    Args:
        state: its weights.
        depths: the numbers of blocks, and whether they are bottlenecks, by depth.
        name: what such networks are called.
        source: name of the file, for messages.

    Raises:
        ConversionError: it has other blocks.
    """
    blocks = tuple(count_entries(state, f"layer{stage}.") for stage in (1, 2, 3, 4))
    facts = blocks, "layer1.0.conv3.weight" in state
    depth = next((depth for depth, shape in depths.items() if shape == facts), None)
    if depth is None:
        known = ", ".join(map(str, depths))
        raise ConversionError(f"{source}: {blocks} blocks make no {name} that is known (depths {known})")
    return depth


def _config(state: Mapping[str, Tensor], stem: tuple[tuple[str, str], ...], source: str) -> ResNetConfig:
    bottleneck = "layer1.0.conv3.weight" in state
    depth = depth_of(state, DEPTHS, "ResNet", source)
    width, group = state["layer1.0.conv2.weight"].shape[:2]
    planes = state["layer1.0.conv3.weight"].shape[0] // 4 if bottleneck else width
    groups = width // group
    if groups == 1 and width != planes:
        raise ConversionError(f"{source}: a wide ResNet is not supported; its blocks are {width} wide, not {planes}")
    return ResNetConfig(
        num_channels=state[f"{stem[0][0]}.weight"].shape[1],
        depth=depth,
        stem="deep" if len(stem) == 3 else "plain",
        stem_channels=state[f"{stem[-1][0]}.weight"].shape[0],
        base_channels=planes,
        groups=groups,
        base_width=group if groups > 1 else planes,
        average_downsample="layer2.0.downsample.2.weight" in state,
    )


def classifier_rules(config: ResNetConfig, stem: tuple[tuple[str, str], ...]) -> Iterable[KeyRule]:
    """The key rules of a classifier whose stem has these names."""
    yield from (KeyRule(name, None) for name in _CLASSIFIERS)
    for i, (conv, norm) in enumerate(stem):
        yield KeyRule(f"{conv}.{{}}", f"stem.{i}.conv.{{}}")
        yield KeyRule(f"{norm}.{{}}", f"stem.{i}.norm.{{}}")
    yield from stage_keys(config)


KIND = PretrainedKind("ResNet classifier", is_resnet, translate_resnet)

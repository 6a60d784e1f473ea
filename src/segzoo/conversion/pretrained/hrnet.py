"""ImageNet classifiers of HRNet -> backbones, as its authors and timm name them. The weights reveal the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from segzoo.backbones.hrnet import HRNetConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.hrnet import keys

_LEFT_OUT = ("incre_modules.{}", "downsamp_modules.{}", "final_layer.{}", "classifier.{}")


def is_hrnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of an HRNet classifier."""
    return {"stage4.0.branches.3.0.conv1.weight", "incre_modules.0.0.conv1.weight"} <= state.keys()


def translate_hrnet(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, or the stem has two widths.
    """
    try:
        stem, inside = state["conv1.weight"].shape[0], state["layer1.0.conv1.weight"].shape[0]
        if stem != inside:
            raise ConversionError(f"{source}: an HRNet whose stem is {stem} and {inside} wide is not supported")
        config = HRNetConfig(
            num_channels=state["conv1.weight"].shape[1],
            width=state["stage2.0.branches.0.0.conv1.weight"].shape[0],
            stem_channels=stem,
            stem_blocks=count_entries(state, "layer1."),
            modules=[count_entries(state, f"stage{stage}.") for stage in (2, 3, 4)],
            blocks=[count_entries(state, f"stage{stage}.0.branches.0.") for stage in (2, 3, 4)],
        )
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make an HRNet: {error.args[0]} is missing") from error
    return PretrainedBackbone(config, dict(state), KeyTable(_rules(config)))


def _rules(config: HRNetConfig) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield from keys(config)


KIND = PretrainedKind("HRNet classifier", is_hrnet, translate_hrnet)

"""ImageNet classifiers of STDC's encoder -> backbones, as its authors and mmsegmentation name them.

The weights reveal the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from segzoo.backbones.stdc import STDCNetConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.common import conv_module
from segzoo.conversion.rules.stdc import encoder_keys

# The authors' lists "x2" to "x32" hold the layers of "features" once more, and "conv_last" stands before their classifier alone.
_LEFT_OUT = (*(f"x{2**i}.{{}}" for i in range(1, 6)), "conv_last.{}", "fc.{}", "bn.{}", "linear.{}")


def is_stdcnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a classifier of STDC's encoder."""
    authors = {"features.0.conv.weight", "features.2.conv_list.0.conv.weight", "features.2.avd_layer.0.weight"}
    mmseg = {"stages.0.conv.weight", "stages.2.0.layers.1.conv.weight", "stages.2.0.downsample.conv.weight"}
    return authors <= state.keys() or mmseg <= state.keys()


def translate_stdcnet(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
        SegZooError: these are not three stages of blocks.
    """
    try:
        if "features.0.conv.weight" in state:
            config = _config(state, _layers_of_authors(state), "conv_list")
            return PretrainedBackbone(config, dict(state), KeyTable(_rules(config)))
        stages = [(f"stages.{i}.0", count_entries(state, f"stages.{i}.")) for i in (2, 3, 4)]
        config = _config(state, [("stages.0", 1), ("stages.1", 1), *stages], "layers")
    except KeyError as error:
        raise ConversionError(
            f"{source}: the weights do not make an encoder of STDC: {error.args[0]} is missing"
        ) from error
    keys = (KeyRule("final_conv.{}", None), *encoder_keys(config))
    return PretrainedBackbone(config, dict(state), KeyTable(keys))


def _layers_of_authors(state: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """The stem, the convolution after it, and the first block of each stage, with the number of blocks."""
    end = count_entries(state, "features.")
    firsts = [i for i in range(end) if f"features.{i}.avd_layer.0.weight" in state]
    stages = [(f"features.{i}", after - i) for i, after in zip(firsts, [*firsts[1:], end], strict=True)]
    return [("features.0", 1), ("features.1", 1), *stages]


def _config(state: Mapping[str, Tensor], layers: list[tuple[str, int]], convs: str) -> STDCNetConfig:
    """The config, from what `_layers_of_authors` returns and the name of a block's list of convolutions."""
    first = layers[2][0]
    widths = [state[f"{name}.conv.weight"].shape[0] for name, _ in layers[:2]]
    widths += [2 * state[f"{name}.{convs}.0.conv.weight"].shape[0] for name, _ in layers[2:]]
    return STDCNetConfig(
        num_channels=state[f"{layers[0][0]}.conv.weight"].shape[1],
        channels=widths,
        depths=[depth for _, depth in layers[2:]],
        num_convs=count_entries(state, f"{first}.{convs}."),
        fusion="add" if f"{first}.skip.0.weight" in state else "cat",
    )


def _rules(config: STDCNetConfig) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield from conv_module("features.0", "stem")
    yield from conv_module("features.1", "stages.0")
    index = 2
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            old, new = f"features.{index}", f"stages.{stage + 1}.{block}"
            yield from conv_module(f"{old}.conv_list.{{}}", f"{new}.convs.{{}}")
            pairs = [("avd_layer", 0, "downsample"), ("skip", 0, "skip.0"), ("skip", 2, "skip.1")]
            for name, i, ours in pairs:  # convolution and norm, one after the other
                yield KeyRule(f"{old}.{name}.{i}.{{}}", f"{new}.{ours}.conv.{{}}")
                yield KeyRule(f"{old}.{name}.{i + 1}.{{}}", f"{new}.{ours}.norm.{{}}")
            index += 1


KIND = PretrainedKind("STDC encoder classifier", is_stdcnet, translate_stdcnet)

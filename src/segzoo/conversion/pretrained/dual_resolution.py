"""ImageNet classifiers of DDRNet and PIDNet -> backbones, as their authors and mmsegmentation name them.

The weights reveal the config. A classifier has neither the pyramid pooling nor PIDNet's branch of boundaries and its
fusions, which begin anew, as in the originals' segmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segzoo.auto import AutoBackbone
from segzoo.backbones.ddrnet import DDRNetConfig
from segzoo.backbones.pidnet import PIDNetConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.ddrnet import DDRNET
from segzoo.conversion.rules.pidnet import PIDNET

# Parts that a classifier may lack.
_FRESH = ("pooling.", "boundaries.", "differences.", "attention.", "fusion.")
# The classifiers', and the heads of the authors' segmentation, which files of theirs may hold.
_LEFT_OUT = (
    *("linear.{}", "last_layer.{}", "down5.{}", "final_layer.{}", "seghead_p.{}", "seghead_d.{}", "seghead_extra.{}"),
    *("head.{}", "fc.{}"),
)
# mmsegmentation's stem, and the authors', whose convolutions have biases.
_MMSEG_STEM, _STEM = "stem.0.conv.weight", "conv1.0.weight"


def is_dual_resolution(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a classifier of DDRNet or PIDNet."""
    mmseg = "spatial_branch_layers.0.0.conv1.conv.weight", "p_branch_layers.0.0.conv1.conv.weight"
    return (_MMSEG_STEM in state and any(name in state for name in mmseg)) or {
        _STEM,
        "layer3_.0.conv1.weight",
        "compression3.0.weight",
    } <= state.keys()


def translate_dual_resolution(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: there is no stem.
    """
    is_mmseg = _MMSEG_STEM in state
    name = _MMSEG_STEM if is_mmseg else _STEM
    if name not in state:
        raise ConversionError(f"{source}: the weights do not make a DDRNet or PIDNet: {name} is missing")
    shared = {"channels": state[name].shape[0], "num_channels": state[name].shape[1]}
    is_ddrnet = ("down_1.conv.weight" if is_mmseg else "down3.0.weight") in state
    stem, context = ("stem.2.", "i_branch_layers.0.") if is_mmseg else ("layer1.", "layer3.")
    config: DDRNetConfig | PIDNetConfig
    if is_ddrnet:
        config = DDRNetConfig(**shared)
    else:
        stem_blocks = count_entries(state, stem)
        light = stem_blocks == 2
        config = PIDNetConfig(
            **shared,
            stem_blocks=stem_blocks,
            branch_blocks=count_entries(state, context),
            light=light,
            pooling_channels=96 if light else 112,
        )
    rule = DDRNET if is_ddrnet else PIDNET
    own = list(rule.key_table(config).rules) if is_mmseg else list(_authors_keys(config))
    table = KeyTable([*(KeyRule(name, None) for name in _LEFT_OUT), *own])
    state = dict(state)
    if not is_mmseg:  # a bias in front of a batch norm moves its mean
        for conv, norm in (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4")):
            if (bias := state.pop(f"{conv}.bias", None)) is not None and f"{norm}.running_mean" in state:
                state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - bias
    found = {table.to_native(key) for key in state}
    with torch.random.fork_rng(devices=()):
        fresh = {
            table.to_original(key): tensor
            for key, tensor in AutoBackbone.from_config(config).state_dict().items()
            if key not in found and key.startswith(_FRESH)
        }
    parts = sorted({str(table.to_native(key)).partition(".")[0] for key in fresh if key is not None})
    notes = [f"{', '.join(parts)}: a classifier has none; they begin anew"] if parts else []
    return PretrainedBackbone(
        config, state | {key: tensor for key, tensor in fresh.items() if key is not None}, table, notes=notes
    )


def _conv_norm(original: str, native: str, conv: int = 0, norm: int = 1) -> Iterable[KeyRule]:
    """Rules of a numbered convolution and norm."""
    yield KeyRule(f"{original}.{conv}.{{}}", f"{native}.conv.{{}}")
    yield KeyRule(f"{original}.{norm}.{{}}", f"{native}.norm.{{}}")


def _blocks(original: str, native: str) -> Iterable[KeyRule]:
    for i in (1, 2, 3):
        yield KeyRule(f"{original}.conv{i}.{{}}", f"{native}.conv{i}.conv.{{}}")
        yield KeyRule(f"{original}.bn{i}.{{}}", f"{native}.conv{i}.norm.{{}}")
    yield from _conv_norm(f"{original}.downsample", f"{native}.shortcut")


def _authors_keys(config: DDRNetConfig | PIDNetConfig) -> Iterable[KeyRule]:
    """Key rules of the authors' spelling, in which layers are numbered."""
    yield from _conv_norm("conv1", "stem.0")
    yield from _conv_norm("conv1", "stem.1", 3, 4)
    yield from _blocks("layer1.{}", "stem.2.{}")
    yield from _blocks("layer2.{}", "stem.4.{}")
    for stage in (3, 4, 5):
        yield from _blocks(f"layer{stage}.{{}}", f"context.{stage - 3}.{{}}")
        yield from _blocks(f"layer{stage}_.{{}}", f"details.{stage - 3}.{{}}")
    for i in (0, 1):
        yield from _conv_norm(f"compression{i + 3}", f"up.{i}")
    for i in range(5):
        first = 1 if i else 0  # behind an average
        yield from _conv_norm(f"spp.scale{i}", f"pooling.scales.{i}", first + 2, first)
    for name in ("compression", "shortcut"):
        yield from _conv_norm(f"spp.{name}", f"pooling.{name}", 2, 0)
    for i in range(4):
        yield from _conv_norm(f"spp.process{i + 1}", f"pooling.fusions.{i}", 2, 0)
    if isinstance(config, DDRNetConfig):
        yield from _conv_norm("down3", "down.0.0")
        yield from _conv_norm("down4", "down.1.0")
        yield from _conv_norm("down4", "down.1.1", 3, 4)
        return
    yield from _conv_norm("spp.scale_process", "pooling.fusions.0", 2, 0)
    for i in (0, 1, 2):
        alone = i == 0 or (i == 1 and not config.light)
        yield from _blocks(f"layer{i + 3}_d" + ("" if alone else ".0"), f"boundaries.{i}")
    for i in (0, 1):
        yield from _conv_norm(f"diff{i + 3}", f"differences.{i}")
        yield from _conv_norm(f"pag{i + 3}.f_x", f"attention.{i}.details")
        yield from _conv_norm(f"pag{i + 3}.f_y", f"attention.{i}.context")
    if config.light:
        yield from _conv_norm("dfm.conv_p", "fusion.details")
        yield from _conv_norm("dfm.conv_i", "fusion.context")
    else:
        yield from _conv_norm("dfm.conv", "fusion.conv", 2, 0)


KIND = PretrainedKind("DDRNet or PIDNet classifier", is_dual_resolution, translate_dual_resolution)

"""ImageNet classifiers of Swin -> backbones: its authors' files, ImageNet-22k included, and timm's copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segzoo.backbones.swin import SwinConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.swin import original_swin_keys

# The classifier, and masks that are computed.
_LEFT_OUT = ("head.{}", "norm.{}", "layers.{}.blocks.{}.attn_mask")
_BLOCK = "layers.0.blocks.0"
# MoBY, a self-supervised training by Swin's authors, has the backbone beside its predictor.
_ENCODER = "encoder."


def is_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a Swin classifier, of its authors or of timm."""
    prefix = _prefix(state)
    return {
        f"{prefix}patch_embed.proj.weight",
        f"{prefix}{_BLOCK}.attn.qkv.weight",
        f"{prefix}{_BLOCK}.attn.relative_position_bias_table",
    } <= state.keys()


def translate_swin(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, or the tables or positions are not those of square
            windows and images.
    """
    prefix = _prefix(state)
    left_out = [key for key in state if not key.startswith(prefix)]
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    notes = ["norms of maps: a classifier has none; they begin anew, as in the original's segmentation"]
    try:
        config = config_from_weights(state)
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a Swin: {error.args[0]} is missing") from error
    # In timm a stage begins with the merging that ends the stage before it in the original.
    if "layers.0.downsample.reduction.weight" not in state:
        state = {_renumbered(key): value for key, value in state.items()}
    for stage, channels in enumerate(config.stage_channels):
        state |= {f"norm{stage}.weight": torch.ones(channels), f"norm{stage}.bias": torch.zeros(channels)}
    return PretrainedBackbone(config, state, KeyTable(_rules(config)), left_out, notes)


def _prefix(state: Mapping[str, Tensor]) -> str:
    return _ENCODER if f"{_ENCODER}{_BLOCK}.attn.qkv.weight" in state else ""


def _renumbered(key: str) -> str:
    first, number, *rest = key.split(".") if key.startswith("layers.") else (key, "")
    return ".".join([first, str(int(number) - 1), *rest]) if rest and rest[0] == "downsample" else key


def config_from_weights(state: Mapping[str, Tensor]) -> SwinConfig:
    """The config that the weights of a classifier reveal.

    Raises:
        KeyError: a weight is missing, or numbers do not fit each other; the argument names what is missing.
    """
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    stages = count_entries(state, "layers.")
    tables = [state[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    offsets = _square_root(tables[0].shape[0], "a table of offsets in square windows")
    positions = state.get("absolute_pos_embed")
    size = None if positions is None else patch * _square_root(positions.shape[1], "positions of a square image")
    return SwinConfig(
        num_channels=channels,
        channels=width,
        depths=[count_entries(state, f"layers.{i}.blocks.") for i in range(stages)],
        num_heads=[table.shape[1] for table in tables],
        window_size=(offsets + 1) // 2,
        patch_size=patch,
        mlp_ratio=state[f"{_BLOCK}.mlp.fc1.weight"].shape[0] / width,
        qkv_bias=f"{_BLOCK}.attn.qkv.bias" in state,
        patch_norm="patch_embed.norm.weight" in state,
        image_size=size,
    )


def _square_root(count: int, what: str) -> int:
    side = round(count**0.5)
    if side * side != count:
        raise KeyError(what)
    return side


def _rules(config: SwinConfig) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield KeyRule("absolute_pos_embed", "position_embeddings")  # of tokens here, and of a map in segmentation
    yield from original_swin_keys(config)


KIND = PretrainedKind("Swin classifier", is_swin, translate_swin)

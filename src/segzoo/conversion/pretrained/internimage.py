"""Classification checkpoints of InternImage -> backbones. Names and shapes reveal nearly all of the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segzoo.backbones.internimage import VARIANTS, InternImageConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind
from segzoo.conversion.rules.internimage import keys

# The classifier of T to XL, and the attention pooling and classifier of H and G.
_LEFT_OUT = ("conv_head.{}", "head.{}", "dcnv3_head_x4.{}", "dcnv3_head_x3.{}", "clip_projector.{}", "fc_norm.{}")
_BLOCK = "levels.0.blocks.0"
_POST_NORM_EVERY = 6  # of the third stage's layers, in H and G


def is_internimage(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of an InternImage classifier, of its own repository or its copy on the Hub."""
    prefix = _prefix(state)
    return {f"{prefix}patch_embed.conv1.weight", f"{prefix}{_BLOCK}.dcn.offset.weight"} <= state.keys()


def translate_internimage(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classification checkpoint to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, one has two names, or shapes are not an
            InternImage's.
    """
    prefix = _prefix(state)
    # The copies on the Hub have other names for the scales.
    names = {key: key.removeprefix(prefix).replace(".layer_scale", ".gamma") for key in state}
    if len(set(names.values())) < len(names):
        doubled = next(key for key, name in names.items() if key != name and name in state)
        raise ConversionError(f"{source}: {doubled} and {names[doubled]} are the same weight, given twice; remove one")
    state = {names[key]: value for key, value in state.items()}
    try:
        config, notes = config_from_weights(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ConversionError(
            f"{source}: the weights do not make an InternImage: {error.args[0]} is missing"
        ) from error
    table = KeyTable([*(KeyRule(name, None) for name in _LEFT_OUT), *keys(config)])
    if config.layer_scale is not None and f"{_BLOCK}.gamma1" not in state:
        notes.append(
            "layer scales: the file has none; they are 1, which changes nothing, as in the original's segmentation"
        )
        for stage, depth in enumerate(config.depths):
            ones = state[f"levels.{stage}.blocks.0.norm1.0.weight"].new_ones(config.channels * 2**stage)
            state |= {f"levels.{stage}.blocks.{i}.gamma{k}": ones.clone() for i in range(depth) for k in (1, 2)}
    return PretrainedBackbone(config, state, table, notes=notes)


def _prefix(state: Mapping[str, Tensor]) -> str:
    return "model." if "model.patch_embed.conv1.weight" in state else ""


def config_from_weights(state: Mapping[str, Tensor]) -> tuple[InternImageConfig, list[str]]:
    """The config that the weights reveal, completed from the released variant of the same width and depths; and notes.

    Raises:
        KeyError: a weight is missing, or numbers do not fit each other; the argument names what is missing.
    """
    width, in_channels = state[f"{_BLOCK}.norm1.0.weight"].shape[0], state["patch_embed.conv1.weight"].shape[1]
    stages = _count(state, "levels.")
    depths = [_count(state, f"levels.{stage}.blocks.") for stage in range(stages)]
    center_scale = f"{_BLOCK}.dcn.center_feature_scale_proj_weight" in state
    residual = f"{_BLOCK}.res_post_norm1.0.weight" in state
    groups, remove_center = _groups(state, width, stages)
    # A stage ends in a norm unless its layers do; in G both do.
    post_norm = "levels.0.norm.0.weight" not in state or (center_scale and not residual)
    options: dict[str, Any] = {
        "num_channels": in_channels,
        "channels": width,
        "depths": depths,
        "groups": groups,
        "mlp_ratio": state[f"{_BLOCK}.mlp.fc1.weight"].shape[0] / width,
        "depthwise_kernel_size": state[f"{_BLOCK}.dcn.dw_conv.0.weight"].shape[-1],
        "remove_center": remove_center,
        "center_feature_scale": center_scale,
        "post_norm": post_norm,
        "residual_post_norm": residual,
        "post_norm_blocks": _post_norm_blocks(state, depths),
        "layer_scale": 1.0 if f"{_BLOCK}.gamma1" in state else None,
    }
    name, notes = _variant(width, depths), []
    if name is None:
        notes.append("offset scale: the file does not tell it and the sizes are of no released model; it is set to 1")
    else:
        known = VARIANTS[name]
        options |= {"offset_scale": known.get("offset_scale", 1.0), "drop_path_rate": known["drop_path_rate"]}
        if known.get("layer_scale", 1.0) is not None:
            options["layer_scale"] = 1.0
    return InternImageConfig(**options), notes


def _variant(width: int, depths: Sequence[int]) -> str | None:
    return next((n for n, v in VARIANTS.items() if (v["channels"], v["depths"]) == (width, list(depths))), None)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    found = {key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)}
    return 1 + max(int(index) for index in found if index.isdigit()) if found else 0


def _groups(state: Mapping[str, Tensor], width: int, stages: int) -> tuple[list[int], bool]:
    """The groups of each stage, and whether their points lack the centre: 9 or 8 points, whichever fits all stages."""
    weights = [state[f"levels.{i}.blocks.0.dcn.mask.bias"].shape[0] for i in range(stages)]
    for points in (9, 8):
        groups = [count // points for count in weights]
        if all(c % points == 0 and width * 2**i % (c // points) == 0 for i, c in enumerate(weights)):
            return groups, points == 8
    raise KeyError("a number of groups that fits the channels")


def _post_norm_blocks(state: Mapping[str, Tensor], depths: Sequence[int]) -> list[int]:
    count = _count(state, "levels.2.post_norms.")
    blocks = [_POST_NORM_EVERY * (k + 1) - 1 for k in range(count)]
    if blocks and blocks[-1] >= depths[2]:
        raise KeyError(f"the place of {count} norms between the {depths[2]} layers of the third stage")
    return blocks


KIND = PretrainedKind("InternImage (classification)", is_internimage, translate_internimage)

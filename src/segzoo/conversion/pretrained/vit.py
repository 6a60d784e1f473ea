"""Pre-training weights of plain ViTs -> backbones: DeiT, AugReg, MAE, BEiT and BEiTv2, in their publishers' layouts.

These files carry no config; names and shapes reveal everything except the number of heads, which only AugReg's arrays
and BEiT's tables show. For the others it follows from the published widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segzoo.backbones.beit import BeitConfig
from segzoo.backbones.vit import ViTConfig
from segzoo.conversion.errors import CheckpointError, ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind
from segzoo.conversion.rules.vit import timm_vit_keys

# Number of heads by width, of the published ViTs: tiny, small, base, large, and MAE's huge.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
_TABLE = "blocks.{}.attn.relative_position_bias_table"
# What belongs to the task that a ViT was pre-trained on: classifiers, norms of pooled tokens, masks and decoders,
# distillation.
_LEFT_OUT = (
    *("head.{}", "head_dist.{}", "pre_logits.{}", "fc_norm.{}", "lm_head.{}", "cls_pt_layers.{}", "decoder_blocks.{}"),
    *("decoder_embed.{}", "decoder_norm.{}", "decoder_pred.{}", "decoder_pos_embed", "mask_token", "dist_token"),
    "rel_pos_bias.relative_position_index",
)


def is_pretrained_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a plain ViT, with timm's names or with those of AugReg's .npz files."""
    return {"patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight"} <= state.keys() or (
        "Transformer/encoderblock_0/LayerNorm_0/scale" in state
    )


def read_npz(path: str | Path) -> dict[str, Tensor]:
    """Reads the arrays of an .npz file as tensors, by name.

    Raises:
        CheckpointError: the file cannot be read, or holds objects other than arrays of numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, AttributeError) as error:
        raise CheckpointError(path, f"cannot be read as .npz weights ({error})", "download it again") from error
    except Exception as error:  # zipfile and zlib have error classes of their own
        raise CheckpointError(path, f"the .npz file is damaged ({error})", "download it again") from error


def translate_pretrained_vit(state: Mapping[str, Tensor], source: str = "the file") -> PretrainedBackbone:
    """Translates a pre-training file to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, shapes are not a plain ViT's, or the number of
            heads is not known for its width.
    """
    if "Transformer/encoderblock_0/LayerNorm_0/scale" in state:
        state, heads, left_out = _from_flax(state, source)
    else:
        heads, left_out = None, []
    if not is_pretrained_vit(state):
        raise ConversionError(f"{source}: these are no weights of a plain ViT")
    state, notes = dict(state), []
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    table = state.get(_SHARED_TABLE, state.get(_TABLE.format(0)))
    if table is not None:
        heads = table.shape[1]
    heads = heads or heads_of_width(width, source)
    shared = {
        "num_channels": channels,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "patch_size": patch,
        "final_norm": "norm.weight" in state,
    }
    if {"blocks.0.gamma_1", "blocks.0.gamma1"} & state.keys():
        shared["layer_scale"] = 0.1 if depth <= 12 else 1e-5  # BEiT's initial values
    else:
        shared["layer_scale"] = None
    if table is not None:
        config, style = _beit_config(state, shared, depth, source), "gamma_"
        if _SHARED_TABLE in state:
            notes.append("positions: the one table that all blocks shared was given to each of them")
            del state[_SHARED_TABLE]
            state |= {_TABLE.format(i): table.clone() for i in range(depth)}
    else:
        config, style = _vit_config(state, shared, source), "gamma"
        if "dist_token" in state:
            notes.append("distillation: the token for it and its position were left out")
            positions = state["pos_embed"]
            state["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    return PretrainedBackbone(config, state, KeyTable(_rules(style)), left_out, notes)


def heads_of_width(width: int, source: str) -> int:
    """The number of heads of the published ViTs of a width.

    Raises:
        ConversionError: no published ViT has it.
    """
    if width not in _HEADS:
        known = ", ".join(map(str, _HEADS))
        raise ConversionError(
            f"{source}: the file does not tell its number of heads, and no published ViT has its width {width} (known: {known})"
        )
    return _HEADS[width]


def _vit_config(state: Mapping[str, Tensor], shared: dict, source: str) -> ViTConfig:
    if "pos_embed" not in state or "cls_token" not in state:
        raise ConversionError(f"{source}: it has no pos_embed and cls_token; it is no ViT, DeiT, AugReg or MAE")
    patches = state["pos_embed"].shape[1] - (2 if "dist_token" in state else 1)
    side = round(patches**0.5)
    if side * side != patches:
        raise ConversionError(f"{source}: its {patches} positions are no square of patches")
    return ViTConfig(image_size=side * shared["patch_size"], qkv_bias="blocks.0.attn.qkv.bias" in state, **shared)


def _beit_config(state: Mapping[str, Tensor], shared: dict, depth: int, source: str) -> BeitConfig:
    table = state[_SHARED_TABLE] if _SHARED_TABLE in state else state[_TABLE.format(0)]
    distances = round((table.shape[0] - 3) ** 0.5)
    if distances * distances != table.shape[0] - 3 or distances % 2 == 0:
        raise ConversionError(f"{source}: a table of {table.shape[0]} positions belongs to no square image")
    image_size = (distances + 1) // 2 * shared["patch_size"]
    key_bias = "blocks.0.attn.qkv.bias" in state
    return BeitConfig(
        image_size=image_size,
        qkv_bias=key_bias or "blocks.0.attn.q_bias" in state,
        key_bias=key_bias,
        absolute_positions="pos_embed" in state,
        **shared,
    )


def _rules(style: str) -> Iterable[KeyRule]:
    yield from (KeyRule(name, None) for name in _LEFT_OUT)
    yield from timm_vit_keys(scale=style)
    yield KeyRule("norm.{}", "norm.{}")


def _from_flax(arrays: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], int, list[str]]:
    """AugReg's arrays under timm's names, the number of heads, and the names of what was left out.

    Flax has the output axis last and the heads as axes of their own.
    """
    if any(key.startswith(("conv_root/", "gn_root/")) for key in arrays):
        raise ConversionError(f"{source}: a hybrid of a ResNet and a ViT is not supported; give a plain ViT")
    converted, block = {}, "Transformer/encoderblock_"
    used: set[str] = set()

    def take(name: str) -> Tensor:
        used.add(name)
        return arrays[name]

    try:
        heads = take(f"{block}0/MultiHeadDotProductAttention_1/query/kernel").shape[1]
        kernel = take("embedding/kernel")
        converted["patch_embed.proj.weight"] = kernel.permute(3, 2, 0, 1)
        converted["patch_embed.proj.bias"] = take("embedding/bias")
        converted["cls_token"] = take("cls")
        converted["pos_embed"] = take("Transformer/posembed_input/pos_embedding")
        names = [("Transformer/encoder_norm", "norm")]
        depth = 1 + max(int(key.removeprefix(block).split("/")[0]) for key in arrays if key.startswith(block))
        width = kernel.shape[3]
        for i in range(depth):
            old, new = f"{block}{i}", f"blocks.{i}"
            names += [(f"{old}/LayerNorm_0", f"{new}.norm1"), (f"{old}/LayerNorm_2", f"{new}.norm2")]
            attention = f"{old}/MultiHeadDotProductAttention_1"
            parts = ("query", "key", "value")
            converted[f"{new}.attn.qkv.weight"] = torch.cat(
                [take(f"{attention}/{part}/kernel").flatten(1).t() for part in parts]
            )
            converted[f"{new}.attn.qkv.bias"] = torch.cat(
                [take(f"{attention}/{part}/bias").flatten() for part in parts]
            )
            converted[f"{new}.attn.proj.weight"] = take(f"{attention}/out/kernel").reshape(-1, width).t()
            converted[f"{new}.attn.proj.bias"] = take(f"{attention}/out/bias")
            for j in (0, 1):
                converted[f"{new}.mlp.fc{j + 1}.weight"] = take(f"{old}/MlpBlock_3/Dense_{j}/kernel").t()
                converted[f"{new}.mlp.fc{j + 1}.bias"] = take(f"{old}/MlpBlock_3/Dense_{j}/bias")
        for old, new in names:
            converted[f"{new}.weight"], converted[f"{new}.bias"] = take(f"{old}/scale"), take(f"{old}/bias")
    except KeyError as error:
        raise ConversionError(f"{source}: the array {error.args[0]!r} is missing; it is no ViT of AugReg") from error
    rest = [key for key in arrays if key not in used]
    if unknown := [key for key in rest if not key.startswith(("head/", "pre_logits/"))]:
        raise ConversionError(f"{source}: arrays that no plain ViT has: {', '.join(unknown[:5])}; give a plain ViT")
    return {key: value.float() for key, value in converted.items()}, heads, rest


KIND = PretrainedKind("plain ViT", is_pretrained_vit, translate_pretrained_vit)

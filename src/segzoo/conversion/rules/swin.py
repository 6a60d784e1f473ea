"""SwinTransformer of its authors' segmentation code and of mmsegmentation, told apart by the names of their options.

The four tokens that a merging joins stand in the authors' order in our weights; mmsegmentation, which cuts them out
with ``nn.Unfold``, has the four of each channel side by side.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segzoo.backbones.swin import SwinConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, TensorChange, register
from segzoo.conversion.options import Options


@dataclass(frozen=True)
class UnfoldedColumns(TensorChange):
    """Columns (channel, y, x) of a merging's norm and matrix in the order (x, y, channel)."""

    def to_native(self, tensor: Tensor) -> Tensor:
        """(..., 4 * C) -> the same shape."""
        return tensor.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)

    def to_original(self, tensor: Tensor) -> Tensor:
        """(..., 4 * C) -> the same shape."""
        return tensor.unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)


@dataclass(frozen=True)
class PositionsAsMap(TensorChange):
    """Position embeddings of a map (1, C, height, width) as those of tokens (1, height * width, C)."""

    grid: tuple[int, int]

    def to_native(self, tensor: Tensor) -> Tensor:
        """(1, C, height, width) -> (1, height * width, C)."""
        return tensor.flatten(2).transpose(1, 2)

    def to_original(self, tensor: Tensor) -> Tensor:
        """(1, height * width, C) -> (1, C, height, width)."""
        return tensor.transpose(1, 2).unflatten(2, self.grid)


def _shared_options(options: Options, *, drop_path: float) -> dict[str, Any]:
    """Takes the options that both spellings have, and returns fields of our config."""
    # training, initialisation and memory
    options.ignore("init_cfg", "pretrained", "frozen_stages", "with_cp", "use_checkpoint")
    options.expect("qk_scale", None)
    size = options.take("pretrain_img_size", 224)
    return {
        "image_size": size if isinstance(size, int) else list(size) * (3 - len(size)),
        "patch_size": options.take("patch_size", 4),
        "depths": list(options.take("depths", (2, 2, 6, 2))),
        "num_heads": list(options.take("num_heads", (3, 6, 12, 24))),
        "window_size": options.take("window_size", 7),
        "mlp_ratio": float(options.take("mlp_ratio", 4)),
        "out_features": [f"stage{i + 1}" for i in sorted(set(options.take("out_indices", (0, 1, 2, 3))))],
        "qkv_bias": bool(options.take("qkv_bias", True)),
        "patch_norm": bool(options.take("patch_norm", True)),
        "dropout": float(options.take("drop_rate", 0.0)),
        "attention_dropout": float(options.take("attn_drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", drop_path)),
    }


def _translate_mmseg(original: Mapping[str, Any], context: Context) -> SwinConfig:
    options = Options(original, context.where)
    options.ignore("convert_weights", "pretrain_style")  # how pre-training weights were read
    options.activation(default="GELU", only="GELU")
    fields = _shared_options(options, drop_path=0.1)
    options.expect("strides", (fields["patch_size"], 2, 2, 2)[: len(fields["depths"])])
    if not options.take("use_abs_pos_embed", False):
        fields["image_size"] = None
    config = SwinConfig(
        channels=options.take("embed_dims", 96),
        num_channels=options.take("in_channels", 3),
        norm_eps=options.layer_norm_eps(),
        **fields,
    )
    options.finish()
    return config


def _translate_original(original: Mapping[str, Any], context: Context) -> SwinConfig:
    options = Options(original, context.where)
    options.expect("norm_layer", None)
    fields = _shared_options(options, drop_path=0.2)
    if not options.take("ape", False):
        fields["image_size"] = None
    config = SwinConfig(channels=options.take("embed_dim", 96), num_channels=options.take("in_chans", 3), **fields)
    options.finish()
    return config


def _block_keys(stage: str, attention: str, mlp: tuple[str, str]) -> Iterable[KeyRule]:
    """Key rules of blocks: of ``{stage}.{}.blocks.{}``, with these names of the attention and of two linear layers."""
    old, new = f"{stage}.{{}}.blocks.{{}}", "stages.{}.layers.{}"
    for i in (1, 2):
        yield KeyRule(f"{old}.norm{i}.{{}}", f"{new}.norm{i}.{{}}")
        yield KeyRule(f"{old}.{mlp[i - 1]}.{{}}", f"{new}.mlp.fc{i}.{{}}")
    yield KeyRule(f"{old}.{attention}.relative_position_index", None)  # computed
    yield KeyRule(f"{old}.{attention}.{{}}", f"{new}.attention.{{}}")


def _output_norms(config: SwinConfig) -> Iterable[KeyRule]:
    for name in config.out_features:
        yield KeyRule(f"norm{int(name.removeprefix('stage')) - 1}.{{}}", f"norms.{name}.{{}}")


def mmseg_swin_keys(config: SwinConfig) -> Iterable[KeyRule]:
    """Key rules of mmsegmentation's spelling."""
    yield KeyRule("absolute_pos_embed", "position_embeddings")
    yield KeyRule("patch_embed.projection.{}", "patch_embedding.{}")
    yield KeyRule("patch_embed.norm.{}", "embedding_norm.{}")
    yield from _block_keys("stages", "attn.w_msa", ("ffn.layers.0.0", "ffn.layers.1"))
    yield KeyRule("stages.{}.downsample.{}", "stages.{}.downsample.{}", change=UnfoldedColumns())
    yield from _output_norms(config)


def original_swin_keys(config: SwinConfig) -> Iterable[KeyRule]:
    """Key rules of the authors' spelling."""
    change = None if config.grid is None else PositionsAsMap(config.grid)
    yield KeyRule("absolute_pos_embed", "position_embeddings", change=change)
    yield KeyRule("patch_embed.proj.{}", "patch_embedding.{}")
    yield KeyRule("patch_embed.norm.{}", "embedding_norm.{}")
    yield from _block_keys("layers", "attn", ("mlp.fc1", "mlp.fc2"))
    yield KeyRule("layers.{}.downsample.{}", "stages.{}.downsample.{}")
    yield from _output_norms(config)


MMSEG_SWIN = register(
    BackboneRule(
        types=("SwinTransformer",),
        translate=_translate_mmseg,
        keys=mmseg_swin_keys,
        told_by=("embed_dims", "use_abs_pos_embed", "in_channels", "strides", "with_cp", "norm_cfg", "act_cfg"),
    )
)
ORIGINAL_SWIN = register(
    BackboneRule(
        types=("SwinTransformer",),
        translate=_translate_original,
        keys=original_swin_keys,
        told_by=("embed_dim", "ape", "in_chans", "use_checkpoint", "norm_layer"),
    )
)

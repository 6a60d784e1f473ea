"""SwinTransformer of its authors' segmentation code and of mmsegmentation, told apart by the names of their options.

The four tokens that a merging joins stand in the authors' order in our weights; mmsegmentation, which cuts them out
with ``nn.Unfold``, has the four of each channel side by side.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.swin import SwinConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.layouts import Permute, Reshape, Steps
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import refuse_namesakes

# Columns (channel, y, x) of a merging's matrix and norm, in our order (x, y, channel).
_MATRIX = Permute(axes=(0, 3, 2, 1), view=(0, -1, 2, 2))
_NORM = Permute(axes=(2, 1, 0), view=(-1, 2, 2))


def _shared_options(options: Options, *, drop_path: float) -> dict[str, Any]:
    """Takes the options that both spellings have, and returns fields of our config."""
    # initialisation and memory
    options.ignore("init_cfg", "pretrained", "with_cp", "use_checkpoint")
    options.in_training("frozen_stages", -1)
    options.expect("qk_scale", None)
    size = options.take("pretrain_img_size", 224)
    if not isinstance(size, int):
        size = list(size) * 2 if len(size) == 1 else list(size)
    return {
        "image_size": size,
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
    refuse_namesakes(options, context, "shrinks windows to small maps", of_mmdet=False)
    options.ignore("convert_weights", "pretrain_style")  # how pre-training weights were read
    options.activation(default="GELU", only="GELU")
    fields = _shared_options(options, drop_path=0.1)
    options.expect("strides", (fields["patch_size"], 2, 2, 2)[: len(fields["depths"])])
    if not options.take("use_abs_pos_embed", False):
        fields["image_size"] = None
    config = SwinConfig(
        channels=options.take("embed_dims", 96),
        num_channels=options.take("in_channels", 3),
        merging_norm=fields["patch_norm"],
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
    for name, change in (("reduction", _MATRIX), ("norm", _NORM)):
        yield KeyRule(f"stages.{{}}.downsample.{name}.{{}}", f"stages.{{}}.downsample.{name}.{{}}", change=change)
    yield from _output_norms(config)


def original_swin_keys(config: SwinConfig) -> Iterable[KeyRule]:
    """Key rules of the authors' spelling."""
    if config.grid is not None:
        (height, width), channels = config.grid, config.channels
        tokens = Reshape(original=(1, height, width, channels), native=(1, height * width, channels))
        yield KeyRule("absolute_pos_embed", "position_embeddings", change=Steps((Permute((0, 2, 3, 1)), tokens)))
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

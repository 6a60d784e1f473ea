"""SegmenterMaskTransformerHead of mmsegmentation: Segmenter's mask head."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import head_options
from segzoo.conversion.rules.mmseg_vit import drops_attention, mmseg_block_keys
from segzoo.heads.segmenter import SegmenterHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> SegmenterHeadConfig:
    """Translates ``dict(type="SegmenterMaskTransformerHead", num_layers=..., embed_dims=..., ...)``.

    Raises:
        ConversionError: the head has one output, besides what every head refuses.
    """
    options = Options(original, context.where)
    options.ignore("init_std", "dropout_ratio")  # the class has no dropout before its scores
    options.expect("num_fcs", 2)
    options.expect("qkv_bias", True)  # without it the projection after attention has none either
    options.expect("input_transform", None)
    options.activation(default="GELU", only="GELU")
    own = {
        "norm_eps": options.layer_norm_eps(),
        "num_layers": options.take("num_layers"),
        "num_heads": options.take("num_heads"),
        "mlp_ratio": float(options.take("mlp_ratio", 4)),
        "dropout": float(options.take("drop_rate", 0.0)),
        "attention_dropout": float(options.take("attn_drop_rate", 0.0)),
        "drop_path_rate": float(options.take("drop_path_rate", 0.1)),
        "drop_attention": drops_attention(context),
        "channels": options.take("embed_dims"),
    }
    fields, one_channel = head_options(options, context, SegmenterHeadConfig)
    options.finish()
    if one_channel:
        raise options.error("one output channel is not supported here: the norm over classes makes it a constant")
    return SegmenterHeadConfig(**fields | {"norm": None, "activation": None} | own)


def keys(config: SegmenterHeadConfig) -> Iterable[KeyRule]:
    """The rules of the projections, the blocks and what depends on the classes."""
    yield KeyRule("cls_emb", "classifier.tokens")
    yield KeyRule("mask_norm.{}", "classifier.norm.{}")
    yield KeyRule("dec_proj.{}", "projection.{}")
    yield KeyRule("decoder_norm.{}", "norm.{}")
    yield KeyRule("patch_proj.{}", "pixel_projection.{}")
    yield KeyRule("classes_proj.{}", "class_projection.{}")
    yield from mmseg_block_keys()


SEGMENTER = register(HeadRule(types=("SegmenterMaskTransformerHead",), translate=translate, keys=keys))

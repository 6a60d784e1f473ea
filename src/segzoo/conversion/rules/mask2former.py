"""Mask2FormerHead of mmdetection, as InternImage, ViT-Adapter and mmsegmentation 1.x train it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.queries import (
    MMDET_2,
    MMDET_3,
    MaskLoss,
    Spelling,
    conv_keys,
    decoder_fields,
    decoder_keys,
    feed_forward,
    layer_options,
    loss_fields,
    norm_and_ffn_keys,
    one_rate,
    part_of,
    shared_keys,
    take_in_index,
    take_norm_groups,
    take_num_labels,
    take_positions,
)
from segzoo.heads.mask2former import Mask2FormerHeadConfig
from segzoo.losses import MaskClassificationLoss

_MASK_LOSS = MaskLoss(
    loss="CrossEntropyLoss",
    cost="CrossEntropyLossCost",
    cost_values={"use_sigmoid": True},
    matching={
        "num_points": ("num_points", 12544),
        "oversample_ratio": ("oversample_ratio", 3.0),
        "importance_sample_ratio": ("importance_ratio", 0.75),
    },
)
_ORDER = ("cross_attn", "norm", "self_attn", "norm", "ffn", "norm")


def translate(
    original: Mapping[str, Any], context: Context
) -> Mask2FormerHeadConfig | tuple[Mask2FormerHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="Mask2FormerHead", ...)``; with the key rules of the layers where mmdet 3 names them."""
    options = Options(original, context.where)
    options.ignore("init_cfg", "test_cfg", "channels", "dropout_ratio")
    options.ignore("strides")  # which only scale the reference points, and these are divided by them again
    spelling = MMDET_3 if "layer_cfg" in (original.get("transformer_decoder") or {}) else MMDET_2
    num_labels = take_num_labels(options)
    in_channels, channels = list(options.take("in_channels")), options.take("feat_channels", 256)
    num_levels = options.take("num_transformer_feat_level", 3)
    take_positions(options, channels)
    pixel_decoder, rates = _pixel_decoder(options, spelling, channels, num_levels)
    decoder, more_rates = decoder_fields(options, spelling, channels, _ORDER)
    fields = {
        "num_labels": num_labels,
        "in_channels": in_channels,
        "in_index": take_in_index(options, len(in_channels)),
        "channels": channels,
        "mask_channels": options.take("out_channels", channels),
        "num_queries": options.take("num_queries", 100),
        "num_levels": num_levels,
        # mmsegmentation 1.x resizes the masks before it sums them, also where its config is in mmdet 2's spelling.
        "resize_masks_first": spelling is MMDET_3 or context.original.is_1x,
        "project_levels": bool(options.take("enforce_decoder_input_project", False)),
        "align_corners": bool(options.take("align_corners", False)),
        "dropout": one_rate(rates | more_rates, context),
        "losses": [MaskClassificationLoss(**loss_fields(options, num_labels, _MASK_LOSS, context)).to_dict()],
    }
    context.take_ignore_index(options)
    options.finish()
    config = Mask2FormerHeadConfig(**fields, **pixel_decoder, **decoder)
    return config if spelling is MMDET_2 else (config, tuple(_layer_keys(spelling)))


def _pixel_decoder(
    options: Options, spelling: Spelling, channels: int, num_levels: int
) -> tuple[dict[str, Any], set[float]]:
    decoder = part_of(options, "pixel_decoder", "MSDeformAttnPixelDecoder")
    decoder.ignore("strides", "in_channels", "feat_channels", "out_channels")  # the head's own
    decoder.expect("num_outs", num_levels)
    decoder.activation(only="ReLU")
    fields = {"norm_groups": take_norm_groups(decoder)}
    take_positions(decoder, channels)
    encoder = part_of(decoder, "encoder", "DetrTransformerEncoder")
    encoder.ignore("num_cp")
    fields["encoder_layers"] = encoder.take("num_layers")
    layer = layer_options(encoder, spelling, "BaseTransformerLayer", ("self_attn", "norm", "ffn", "norm"))
    attention = part_of(layer, spelling.self_attention, "MultiScaleDeformableAttention")
    attention.ignore("im2col_step")
    attention.expect("batch_first", spelling.batch_first)
    attention.expect("embed_dims", channels)
    attention.expect("num_levels", num_levels)
    attention.expect("norm_cfg", None)
    fields["encoder_heads"], fields["encoder_points"] = attention.take("num_heads", 8), attention.take("num_points", 4)
    rates = {float(attention.take("dropout", 0.1))}
    attention.finish()
    fields["encoder_hidden_channels"], ffn_rates = feed_forward(layer, spelling, channels)
    for part in (layer, encoder, decoder):
        part.finish()
    return fields, rates | ffn_rates


def keys(config: Mask2FormerHeadConfig) -> Iterable[KeyRule]:
    """The key rules, with the layers in mmdet 2's spelling."""
    yield KeyRule("conv_seg.{}", None)  # the base class of older versions makes it, and nothing uses it
    yield from _layer_keys(MMDET_2)
    yield from shared_keys()
    yield from conv_keys("pixel_decoder.input_convs.{}", "pixel_decoder.input_convs.{}")
    yield KeyRule("pixel_decoder.level_encoding.{}", "pixel_decoder.level_embed.{}")
    yield KeyRule("decoder_input_projs.{}.{}", "level_convs.{}.{}")
    yield KeyRule("query_feat.{}", "query_features.{}")
    yield KeyRule("level_embed.{}", "level_embed.{}")


def _layer_keys(spelling: Spelling) -> Iterable[KeyRule]:
    """The key rules of the layers of the pixel decoder's encoder and of the queries' decoder."""
    old, new = "pixel_decoder.encoder.layers.{}", "pixel_decoder.layers.{}"
    yield from norm_and_ffn_keys(spelling, old, new, norms=2)
    yield KeyRule(f"{old}.{spelling.encoder_key}.{{}}", f"{new}.attention.{{}}")
    yield from decoder_keys(spelling)


MASK2FORMER = register(
    HeadRule(
        types=("Mask2FormerHead",),
        translate=translate,
        keys=keys,
        told_by=("pixel_decoder", "transformer_decoder", "in_channels", "feat_channels", "num_queries"),
    )
)

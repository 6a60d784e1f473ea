"""MaskFormerHead of mmdetection 3, as mmsegmentation 1.x trains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.queries import (
    MMDET_3,
    MaskLoss,
    attention_heads,
    attention_keys,
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
from segzoo.heads.maskformer import MaskFormerHeadConfig
from segzoo.losses import FocalMaskClassificationLoss

_MASK_LOSS = MaskLoss(
    loss="FocalLoss",
    cost="FocalLossCost",
    options={"gamma": ("gamma", 2.0), "alpha": ("alpha", 0.25)},
    cost_values={"binary_input": True, "gamma": 2.0, "alpha": 0.25, "eps": 1e-12},
)
_ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
_WITH_ENCODER = "TransformerEncoderPixelDecoder"


def translate(original: Mapping[str, Any], context: Context) -> MaskFormerHeadConfig:
    """Translates ``dict(type="MaskFormerHead", ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg", "test_cfg")
    num_labels = take_num_labels(options)
    in_channels, channels = list(options.take("in_channels")), options.take("feat_channels", 256)
    options.expect("out_channels", channels)  # which also is the width of the queries
    take_positions(options, channels)
    kind = type_name(original.get("pixel_decoder"), f"{context.where}.pixel_decoder")
    pixel_decoder, rates = _pixel_decoder(options, channels, with_encoder=kind == _WITH_ENCODER)
    decoder, more_rates = decoder_fields(options, MMDET_3, channels, _ORDER)
    fields = {
        "num_labels": num_labels,
        "in_channels": in_channels,
        "in_index": take_in_index(options, len(in_channels)),
        "channels": channels,
        "mask_channels": channels,
        "num_queries": options.take("num_queries", 100),
        "resize_masks_first": True,
        "project_always": bool(options.take("enforce_decoder_input_project", False)),
        "align_corners": bool(options.take("align_corners", False)),
        "dropout": one_rate(rates | more_rates, context),
        "losses": [FocalMaskClassificationLoss(**loss_fields(options, num_labels, _MASK_LOSS, context)).to_dict()],
    }
    context.take_ignore_index(options)
    options.finish()
    return MaskFormerHeadConfig(**fields, **pixel_decoder, **decoder)


def _pixel_decoder(options: Options, channels: int, *, with_encoder: bool) -> tuple[dict[str, Any], set[float]]:
    decoder = part_of(options, "pixel_decoder", "PixelDecoder", _WITH_ENCODER)
    decoder.ignore("type", "in_channels", "feat_channels", "out_channels")  # the head's own
    decoder.activation(only="ReLU")
    fields, rates = {"norm_groups": take_norm_groups(decoder), "encoder_layers": 0}, set()
    if with_encoder:
        take_positions(decoder, channels)
        encoder = part_of(decoder, "encoder", "DetrTransformerEncoder")
        encoder.ignore("num_cp")
        fields["encoder_layers"] = encoder.take("num_layers")
        if fields["encoder_layers"] == 0:
            raise encoder.error("num_layers=0 is not supported (a PixelDecoder has no encoder)")
        layer = layer_options(encoder, MMDET_3, "DetrTransformerEncoderLayer", ("self_attn", "norm", "ffn", "norm"))
        fields["encoder_heads"], rates = attention_heads(layer, MMDET_3.self_attention, MMDET_3, channels)
        fields["encoder_hidden_channels"], ffn_rates = feed_forward(layer, MMDET_3, channels)
        rates |= ffn_rates
        layer.finish()
        encoder.finish()
    decoder.finish()
    return fields, rates


def keys(config: MaskFormerHeadConfig) -> Iterable[KeyRule]:
    """The key rules."""
    yield from shared_keys()
    yield from decoder_keys(MMDET_3)
    yield KeyRule("decoder_input_proj.{}", "projection.{}")
    old, new = "pixel_decoder.encoder.layers.{}", "pixel_decoder.layers.{}"
    yield from norm_and_ffn_keys(MMDET_3, old, new, norms=2)
    yield from attention_keys(f"{old}.{MMDET_3.encoder_key}", f"{new}.attention")
    yield KeyRule("pixel_decoder.encoder_in_proj.{}", "pixel_decoder.projection.{}")
    coarsest = "encoder_out_proj" if config.encoder_layers else "last_feat_conv"
    yield from conv_keys(f"pixel_decoder.{coarsest}", "pixel_decoder.coarsest_conv")


MASKFORMER = register(HeadRule(types=("MaskFormerHead",), translate=translate, keys=keys))

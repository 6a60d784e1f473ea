"""SETRMLAHead and MLANeck of mmsegmentation: SETR with multi-level aggregation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, NeckRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options, norm_keys
from segzoo.heads.setr_mla import SETRMLAHeadConfig
from segzoo.necks import MLANeckConfig


def translate(original: Mapping[str, Any], context: Context) -> tuple[SETRMLAHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="SETRMLAHead", mla_channels=..., up_scale=..., ...)``."""
    options = Options(original, context.where)
    width, up_scale = options.take("mla_channels", 128), options.take("up_scale", 4)
    fields, first_keys = head_options(options, context, SETRMLAHeadConfig)
    options.finish()
    if fields["channels"] != width * len(fields["in_channels"]):
        raise options.error(
            f"channels={fields['channels']!r} must be mla_channels={width!r} for each of "
            f"{len(fields['in_channels'])} maps"
        )
    return SETRMLAHeadConfig(up_scale=up_scale, **fields), first_keys


def keys(config: SETRMLAHeadConfig) -> tuple[KeyRule, ...]:
    """The rules of two convolutions for each map, and of the classifier."""
    return head_keys(conv_module("up_convs.{}", "convs.{}"), config)


def translate_neck(original: Mapping[str, Any], context: Context) -> MLANeckConfig:
    """Translates ``dict(type="MLANeck", out_channels=..., norm_layer=..., norm_cfg=..., act_cfg=...)``."""
    options = Options(original, context.where)
    activation = options.activation() if original.get("act_cfg") is not None else None
    options.ignore("act_cfg")
    config = MLANeckConfig(
        in_channels=list(options.take("in_channels")),
        channels=options.take("out_channels"),
        layer_norm_eps=options.layer_norm_eps("norm_layer", eps=1e-6),
        activation=activation,
        **options.norm(),
    )
    options.finish()
    return config


def neck_keys(config: MLANeckConfig) -> tuple[KeyRule, ...]:
    """The rules of a norm and two convolutions for each map."""
    convolutions = norm_keys(
        (
            *conv_module("mla.channel_proj.{}", "projections.{}"),
            *conv_module("mla.feat_extract.{}", "convs.{}"),
        ),
        config.norm,
    )
    return (KeyRule("norm.{}", "norms.{}"), *convolutions)


SETR_MLA = register(HeadRule(types=("SETRMLAHead",), translate=translate, keys=keys))
MLA = register(NeckRule(types=("MLANeck",), translate=translate_neck, keys=neck_keys))

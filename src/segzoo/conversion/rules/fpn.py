"""FPN, mmsegmentation's neck of feature pyramids, and FPNHead, the head of Semantic FPN behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, NeckRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options, map_range, plain_convolutions
from segzoo.heads.fpn import FPNHeadConfig
from segzoo.necks import FPNNeckConfig


def _translate_neck(original: Mapping[str, Any], context: Context) -> FPNNeckConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg")
    plain_convolutions(options)
    in_channels = list(options.take("in_channels"))
    first, end = map_range(options, len(in_channels))
    added = options.take("num_outs") - (end - first)
    if added < 0 or (added and original.get("end_level", -1) != -1):
        raise options.error("start_level, end_level and num_outs do not fit the maps")
    extra, on_inputs = options.take("add_extra_convs", False), options.take("extra_convs_on_inputs", False)
    if extra is True:
        extra = "on_input" if on_inputs else "on_output"
    if extra not in (False, "on_input", "on_lateral", "on_output"):
        raise options.error(f"add_extra_convs={extra!r} is not supported (only on_input, on_lateral or on_output)")
    upsampling = Options(options.take("upsample_cfg", {"mode": "nearest"}), f"{context.where}.upsample_cfg")
    upsampling.expect("scale_factor", None, 2)  # for which the original needs maps of exactly half the size
    config = FPNNeckConfig(
        in_channels=in_channels,
        channels=options.take("out_channels"),
        first_map=first,
        end_map=None if end == len(in_channels) else end,
        extra_maps=added,
        extra_convs=extra.removeprefix("on_") if extra and added else None,
        activate_extra=bool(options.take("relu_before_extra_convs", False)),
        norm_lateral=not options.take("no_norm_on_lateral", False),
        upsampling=upsampling.expect("mode", "nearest", "bilinear"),
        align_corners=bool(upsampling.take("align_corners", None)),
        activation=options.activation() if "act_cfg" in options else None,
        **options.norm(),
    )
    upsampling.finish()
    options.finish()
    return config


def _neck_keys(config: FPNNeckConfig) -> Iterable[KeyRule]:
    used = len(config.in_channels[config.first_map : config.end_map])
    for i in range(config.extra_maps if config.extra_convs else 0):
        yield from _convs(f"fpn_convs.{used + i}", f"extra_convs.{i}", config.norm)
    yield from _convs("lateral_convs.{}", "lateral_convs.{}", config.norm)
    yield from _convs("fpn_convs.{}", "fpn_convs.{}", config.norm)


def _convs(original: str, native: str, norm: str | None) -> tuple[KeyRule, ...]:
    """Key rules of a ConvModule, whose norm is called by its kind."""
    conv, batch_norm = conv_module(original, native)
    return conv, KeyRule(f"{original}.gn.{{}}", batch_norm.native) if norm == "group_norm" else batch_norm


FPN = register(NeckRule(types=("FPN",), translate=_translate_neck, keys=_neck_keys))


def _translate_head(
    original: Mapping[str, Any], context: Context
) -> FPNHeadConfig | tuple[FPNHeadConfig, tuple[KeyRule, ...]]:
    options = Options(original, context.where)
    strides = list(options.take("feature_strides"))
    fields, classifier = head_options(options, context, FPNHeadConfig)
    options.finish()
    config = FPNHeadConfig(strides=strides, **fields)
    return (config, classifier) if classifier else config


def _head_keys(config: FPNHeadConfig) -> Iterable[KeyRule]:
    """The key rules; a layer that doubles the size follows each convolution of the coarser maps."""
    rules: list[KeyRule] = []
    for i, stride in enumerate(config.strides):
        step = 1 if stride == config.strides[0] else 2
        for k in range(max(1, (stride // config.strides[0]).bit_length() - 1)):
            rules += conv_module(f"scale_heads.{i}.{step * k}", f"branches.{i}.{k}")
    return head_keys(rules, config)


FPN_HEAD = register(HeadRule(types=("FPNHead",), translate=_translate_head, keys=_head_keys))

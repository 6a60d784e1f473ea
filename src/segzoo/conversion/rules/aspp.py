"""ASPPHead and DepthwiseSeparableASPPHead of mmsegmentation: DeepLabV3 and DeepLabV3+."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options, head_rule
from segzoo.heads.aspp import ASPPHeadConfig
from segzoo.heads.base import OneMapHeadConfig
from segzoo.heads.separable_aspp import SeparableASPPHeadConfig

DILATIONS = (1, 6, 12, 18)  # the original's default


def separable_conv(original: str, native: str) -> tuple[KeyRule, ...]:
    """Key rules for a DepthwiseSeparableConvModule; the arguments are those of `conv_module`."""
    return (
        *conv_module(f"{original}.depthwise_conv", f"{native}.depthwise"),
        *conv_module(f"{original}.pointwise_conv", f"{native}.pointwise"),
    )


def pyramid_keys(native: str) -> tuple[KeyRule, ...]:
    """Key rules of the layers of an ASPPHead, for our pyramid of this name."""
    return (
        *conv_module("image_pool.1", f"{native}.image_pool"),  # index 0 is the pool
        *separable_conv("aspp_modules.{}", f"{native}.branches.{{}}"),
        *conv_module("aspp_modules.{}", f"{native}.branches.{{}}"),
        *conv_module("bottleneck", f"{native}.fusion"),
    )


PYRAMID_KEYS = pyramid_keys("pyramid")

head_rule("ASPPHead", config=ASPPHeadConfig, options={"dilations": DILATIONS}, keys=PYRAMID_KEYS)


def translate(original: Mapping[str, Any], context: Context) -> tuple[SeparableASPPHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="DepthwiseSeparableASPPHead", c1_in_channels=..., c1_channels=..., ...)``."""
    options = Options(original, context.where)
    fine, fine_channels = options.take("c1_in_channels"), options.take("c1_channels")
    dilations = options.take("dilations", DILATIONS)
    fields, first_keys = head_options(options, context, OneMapHeadConfig)
    options.finish()
    if fields.pop("resize_concat"):
        raise options.error("input_transform='resize_concat' is not supported here (only None)")
    if fine:  # read from the first map, whatever in_index says
        fields["in_channels"], fields["in_index"] = [*fields["in_channels"], fine], [*fields["in_index"], 0]
        fields["fine_channels"] = fine_channels
    elif fine_channels:
        raise options.error(f"c1_channels={fine_channels!r} need c1_in_channels; without a fine map both must be 0")
    return SeparableASPPHeadConfig(dilations=dilations, **fields), first_keys


def keys(config: SeparableASPPHeadConfig) -> tuple[KeyRule, ...]:
    """The pyramid's rules, those of the fine map and of the convolutions after it."""
    own = (
        *PYRAMID_KEYS,
        *conv_module("c1_bottleneck", "fine_conv"),
        *separable_conv("sep_bottleneck.{}", "refinement.{}"),
    )
    return head_keys(own, config)


SEPARABLE_ASPP = register(HeadRule(types=("DepthwiseSeparableASPPHead",), translate=translate, keys=keys))

"""JPU of mmsegmentation, FastFCN's neck."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, KeyRule, NeckRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.aspp import separable_conv
from segzoo.conversion.rules.common import conv_module, map_range, norm_keys, plain_convolutions
from segzoo.necks.jpu import JPUNeckConfig


def translate(original: Mapping[str, Any], context: Context) -> JPUNeckConfig:
    """Translates ``dict(type="JPU", in_channels=(512, 1024, 2048), mid_channels=512, ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg")
    plain_convolutions(options)
    in_channels = list(options.take("in_channels", (512, 1024, 2048)))
    first, end = map_range(options, len(in_channels))
    config = JPUNeckConfig(
        in_channels=in_channels,
        channels=options.take("mid_channels", 512),
        first_map=first,
        end_map=None if end == len(in_channels) else end,
        dilations=list(options.take("dilations", (1, 2, 4, 8))),
        align_corners=bool(options.take("align_corners", False)),
        activation=options.activation(),
        **options.norm(default={"type": "BN"}),
    )
    options.finish()
    return config


def keys(config: JPUNeckConfig) -> tuple[KeyRule, ...]:
    """The key rules; each of the original's convolutions is the only one of a sequence."""
    rules = (
        *conv_module("conv_layers.{}.0", "projections.{}"),
        *separable_conv("dilation_layers.{}.0", "dilated_convs.{}"),
    )
    return norm_keys(rules, config.norm)


JPU = register(NeckRule(types=("JPU",), translate=translate, keys=keys))

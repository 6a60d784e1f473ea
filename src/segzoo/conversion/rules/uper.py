"""UPerHead of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, Options, register
from segzoo.conversion.rules.common import CLASSIFIER, conv_module, head_options
from segzoo.conversion.rules.psp import PYRAMID_KEYS
from segzoo.heads.uper import UPerHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> UPerHeadConfig:
    """The UPerHeadConfig of an original ``dict(type="UPerHead", ...)``."""
    options = Options(original, context.where)
    fields = {"pool_scales": list(options.take("pool_scales", (1, 2, 3, 6)))}
    fields |= head_options(options, context, several_maps=True)
    options.finish()
    return UPerHeadConfig(**fields)


UPER = register(
    HeadRule(
        types=("UPerHead",),
        translate=translate,
        keys=(
            *PYRAMID_KEYS,
            *conv_module("lateral_convs.{}"),
            *conv_module("fpn_convs.{}"),
            *conv_module("fpn_bottleneck", "fusion_conv"),
            *CLASSIFIER,
        ),
    )
)

"""UPerHead of mmsegmentation."""

from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.conversion.rules.psp import PYRAMID_KEYS
from segzoo.heads.uper import UPerHeadConfig

head_rule(
    "UPerHead",
    config=UPerHeadConfig,
    options={"pool_scales": (1, 2, 3, 6)},
    keys=(
        *PYRAMID_KEYS,
        *conv_module("lateral_convs.{}"),
        *conv_module("fpn_convs.{}"),
        *conv_module("fpn_bottleneck", "fusion_conv"),
    ),
)

"""PSPHead of mmsegmentation."""

from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.psp import PSPHeadConfig

# Each scale has a pool, without weights, and a ConvModule; UPerHead has the same.
PYRAMID_KEYS = (*conv_module("psp_modules.{}.1", "pyramid.{}"), *conv_module("bottleneck", "context_conv"))

head_rule("PSPHead", config=PSPHeadConfig, options={"pool_scales": (1, 2, 3, 6)}, keys=PYRAMID_KEYS)

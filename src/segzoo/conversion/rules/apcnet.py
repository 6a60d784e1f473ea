"""APCHead of mmsegmentation."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.apcnet import APCHeadConfig

_SCALE = "acm_modules.{}"

head_rule(
    "APCHead",
    config=APCHeadConfig,
    options={"pool_scales": (1, 2, 3, 6), "fusion": True},
    keys=(
        *conv_module(f"{_SCALE}.pooled_redu_conv", "contexts.{}.cell_conv"),
        *conv_module(f"{_SCALE}.input_redu_conv", "contexts.{}.reduction"),
        *conv_module(f"{_SCALE}.global_info", "contexts.{}.global_conv"),
        KeyRule(f"{_SCALE}.gla.{{}}", "contexts.{}.affinity.{}"),
        *conv_module(f"{_SCALE}.residual_conv", "contexts.{}.residual_conv"),
        *conv_module(f"{_SCALE}.fusion_conv", "contexts.{}.fusion"),
        *conv_module("bottleneck", "context_conv"),
    ),
)

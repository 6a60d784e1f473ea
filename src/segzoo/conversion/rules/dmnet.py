"""DMHead of mmsegmentation."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.dmnet import DMHeadConfig

head_rule(
    "DMHead",
    config=DMHeadConfig,
    options={"filter_sizes": (1, 3, 5, 7), "fusion": False},
    keys=(
        KeyRule("dcm_modules.{}.filter_gen_conv.{}", "contexts.{}.filter_conv.{}"),
        *conv_module("dcm_modules.{}.input_redu_conv", "contexts.{}.reduction"),
        KeyRule("dcm_modules.{}.norm.{}", "contexts.{}.norm.{}"),
        *conv_module("dcm_modules.{}.fusion_conv", "contexts.{}.fusion"),
        *conv_module("bottleneck", "context_conv"),
    ),
)

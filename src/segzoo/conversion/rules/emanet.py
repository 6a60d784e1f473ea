"""EMAHead of mmsegmentation."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.emanet import EMAHeadConfig

head_rule(
    "EMAHead",
    config=EMAHeadConfig,
    options={"ema_channels": 512, "num_bases": 64, "num_stages": 3, "concat_input": True, "momentum": 0.1},
    keys=(
        *conv_module("ema_in_conv", "pixel_conv"),
        KeyRule("ema_mid_conv.conv.{}", "middle_conv.{}"),
        KeyRule("ema_module.bases", "attention.bases"),
        *conv_module("ema_out_conv", "attention_conv"),
        *conv_module("bottleneck", "output_conv"),
        *conv_module("conv_cat"),
    ),
)

"""FCNHead of mmsegmentation: decode head and, in most models, the auxiliary head; and of InternVL, with a last norm."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.fcn import FCNHeadConfig

head_rule(
    "FCNHead",
    config=FCNHeadConfig,
    options={"num_convs": 2, "kernel_size": 3, "concat_input": True, "dilation": 1, "with_norm": False},
    keys=(*conv_module("convs.{}"), *conv_module("conv_cat"), KeyRule("norm.{}", "norm.{}")),
)

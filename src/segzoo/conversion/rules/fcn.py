"""FCNHead of mmsegmentation: decode head and, in most models, the auxiliary head; and of InternVL, with a last norm."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.fcn import FCNHeadConfig

# Heads that derive from it have these too.
FCN_OPTIONS = {"num_convs": 2, "kernel_size": 3, "concat_input": True, "dilation": 1}
FCN_KEYS = (*conv_module("convs.{}"), *conv_module("conv_cat"))

head_rule(
    "FCNHead",
    config=FCNHeadConfig,
    options=FCN_OPTIONS | {"with_norm": False},
    keys=(*FCN_KEYS, KeyRule("norm.{}", "norm.{}")),
)

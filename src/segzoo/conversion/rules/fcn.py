"""FCNHead of mmsegmentation: decode head and, in most models, the auxiliary head."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, Options, register
from segzoo.conversion.rules.common import CLASSIFIER, conv_module, head_options
from segzoo.heads.fcn import FCNHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> FCNHeadConfig:
    """The FCNHeadConfig of an original ``dict(type="FCNHead", ...)``."""
    options = Options(original, context.where)
    fields = {
        "num_convs": options.take("num_convs", 2),
        "kernel_size": options.take("kernel_size", 3),
        "concat_input": bool(options.take("concat_input", True)),
        "dilation": options.take("dilation", 1),
        "resize_concat": original.get("input_transform") == "resize_concat",
    }
    fields |= head_options(options, context)
    options.finish()
    return FCNHeadConfig(**fields)


FCN = register(
    HeadRule(
        types=("FCNHead",),
        translate=translate,
        keys=(*conv_module("convs.{}"), *conv_module("conv_cat"), *CLASSIFIER),
    )
)

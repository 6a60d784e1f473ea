"""PSPHead of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, Options, register
from segzoo.conversion.rules.common import CLASSIFIER, conv_module, head_options
from segzoo.heads.psp import PSPHeadConfig

# pool (without weights), then a ConvModule, per scale; UPerHead has the same
PYRAMID_KEYS = (*conv_module("psp_modules.{}.1", "pyramid.{}"), *conv_module("bottleneck", "context_conv"))


def translate(original: Mapping[str, Any], context: Context) -> PSPHeadConfig:
    """The PSPHeadConfig of an original ``dict(type="PSPHead", ...)``."""
    options = Options(original, context.where)
    fields = {
        "pool_scales": list(options.take("pool_scales", (1, 2, 3, 6))),
        "resize_concat": original.get("input_transform") == "resize_concat",
    }
    fields |= head_options(options, context)
    options.finish()
    return PSPHeadConfig(**fields)


PSP = register(HeadRule(types=("PSPHead",), translate=translate, keys=(*PYRAMID_KEYS, *CLASSIFIER)))

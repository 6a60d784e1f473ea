"""SETRUPHead of mmsegmentation: SETR's naive and progressive heads."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.setr import SETRUPHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> tuple[SETRUPHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="SETRUPHead", num_convs=..., up_scale=..., kernel_size=..., ...)``."""
    options = Options(original, context.where)
    own = {
        "layer_norm_eps": options.layer_norm_eps("norm_layer", eps=1e-6),
        "num_convs": options.take("num_convs", 1),
        "up_scale": options.take("up_scale", 4),
        "kernel_size": options.expect("kernel_size", 3, 1),
    }
    fields, first_keys = head_options(options, context, SETRUPHeadConfig)
    options.finish()
    return SETRUPHeadConfig(**own, **fields), first_keys


def keys(config: SETRUPHeadConfig) -> tuple[KeyRule, ...]:
    """The rules of the norm, the convolutions and the classifier."""
    return head_keys((KeyRule("norm.{}", "norm.{}"), *conv_module("up_convs.{}.0", "convs.{}")), config)


SETR_UP = register(HeadRule(types=("SETRUPHead",), translate=translate, keys=keys))

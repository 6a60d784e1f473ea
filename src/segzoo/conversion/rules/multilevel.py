"""MultiLevelNeck of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, KeyRule, NeckRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, norm_keys
from segzoo.necks import MultiLevelNeckConfig


def _translate(original: Mapping[str, Any], context: Context) -> MultiLevelNeckConfig:
    options = Options(original, context.where)
    options.ignore("init_cfg")
    activation = options.activation() if original.get("act_cfg") is not None else None
    options.ignore("act_cfg")
    config = MultiLevelNeckConfig(
        in_channels=list(options.take("in_channels")),
        channels=options.take("out_channels"),
        scales=[float(scale) for scale in options.take("scales", (0.5, 1, 2, 4))],
        activation=activation,
        **options.norm(),
    )
    options.finish()
    return config


def _keys(config: MultiLevelNeckConfig) -> tuple[KeyRule, ...]:
    return norm_keys((*conv_module("lateral_convs.{}", "laterals.{}"), *conv_module("convs.{}")), config.norm)


MULTILEVEL = register(NeckRule(types=("MultiLevelNeck",), translate=_translate, keys=_keys))

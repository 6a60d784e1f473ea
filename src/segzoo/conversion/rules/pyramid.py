"""Feature2Pyramid, mmsegmentation's neck behind plain ViTs."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, KeyRule, NeckRule, register
from segzoo.conversion.options import Options
from segzoo.necks import PyramidNeckConfig


def _translate(original: Mapping[str, Any], context: Context) -> PyramidNeckConfig:
    options = Options(original, context.where)
    scales = options.expect("rescales", [4, 2, 1, 0.5], [2, 1, 0.5, 0.25])
    config = PyramidNeckConfig(
        in_channels=[options.take("embed_dim")] * len(scales),
        scales=[float(scale) for scale in scales],
        **options.norm(default={"type": "SyncBN"}),
    )
    options.finish()
    return config


PYRAMID = register(
    NeckRule(
        types=("Feature2Pyramid",),
        translate=_translate,
        keys=(KeyRule("upsample_4x.{}", "upsample_4x.{}"), KeyRule("upsample_2x.0.{}", "upsample_2x.{}")),
    )
)

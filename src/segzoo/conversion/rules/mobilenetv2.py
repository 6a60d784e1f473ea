"""MobileNetV2 of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mobilenetv2 import STAGES, MobileNetV2Config
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, plain_convolutions


def translate(original: Mapping[str, Any], context: Context) -> MobileNetV2Config:
    """Translates ``dict(type="MobileNetV2", strides=..., dilations=...)``."""
    options = Options(original, context.where)
    # memory and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp")
    options.in_training("frozen_stages", -1)
    options.in_training("norm_eval", False)
    plain_convolutions(options)
    options.activation(default="ReLU6", only="ReLU6")
    config = MobileNetV2Config(
        widen_factor=options.take("widen_factor", 1.0),
        strides=list(options.take("strides", (1, 2, 2, 2, 1, 2, 1))),
        dilations=list(options.take("dilations", (1,) * len(STAGES))),
        **options.batch_norm(),
        out_features=[f"stage{index + 1}" for index in sorted(options.take("out_indices", (1, 2, 4, 6)))],
    )
    options.finish()
    return config


def keys(config: MobileNetV2Config) -> Iterable[KeyRule]:
    """The key rules; blocks of the first stage have no convolution that widens."""
    yield from conv_module("conv1", "stem")
    for stage, (expansion, _, _) in enumerate(STAGES):
        parts = ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")
        for index, part in enumerate(parts):
            yield from conv_module(f"layer{stage + 1}.{{}}.conv.{index}", f"stages.{stage}.{{}}.{part}")


MOBILENETV2 = register(BackboneRule(types=("MobileNetV2",), translate=translate, keys=keys))

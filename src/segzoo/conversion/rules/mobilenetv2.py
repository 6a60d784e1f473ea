"""MobileNetV2 of mmsegmentation, and its namesakes of mmdetection and mmpretrain."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mobilenetv2 import STAGES, MobileNetV2Config
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, plain_convolutions

# The maps of the namesakes' classes unless an option says otherwise; they have one more, of a last convolution.
_NAMESAKES = {"mmdet": (1, 2, 4, 7), "mmcls": (7,), "mmpretrain": (7,)}
_PARTS = {"expand": "expand_conv", "depthwise": "depthwise_conv", "project": "linear_conv"}


def translate(original: Mapping[str, Any], context: Context) -> tuple[MobileNetV2Config, Iterable[KeyRule]]:
    """Translates ``dict(type="MobileNetV2", strides=..., dilations=...)``."""
    options = Options(original, context.where)
    # memory and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp")
    options.in_training("frozen_stages", -1)
    options.in_training("norm_eval", False)
    plain_convolutions(options)
    options.activation(default="ReLU6", only="ReLU6")
    indices = options.take("out_indices", _NAMESAKES.get(context.package, (1, 2, 4, 6)))
    if context.package in _NAMESAKES and len(STAGES) in indices:
        raise options.error(
            f"out_indices={indices!r} is not supported (only numbers below {len(STAGES)}): map {len(STAGES)} is of a "
            f"convolution behind the last stage, which {context.package}'s class of this name has"
        )
    config = MobileNetV2Config(
        widen_factor=options.take("widen_factor", 1.0),
        strides=list(options.take("strides", (1, 2, 2, 2, 1, 2, 1))),
        dilations=list(options.take("dilations", (1,) * len(STAGES))),
        **options.batch_norm(),
        out_features=[f"stage{index + 1}" for index in sorted(indices)],
    )
    options.finish()
    return config, tuple(_namesake_keys(context))


def keys(config: MobileNetV2Config) -> Iterable[KeyRule]:
    """The key rules; blocks of the first stage have no convolution that widens."""
    yield from conv_module("conv1", "stem")
    for stage, (expansion, _, _) in enumerate(STAGES):
        parts = ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")
        for index, part in enumerate(parts):
            yield from conv_module(f"layer{stage + 1}.{{}}.conv.{index}", f"stages.{stage}.{{}}.{part}")


def _namesake_keys(context: Context) -> Iterable[KeyRule]:
    """The key rules of the namesakes where they differ; their last convolution is not needed for the stages' maps."""
    if context.package in _NAMESAKES:
        yield KeyRule("conv2.{}", None)
    if context.package == "mmdet":
        for stage in range(len(STAGES)):
            for ours, theirs in _PARTS.items():
                yield from conv_module(f"layer{stage + 1}.{{}}.{theirs}", f"stages.{stage}.{{}}.{ours}")


MOBILENETV2 = register(BackboneRule(types=("MobileNetV2",), translate=translate, keys=keys))

"""MobileNetV3 and LR-ASPP of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mobilenetv3 import BLOCKS, MobileNetV3Config
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_rule, plain_convolutions, refuse_namesakes, rising_indices
from segzoo.heads.lraspp import LRASPPHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> MobileNetV3Config:
    """Translates ``dict(type="MobileNetV3", arch="large", out_indices=...)``."""
    options = Options(original, context.where)
    refuse_namesakes(options, context, "has no dilations, another padding and other norms")
    # memory and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp")
    options.in_training("frozen_stages", -1)
    options.in_training("norm_eval", False)
    plain_convolutions(options)
    config = MobileNetV3Config(
        arch=options.take("arch", "small"),
        reduction_factor=options.take("reduction_factor", 1),
        **options.batch_norm(),
    )
    indices = rising_indices(options, (0, 1, 12))
    try:
        names = [config.stage_names[index] for index in indices]
    except IndexError:
        raise options.error(f"out_indices={indices} must be below {len(config.stage_names)}") from None
    config.set_output_features_output_indices(out_features=names, out_indices=None)
    options.finish()
    return config


def keys(config: MobileNetV3Config) -> Iterable[KeyRule]:
    """The key rules; layer 0 is our stem."""
    yield from conv_module("layer0", "stem")
    last = len(BLOCKS[config.arch])
    for i in range(last):
        layer, block = f"layer{i + 1}", f"stages.{i}"
        for original, native in (
            ("expand_conv", "expand"),
            ("depthwise_conv", "depthwise"),
            ("linear_conv", "project"),
        ):
            yield from conv_module(f"{layer}.{original}", f"{block}.{native}")
        for number in (1, 2):
            yield KeyRule(f"{layer}.se.conv{number}.conv.{{}}", f"{block}.squeeze.fc{number}.{{}}")
    yield from conv_module(f"layer{last + 1}", f"stages.{last}")


register(BackboneRule(types=("MobileNetV3",), translate=translate, keys=keys))


def _head_keys(config: LRASPPHeadConfig) -> Iterable[KeyRule]:
    yield from conv_module("aspp_conv", "projection")
    yield KeyRule("image_pool.1.conv.weight", "pool_conv.weight")
    yield KeyRule("conv_up_input.{}", "input_conv.{}")
    for i in range(len(config.branch_channels)):
        yield KeyRule(f"convs.conv{i}.weight", f"branches.{i}.weight")
        yield from conv_module(f"conv_ups.conv_up{i}", f"fusions.{i}")


head_rule(
    "LRASPPHead",
    config=LRASPPHeadConfig,
    options={"branch_channels": (32, 64)},
    needs_norm="the convolutions have no bias even so",
    keys=_head_keys,
)

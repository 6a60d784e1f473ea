"""ICNet and ICNeck of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.backbones.icnet import ICNetConfig
from segzoo.backbones.resnet import ResNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, NeckRule, nested, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, norm_keys, plain_convolutions
from segzoo.necks.icnet import ICNeckConfig

_BATCH_NORM = {"type": "BN"}


def translate(original: Mapping[str, Any], context: Context) -> tuple[ICNetConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="ICNet", backbone_cfg=dict(type="ResNetV1c", ...), ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg")
    plain_convolutions(options)
    inner = context.at(f"{context.where}.backbone_cfg")
    resnet, keys = nested("backbone", options.take("backbone_cfg"), inner, "backbone.", "resnet.")
    # The original calls these stages and this stem by name, and has told its layers their channels.
    if not isinstance(resnet, ResNetConfig) or resnet.stem != "deep":
        raise options.error("backbone_cfg must be a ResNet with a deep stem, such as ResNetV1c")
    widths = [resnet.base_channels * 2**stage * (4 if resnet.bottleneck else 1) for stage in (1, 3)]
    if list(options.take("layer_channels", (512, 2048))) != widths:
        raise options.error(f"layer_channels must be {widths}, the channels of the ResNet's second and fourth stage")
    config = ICNetConfig(
        num_channels=options.take("in_channels", 3),
        resnet_config=resnet,
        light_channels=options.take("light_branch_middle_channels", 32),
        pyramid_channels=options.take("psp_out_channels", 512),
        pool_scales=list(options.take("pool_scales", (1, 2, 3, 6))),
        channels=list(options.take("out_channels", (64, 256, 256))),
        activation=options.activation(),
        align_corners=bool(options.take("align_corners", False)),
        **options.norm(default=_BATCH_NORM),
    )
    options.finish()
    return config, keys


def keys(config: ICNetConfig) -> tuple[KeyRule, ...]:
    """The key rules of everything around the ResNet."""
    rules = (
        *conv_module("psp_modules.{}.1", "pyramid.{}"),  # index 0 is the pool
        *conv_module("psp_bottleneck", "context_conv"),
        *conv_module("conv_sub1.{}", "full_convs.{}"),
        *conv_module("conv_sub2", "half_conv"),
        *conv_module("conv_sub4", "quarter_conv"),
    )
    return norm_keys(rules, config.norm)


def translate_neck(original: Mapping[str, Any], context: Context) -> ICNeckConfig:
    """Translates ``dict(type="ICNeck", in_channels=(64, 256, 256), out_channels=128, ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg")
    plain_convolutions(options)
    config = ICNeckConfig(
        in_channels=list(options.take("in_channels", (64, 256, 256))),
        channels=options.take("out_channels", 128),
        activation=options.activation(),
        align_corners=bool(options.take("align_corners", False)),
        **options.norm(default=_BATCH_NORM),
    )
    options.finish()
    return config


def neck_keys(config: ICNeckConfig) -> tuple[KeyRule, ...]:
    """The key rules of both fusions."""
    rules: list[KeyRule] = []
    for i, name in enumerate(("cff_24", "cff_12")):
        rules += conv_module(f"{name}.conv_low", f"fusions.{i}.coarse")
        rules += conv_module(f"{name}.conv_high", f"fusions.{i}.fine")
    return norm_keys(rules, config.norm)


ICNET = register(BackboneRule(types=("ICNet",), translate=translate, keys=keys))
IC_NECK = register(NeckRule(types=("ICNeck",), translate=translate_neck, keys=neck_keys))

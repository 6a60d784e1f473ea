"""FastSCNN and DepthwiseSeparableFCNHead of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from segzoo.backbones.fast_scnn import FastSCNNConfig
from segzoo.conversion.keys import BackboneRule, Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.aspp import separable_conv
from segzoo.conversion.rules.common import conv_module, head_keys, head_options, norm_keys, plain_convolutions
from segzoo.heads.separable_fcn import SeparableFCNHeadConfig


def translate(original: Mapping[str, Any], context: Context) -> FastSCNNConfig:
    """Translates ``dict(type="FastSCNN", downsample_dw_channels=(32, 48), ...)``."""
    options = Options(original, context.where)
    options.ignore("init_cfg")
    plain_convolutions(options)
    config = FastSCNNConfig(
        num_channels=options.take("in_channels", 3),
        stem_channels=list(options.take("downsample_dw_channels", (32, 48))),
        fine_channels=_agreed(options, "global_in_channels", "higher_in_channels", 64),
        stage_channels=list(options.take("global_block_channels", (64, 96, 128))),
        stage_strides=list(options.take("global_block_strides", (2, 2, 1))),
        coarse_channels=_agreed(options, "global_out_channels", "lower_in_channels", 128),
        fused_channels=options.take("fusion_out_channels", 128),
        activation=options.activation(),
        depthwise_activation=_depthwise_activation(original, options),
        align_corners=bool(options.take("align_corners", False)),
        out_features=_maps(options),
        **options.norm(default={"type": "BN"}),
    )
    options.finish()
    return config


def _agreed(options: Options, name: str, other: str, default: int) -> int:
    """Takes two options that must be equal in the original."""
    value, same = options.take(name, default), options.take(other, default)
    if value != same:
        raise options.error(f"{name}={value!r} and {other}={same!r} must be equal")
    return value


def _maps(options: Options) -> list[str]:
    """Takes ``out_indices``, whose order is that of the original's maps."""
    names, indices = ("fine", "coarse", "fused"), list(options.take("out_indices", (0, 1, 2)))
    if not indices or indices != sorted(set(indices) & {0, 1, 2}):
        raise options.error(f"out_indices={indices} must be some of 0, 1, 2, rising")
    return [names[index] for index in indices]


def _depthwise_activation(
    original: Mapping[str, Any], options: Options, default: Literal["default"] | None = None
) -> str | None:
    """Takes ``dw_act_cfg``: ``default`` unless it is given, and mmcv's of separable convolutions if it is "default"."""
    if original.get("dw_act_cfg") not in (None, "default"):
        return options.activation("dw_act_cfg")
    return "relu" if options.take("dw_act_cfg", default) else None


def _default_of_version(original: Mapping[str, Any], context: Context) -> Literal["default"] | None:
    """The head's ``dw_act_cfg`` where the config has none: before mmsegmentation 0.15 always mmcv's, then None.

    Behind a FastSCNN no version is asked: the older backbone has weights of other shapes.
    """
    model, old = context.original.model, context.original.is_before(0, 15)
    backbone = model["backbone"] if isinstance(model, Mapping) else {"type": ""}
    if old is False or "dw_act_cfg" in original or type_name(backbone, "model.backbone", ("FastSCNN",)) == "FastSCNN":
        return None
    difference = (
        "mmsegmentation before 0.15 has an activation after the depthwise convolutions, and later ones have none"
    )
    if old:
        context.note(context.where, f"{difference}; the checkpoint is of an older one, and so is this model")
        return "default"
    context.note(
        context.where,
        f"{difference}; the checkpoint's version is not known, and none is taken. If an older one trained it, give a config with "
        "dw_act_cfg='default' in this head with --config",
    )
    return None


def keys(config: FastSCNNConfig) -> tuple[KeyRule, ...]:
    """The key rules; the original calls its three parts by what they do."""
    down, deep, fusion = "learning_to_downsample", "global_feature_extractor", "feature_fusion"
    rules: list[KeyRule] = [*conv_module(f"{down}.conv", "stem.0")]
    for i in (1, 2):
        rules += separable_conv(f"{down}.dsconv{i}", f"stem.{i}")
    for stage in range(len(config.stage_channels)):
        for i, part in enumerate(("expand", "depthwise", "project")):
            rules += conv_module(f"{deep}.bottleneck{stage + 1}.{{}}.conv.{i}", f"stages.{stage}.{{}}.{part}")
    rules += conv_module(f"{deep}.ppm.{{}}.1", "pyramid.{}")  # index 0 is the pool
    rules += conv_module(f"{deep}.out", "context_conv")
    rules += conv_module(f"{fusion}.dwconv", "coarse_conv.0")
    rules += conv_module(f"{fusion}.conv_lower_res", "coarse_conv.1")
    rules += conv_module(f"{fusion}.conv_higher_res", "fine_conv")
    return norm_keys(rules, config.norm)


def translate_head(original: Mapping[str, Any], context: Context) -> tuple[SeparableFCNHeadConfig, Iterable[KeyRule]]:
    """Translates ``dict(type="DepthwiseSeparableFCNHead", dw_act_cfg=None, ...)``."""
    options = Options(original, context.where)
    options.ignore("dilation")  # the separable convolutions have none
    num_convs = options.take("num_convs", 2)
    if num_convs < 1:
        raise options.error(f"num_convs={num_convs!r} must be 1 at least")
    own = {
        "num_convs": num_convs,
        "kernel_size": options.take("kernel_size", 3),
        "concat_input": bool(options.take("concat_input", True)),
        "depthwise_activation": _depthwise_activation(original, options, _default_of_version(original, context)),
    }
    shared, first_keys = head_options(options, context, SeparableFCNHeadConfig)
    options.finish()
    # The separable convolutions have mmcv's default activation, whatever act_cfg says.
    return SeparableFCNHeadConfig(**own | shared | {"activation": "relu"}), first_keys


def head_key_rules(config: SeparableFCNHeadConfig) -> tuple[KeyRule, ...]:
    """The key rules of the separable convolutions."""
    return head_keys((*separable_conv("convs.{}", "convs.{}"), *separable_conv("conv_cat", "conv_cat")), config)


FAST_SCNN = register(BackboneRule(types=("FastSCNN",), translate=translate, keys=keys))
SEPARABLE_FCN = register(HeadRule(types=("DepthwiseSeparableFCNHead",), translate=translate_head, keys=head_key_rules))

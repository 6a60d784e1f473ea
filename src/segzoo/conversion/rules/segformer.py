"""SegFormer's head, of mmsegmentation (``SegformerHead``) and of its authors (``SegFormerHead``)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.layouts import LINEAR, Reorder
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_options, head_rule
from segzoo.heads import SegFormerHeadConfig

MMSEG_SEGFORMER = head_rule(
    "SegformerHead",
    config=SegFormerHeadConfig,
    expected={"interpolate_mode": ("bilinear",)},
    keys=(*conv_module("convs.{}", "projections.{}"), *conv_module("fusion_conv")),
)


def _translate(
    original: Mapping[str, Any], context: Context
) -> SegFormerHeadConfig | tuple[SegFormerHeadConfig, tuple[KeyRule, ...]]:
    options = Options(original, context.where)
    options.ignore("feature_strides", "act_cfg")  # which the class does not read
    options.expect("align_corners", False)
    decoder = Options(options.take("decoder_params"), f"{options.where}.decoder_params")
    width = decoder.take("embed_dim")
    decoder.expect("conv_kernel_size", 1)
    decoder.finish()
    fields, classifier = head_options(options, context, SegFormerHeadConfig)
    options.finish()
    config = SegFormerHeadConfig(
        **fields
        | {"channels": width, "linear_projections": True, "align_corners": False}
        | {"norm": "batch_norm", "norm_eps": 1e-5, "activation": "relu"}  # whatever norm_cfg says
    )
    rules = tuple(replace(rule, original=rule.original.replace("conv_seg", "linear_pred")) for rule in classifier)
    return (config, rules) if rules else config


def transformers_segformer_keys(config: SegFormerHeadConfig) -> Iterable[KeyRule]:
    """Key rules of the files that transformers writes of its SegFormer."""
    maps = len(config.in_channels)
    yield KeyRule("linear_c.{}.proj.{}", "projections.{}.conv.{}", change=LINEAR)
    yield KeyRule("linear_fuse.weight", "fusion_conv.conv.weight", change=_coarse_first(maps))
    yield KeyRule("batch_norm.{}", "fusion_conv.norm.{}")
    yield KeyRule("classifier.{}", "classifier.{}")


def _coarse_first(maps: int) -> Reorder:
    """The originals concatenate the maps the coarsest first."""
    return Reorder(tuple(reversed(range(maps))), axis=1)


def _keys(config: SegFormerHeadConfig) -> Iterable[KeyRule]:
    maps = len(config.in_channels)
    for i in range(maps):
        yield KeyRule(f"linear_c{i + 1}.proj.{{}}", f"projections.{i}.conv.{{}}", change=LINEAR)
    yield KeyRule("linear_fuse.conv.weight", "fusion_conv.conv.weight", change=_coarse_first(maps))
    yield KeyRule("linear_fuse.bn.{}", "fusion_conv.norm.{}")
    yield KeyRule("linear_pred.{}", "classifier.{}")
    yield KeyRule("conv_seg.{}", None)  # never run


ORIGINAL_SEGFORMER = register(HeadRule(types=("SegFormerHead",), translate=_translate, keys=_keys))

"""PIDNet and PIDHead of mmsegmentation 1.x."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.pidnet import PIDNetConfig
from segzoo.conversion.keys import BackboneRule, Context, HeadRule, KeyRule, register
from segzoo.conversion.losses import DEFAULT_LOSS, translate_losses
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, head_keys
from segzoo.conversion.rules.ddrnet import (
    branch_keys,
    losses_of_branches,
    pooling_keys,
    residual_keys,
    shared_options,
    side_branch_options,
    stem_keys,
)
from segzoo.heads.pid import PIDHeadConfig


def _translate(original: Mapping[str, Any], context: Context) -> PIDNetConfig:
    options = Options(original, context.where)
    stem_blocks = options.take("num_stem_blocks", 2)
    config = PIDNetConfig(
        channels=options.take("channels", 64),
        pooling_channels=options.take("ppm_channels", 96),
        stem_blocks=stem_blocks,
        branch_blocks=options.take("num_branch_blocks", 3),
        light=stem_blocks == 2,
        **shared_options(options),
    )
    options.finish()
    return config


def _keys(config: PIDNetConfig) -> Iterable[KeyRule]:
    yield from stem_keys(numbered=False)
    for theirs, ours in (("i", "context"), ("p", "details")):
        yield from residual_keys(f"{theirs}_branch_layers.{{}}", f"{ours}.{{}}", numbered=False)
    for i in range(3):  # layers of one block, which is in a list or alone
        alone = i == 0 or (i == 1 and not config.light)
        yield from residual_keys(f"d_branch_layers.{i}" + ("" if alone else ".0"), f"boundaries.{i}", numbered=False)
    for i in (0, 1):
        yield from conv_module(f"compression_{i + 1}", f"up.{i}")
        yield from conv_module(f"diff_{i + 1}", f"differences.{i}")
        yield from conv_module(f"pag_{i + 1}.f_i", f"attention.{i}.context")
        yield from conv_module(f"pag_{i + 1}.f_p", f"attention.{i}.details")
    yield from pooling_keys()
    if config.light:
        yield from conv_module("spp.processes", "pooling.fusions.0")
        yield from conv_module("dfm.f_i", "fusion.context")
        yield from conv_module("dfm.f_p", "fusion.details")
    else:
        yield from conv_module("spp.processes.{}", "pooling.fusions.{}")
        yield from conv_module("dfm.conv", "fusion.conv")


def _translate_head(original: Mapping[str, Any], context: Context) -> tuple[PIDHeadConfig, tuple[KeyRule, ...]]:
    losses = losses_of_branches(original, context, 4)
    main = losses[1] if losses else DEFAULT_LOSS
    fields, keys = side_branch_options(original, context, PIDHeadConfig, main, "p_cls_seg")
    if losses is None:
        del fields["losses"]
        return PIDHeadConfig(**fields), keys
    details, _, boundary, at_boundaries = losses
    for name, loss in (("detail_losses", details), ("boundary_losses", at_boundaries)):
        fields[name] = translate_losses(loss, None, context, one_channel=bool(keys))
    place = f"{context.where}.loss_decode"
    if (kind := type_name(boundary, place)) == "BoundaryLoss":
        fields["boundary_weight"] = float(boundary.get("loss_weight", 1.0))
    else:
        context.note(context.where, f"the boundaries were trained with {kind}, and are here with BoundaryLoss")
    return PIDHeadConfig(**fields, boundary_width=_boundary_width(context)), keys


def _boundary_width(context: Context) -> int:
    """The width of boundaries in the training's data, which a step of the pipeline draws."""
    for step in context.original.train_pipeline or ():
        if isinstance(step, Mapping) and type_name(step, "train_pipeline") == "GenerateEdge":
            return step.get("edge_width", 3)
    return PIDHeadConfig.boundary_width


def _head_keys(config: PIDHeadConfig) -> tuple[KeyRule, ...]:
    own = (
        *branch_keys(("i_head.conv", "i_head.norm"), "branch"),
        *branch_keys(("p_head.conv", "p_head.norm"), "detail_branch"),
        *branch_keys(("d_head.conv", "d_head.norm"), "boundary_branch"),
        KeyRule("p_cls_seg.{}", "detail_classifier.{}"),
        KeyRule("d_cls_seg.{}", "boundary_classifier.{}"),
    )
    return head_keys(own, config)


PIDNET = register(BackboneRule(types=("PIDNet",), translate=_translate, keys=_keys))
PID_HEAD = register(HeadRule(types=("PIDHead",), translate=_translate_head, keys=_head_keys))

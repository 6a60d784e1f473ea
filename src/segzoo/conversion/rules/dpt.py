"""DPTHead of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.dpt import DPTHeadConfig

_MAPS = 4
_BATCH_NORM = {"type": "BN"}


def translate(
    original: Mapping[str, Any], context: Context
) -> DPTHeadConfig | tuple[DPTHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="DPTHead", embed_dims=..., post_process_channels=..., readout_type=..., ...)``."""
    options = Options({"norm_cfg": _BATCH_NORM, "input_transform": None, **original}, context.where)
    if original.get("norm_cfg", _BATCH_NORM) is None:
        raise options.error("norm_cfg=None is not supported (only with norms)")
    options.ignore("patch_size")  # which the class does not read
    options.expect("expand_channels", False)  # with which the original fails when it is built
    width, channels = options.take("embed_dims", 768), list(options.take("post_process_channels", (96, 192, 384, 768)))
    readout = options.expect("readout_type", "ignore", "add", "project")
    fields, classifier = head_options(options, context, DPTHeadConfig)
    options.finish()
    index = fields["in_index"]
    if len(index) != _MAPS or not all(-_MAPS <= i < _MAPS for i in index):
        raise options.error(f"in_index={index} must name {_MAPS} of the {_MAPS} maps that the original needs")
    index = [i % _MAPS for i in index]
    if readout != "ignore":  # the backbone's class tokens come after its maps
        index = [*index, *(_MAPS + i for i in index)]
    fields |= {"in_index": index, "in_channels": [width] * len(index)}
    config = DPTHeadConfig(readout=readout, reassemble_channels=channels, **fields)
    return (config, classifier) if classifier else config


def keys(config: DPTHeadConfig) -> tuple[KeyRule, ...]:
    """The key rules of all three kinds of readout."""
    block = "fusion_blocks.{}"
    own = [
        KeyRule("reassemble_blocks.projects.{}.conv.{}", "projections.{}.{}"),
        KeyRule("reassemble_blocks.resize_layers.{}", "resize_layers.{}"),
        KeyRule("reassemble_blocks.readout_projects.{}.0.{}", "readouts.{}.linear.{}"),
        KeyRule("convs.{}.conv.{}", "convs.{}.{}"),
        KeyRule(f"{block}.project.conv.{{}}", f"{block}.project.{{}}"),
        *conv_module("project", "fusion_conv"),
    ]
    for old, new in (("res_conv_unit1", "skip"), ("res_conv_unit2", "unit")):
        for conv in ("conv1", "conv2"):
            own += conv_module(f"{block}.{old}.{conv}", f"{block}.{new}.{conv}")
    return head_keys(own, config)


DPT = register(HeadRule(types=("DPTHead",), translate=translate, keys=keys))

"""BiSeNetV2 of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.bisenetv2 import BiSeNetV2Config
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, rising_indices


def translate(original: Mapping[str, Any], context: Context) -> BiSeNetV2Config:
    """Translates ``dict(type="BiSeNetV2", detail_channels=..., ...)``."""
    options = Options(original, context.where)
    # Training only; and what the class takes and does not use: its norms are plain batch norms.
    options.ignore("pretrained", "init_cfg", "conv_cfg", "norm_cfg", "act_cfg")
    details = list(options.take("detail_channels", (64, 64, 128)))
    if details and (width := options.take("bga_channels", 128)) != details[-1]:
        raise options.error(f"bga_channels={width!r} must be the last of detail_channels={details}")
    config = BiSeNetV2Config(
        num_channels=options.take("in_channels", 3),
        detail_channels=details,
        semantic_channels=list(options.take("semantic_channels", (16, 32, 64, 128))),
        expansion=options.take("semantic_expansion_ratio", 6),
        align_corners=bool(options.take("align_corners", False)),
        out_indices=rising_indices(options, (0, 1, 2, 3, 4)),
    )
    options.finish()
    return config


def keys(config: BiSeNetV2Config) -> Iterable[KeyRule]:
    """The key rules; the last stage of the semantic branch names the block behind it."""
    yield from conv_module("detail.detail_branch.{}.{}", "details.{}.{}")
    stem = "semantic.stage1"
    for old, new in (("conv_first", "first"), ("convs.0", "convs.0"), ("convs.1", "convs.1"), ("fuse_last", "fuse")):
        yield from conv_module(f"{stem}.{old}", f"stem.{new}")
    last = len(config.semantic_channels)
    for i in range(2, last + 1):
        old, new = f"semantic.stage{i}.{{}}", f"stages.{i - 2}.{{}}"
        yield from conv_module(f"{old}.conv1", f"{new}.conv")
        yield from conv_module(f"{old}.dwconv.{{}}", f"{new}.depthwise.{{}}")
        yield from conv_module(f"{old}.conv2.0", f"{new}.project")
        yield from _separable(f"{old}.shortcut.0", f"{new}.shortcut")
    context = f"semantic.stage{last}_CEBlock"
    yield KeyRule(f"{context}.gap.1.{{}}", "context.norm.{}")
    yield from conv_module(f"{context}.conv_gap", "context.project")
    yield from conv_module(f"{context}.conv_last", "context.conv")
    for branch in ("detail", "semantic"):
        yield from _separable(f"bga.{branch}_dwconv.0", f"aggregation.{branch}_keep")
    yield from conv_module("bga.detail_down.0", "aggregation.detail_down.0")
    yield from conv_module("bga.semantic_conv.0", "aggregation.semantic_up")
    yield from conv_module("bga.conv", "aggregation.conv")


def _separable(old: str, new: str) -> Iterable[KeyRule]:
    yield from conv_module(f"{old}.depthwise_conv", f"{new}.0")
    yield from conv_module(f"{old}.pointwise_conv", f"{new}.1")


BISENETV2 = register(BackboneRule(types=("BiSeNetV2",), translate=translate, keys=keys))

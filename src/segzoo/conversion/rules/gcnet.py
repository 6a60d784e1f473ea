"""GCHead of mmsegmentation."""

from collections.abc import Iterable

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.layouts import Reshape
from segzoo.conversion.rules.common import head_rule
from segzoo.conversion.rules.non_local import FRAME_KEYS, FRAME_OPTIONS
from segzoo.heads.gcnet import GCHeadConfig


def _transform(original: str, native: str) -> Iterable[KeyRule]:
    """Key rules of two convolutions with a layer norm, whose factors the original has as a map of one pixel."""
    yield KeyRule(f"{original}.0.{{}}", f"{native}.reduction.{{}}")
    yield KeyRule(f"{original}.1.{{}}", f"{native}.norm.{{}}", change=Reshape(original=(0, 1, 1), native=(0,)))
    yield KeyRule(f"{original}.3.{{}}", f"{native}.expansion.{{}}")


head_rule(
    "GCHead",
    config=GCHeadConfig,
    options=FRAME_OPTIONS | {"ratio": 0.25, "pooling_type": "att", "fusion_types": ("channel_add",)},
    keys=(
        *FRAME_KEYS,
        KeyRule("gc_block.conv_mask.{}", "context.mask.{}"),
        *_transform("gc_block.channel_add_conv", "context.summand"),
        *_transform("gc_block.channel_mul_conv", "context.factor"),
    ),
)

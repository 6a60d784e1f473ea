"""NLHead of mmsegmentation, and what it shares with other heads: FCN's frame, and mmcv's non-local block."""

from typing import Any

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.non_local import NonLocalHeadConfig

# Options and keys of a head with a block between FCN's two convolutions.
FRAME_OPTIONS: dict[str, Any] = {"kernel_size": 3, "concat_input": True, "dilation": 1}
FRAME_KEYS = (*conv_module("convs.{}"), *conv_module("conv_cat"))

NON_LOCAL_OPTIONS = {"reduction": 2, "use_scale": True, "mode": "embedded_gaussian"}


def non_local_keys(block: str) -> tuple[KeyRule, ...]:
    """Key rules of mmcv's NonLocal2d under this name in the head."""
    return (
        KeyRule(f"{block}.theta.conv.{{}}", "context.query.{}"),
        KeyRule(f"{block}.phi.conv.{{}}", "context.key.{}"),
        KeyRule(f"{block}.g.conv.{{}}", "context.value.{}"),
        KeyRule(f"{block}.concat_project.conv.{{}}", "context.pair.{}"),
        *conv_module(f"{block}.conv_out", "context.out"),
    )


head_rule(
    "NLHead",
    config=NonLocalHeadConfig,
    options=FRAME_OPTIONS | NON_LOCAL_OPTIONS,
    keys=(*FRAME_KEYS, *non_local_keys("nl_block")),
)

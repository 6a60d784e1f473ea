"""DNLHead of mmsegmentation."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import head_rule
from segzoo.conversion.rules.non_local import FRAME_KEYS, FRAME_OPTIONS, NON_LOCAL_OPTIONS, non_local_keys
from segzoo.heads.dnlnet import DNLHeadConfig

head_rule(
    "DNLHead",
    config=DNLHeadConfig,
    options=FRAME_OPTIONS | NON_LOCAL_OPTIONS | {"temperature": 0.05},
    keys=(*FRAME_KEYS, *non_local_keys("dnl_block"), KeyRule("dnl_block.conv_mask.{}", "context.mask.{}")),
)

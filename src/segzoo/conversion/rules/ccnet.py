"""CCHead of mmsegmentation."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.layouts import Reshape
from segzoo.conversion.rules.common import head_rule
from segzoo.conversion.rules.non_local import FRAME_KEYS, FRAME_OPTIONS
from segzoo.heads.ccnet import CCHeadConfig

head_rule(
    "CCHead",
    config=CCHeadConfig,
    options=FRAME_OPTIONS | {"recurrence": 2},
    keys=(
        *FRAME_KEYS,
        KeyRule("cca.query_conv.{}", "context.query.{}"),
        KeyRule("cca.key_conv.{}", "context.key.{}"),
        KeyRule("cca.value_conv.{}", "context.value.{}"),
        KeyRule("cca.gamma.scale", "context.gamma", change=Reshape(original=(), native=(1,))),
    ),
)

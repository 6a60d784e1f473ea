"""ISAHead of mmsegmentation: ISANet."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.isanet import ISAHeadConfig


def _attention_keys(original: str, native: str) -> tuple[KeyRule, ...]:
    return (
        *conv_module(f"{original}.query_project.{{}}", f"{native}.query.{{}}"),
        *conv_module(f"{original}.key_project.{{}}", f"{native}.key.{{}}"),
        KeyRule(f"{original}.value_project.{{}}", f"{native}.value.{{}}"),
        *conv_module(f"{original}.output_project", f"{native}.output"),
    )


head_rule(
    "ISAHead",
    config=ISAHeadConfig,
    required=("isa_channels",),
    options={"down_factor": (8, 8)},
    keys=(
        *conv_module("in_conv"),
        *_attention_keys("global_relation", "far"),
        *_attention_keys("local_relation", "near"),
        *conv_module("out_conv"),
    ),
)

"""ISAHead of mmsegmentation: ISANet."""

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.isanet import ISAHeadConfig


def relation_keys(original: str, native: str, *, convs: int = 2) -> tuple[KeyRule, ...]:
    """The key rules of the attention of one of the two steps.

    Args:
        original: its name in the original.
        native: its name in our head.
        convs: number of convolutions that make queries, and of those that make keys.
    """
    theirs, ours = (".{}", ".{}") if convs > 1 else ("", ".0")  # one alone is in no list
    return (
        *conv_module(f"{original}.query_project{theirs}", f"{native}.query{ours}"),
        *conv_module(f"{original}.key_project{theirs}", f"{native}.key{ours}"),
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
        *relation_keys("global_relation", "far"),
        *relation_keys("local_relation", "near"),
        *conv_module("out_conv"),
    ),
)

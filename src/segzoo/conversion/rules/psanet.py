"""PSAHead of mmsegmentation: PSANet."""

from collections.abc import Iterator

from segzoo.conversion.keys import KeyRule
from segzoo.conversion.rules.common import conv_module, head_rule
from segzoo.heads.psanet import PSAHeadConfig


def _keys(config: PSAHeadConfig) -> Iterator[KeyRule]:
    """The rules of one direction or both; the original marks the second with ``_p``."""
    names = {"collect": "", "distribute": "_p"} if config.psa_type == "bi-direction" else {config.psa_type: ""}
    for name, mark in names.items():
        yield from conv_module(f"reduce{mark}", f"directions.{name}.reduction")
        yield from conv_module(f"attention{mark}.0", f"directions.{name}.conv")
        yield KeyRule(f"attention{mark}.1.weight", f"directions.{name}.scores.weight")
    yield from conv_module("proj", "projection")
    yield from conv_module("bottleneck", "fusion")


head_rule(
    "PSAHead",
    config=PSAHeadConfig,
    options={
        "psa_type": "bi-direction",
        "compact": False,
        "shrink_factor": 2,
        "mask_size": (89, 89),
        "normalization_factor": 1.0,
        "psa_softmax": True,
    },
    keys=_keys,
)

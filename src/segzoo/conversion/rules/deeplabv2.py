"""DLV2Head of lhoyer/DAFormer."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.one_channel import SecondChannel
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import head_options
from segzoo.heads.deeplabv2 import DeepLabV2HeadConfig


def _translate(original: Mapping[str, Any], context: Context) -> tuple[DeepLabV2HeadConfig, Iterable[KeyRule]]:
    fixed = {"channels": DeepLabV2HeadConfig.channels, "dropout_ratio": 0.0}
    options = Options({**original, **fixed}, context.where)
    for name in (*fixed, "norm_cfg"):
        if name in original:
            raise options.error(f"the original class refuses the option {name!r}")
    dilations = list(options.take("dilations", (6, 12, 18, 24)))
    fields, classifier = head_options(options, context, DeepLabV2HeadConfig)
    options.finish()
    return DeepLabV2HeadConfig(**fields, dilations=dilations), _one_channel_keys(classifier)


def _one_channel_keys(classifier: Iterable[KeyRule]) -> Iterable[KeyRule]:
    """The key rules of a classifier with one channel, for the convolutions whose sum is the head."""
    for rule in classifier:
        kind = rule.native.rpartition(".")[2]
        first = replace(rule, original=f"aspp_modules.0.conv.{kind}", native=f"classifier.branches.0.{kind}")
        yield first  # the sum of all is shifted once
        yield KeyRule(f"aspp_modules.{{}}.conv.{kind}", f"classifier.branches.{{}}.{kind}", change=SecondChannel())


register(
    HeadRule(
        types=("DLV2Head",),
        translate=_translate,
        keys=(KeyRule("aspp_modules.{}.conv.{}", "classifier.branches.{}.{}"),),
    )
)

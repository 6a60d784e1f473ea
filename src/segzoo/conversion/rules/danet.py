"""DAHead of mmsegmentation: DANet."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.layouts import Reshape
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.danet import DAHeadConfig

# Native names of the two attentions -> the original's.
_ATTENTIONS = {"position": "pam", "channel": "cam"}


def translate(original: Mapping[str, Any], context: Context) -> tuple[DAHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="DAHead", pam_channels=..., ...)``."""
    options = Options(original, context.where)
    pam_channels, classes = options.take("pam_channels"), original.get("num_classes")
    fields, first_keys = head_options(options, context, DAHeadConfig)
    options.finish()
    if classes == 1:  # then the two other classifiers have one channel too, and they alone where there are two classes
        first_keys += tuple(
            replace(rule, original=f"{theirs}_{rule.original}", native=f"{ours}_{rule.native}")
            for ours, theirs in _ATTENTIONS.items()
            for rule in first_keys
        )
    return DAHeadConfig(pam_channels=pam_channels, **fields), first_keys


def keys(config: DAHeadConfig) -> tuple[KeyRule, ...]:
    """The rules of both attentions with their convolutions and classifiers."""
    scalar = Reshape(original=(), native=(1,))
    own = [
        KeyRule("pam.{}_project.{}".format(name, "{}"), f"position.attention.{name}.{{}}")
        for name in ("query", "key", "value")
    ]
    for ours, theirs in _ATTENTIONS.items():
        own += [
            *conv_module(f"{theirs}_in_conv", f"{ours}_in"),
            *conv_module(f"{theirs}_out_conv", f"{ours}_out"),
            KeyRule(f"{theirs}.gamma.scale", f"{ours}.gamma", change=scalar),
            KeyRule(f"{theirs}_conv_seg.{{}}", f"{ours}_classifier.{{}}"),
        ]
    return head_keys(own, config)


DANET = register(HeadRule(types=("DAHead",), translate=translate, keys=keys))

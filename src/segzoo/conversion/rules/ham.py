"""LightHamHead of SegNeXt's authors and of mmsegmentation 1.x, which spell the options of the factorisation differently."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.ham import HamHeadConfig


def _translate(
    original: Mapping[str, Any], context: Context
) -> HamHeadConfig | tuple[HamHeadConfig, tuple[KeyRule, ...]]:
    original, groups = _without_groups(original, context)
    options = Options(original, context.where)
    ham = Options(options.take("ham_kwargs", {}), f"{options.where}.ham_kwargs")
    # Nothing reads these: the factorisation sets the first to 1 and has no use for the others.
    ham.ignore("inv_t", "INV_T", "ETA", "MD_D")
    ham.expect("SPATIAL", True)
    ham.expect("rand_init", True)  # without it the original draws its bases anew whenever a file is loaded
    ham.expect("RAND_INIT", True)
    own = {
        "norm_groups": groups,
        "ham_channels": options.take("ham_channels", 512),
        "num_bases": ham.take("MD_R", 64),
        "num_parts": ham.take("MD_S", 1),
        "train_steps": ham.take("train_steps" if "train_steps" in ham else "TRAIN_STEPS", 6),
        "eval_steps": ham.take("eval_steps" if "eval_steps" in ham else "EVAL_STEPS", 7),
    }
    ham.finish()
    fields, first_keys = head_options(options, context, HamHeadConfig)
    options.finish()
    context.note(
        context.where,
        "the original draws the first bases of its factorisation anew for every picture, so its logits differ from run "
        "to run; here only training does so, and evaluation draws them with a fixed seed",
    )
    config = HamHeadConfig(**fields, **own)
    return (config, first_keys) if first_keys else config


def _without_groups(original: Mapping[str, Any], context: Context) -> tuple[Mapping[str, Any], int]:
    """The options with group norms of the usual number of groups, and the number that they have."""
    norm = original.get("norm_cfg")
    if norm is None or type_name(norm, f"{context.where}.norm_cfg") != "GN" or "num_groups" not in norm:
        return original, HamHeadConfig.norm_groups
    return {**original, "norm_cfg": {**norm, "num_groups": 32}}, norm["num_groups"]


def _keys(config: HamHeadConfig) -> tuple[KeyRule, ...]:
    return head_keys(
        (
            *conv_module("squeeze"),
            KeyRule("hamburger.ham_in.conv.{}", "ham_in.{}"),
            *conv_module("hamburger.ham_out", "ham_out"),
            *conv_module("align"),
        ),
        config,
    )


register(HeadRule(types=("LightHamHead",), translate=_translate, keys=_keys))

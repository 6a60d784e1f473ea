"""PointHead of mmsegmentation, PointRend's, the second head of a cascade."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.layouts import Reshape
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, head_options, norm_keys
from segzoo.heads.point import PointHeadConfig

# A convolution over points becomes one over maps of one row.
_OVER_POINTS = Reshape(original=(0, 0, 1), native=(0, 0, 1, 1))
_TRAINING = ("num_points", "oversample_ratio", "importance_sample_ratio")


def translate(original: Mapping[str, Any], context: Context) -> PointHeadConfig:
    """Translates ``dict(type="PointHead", num_fcs=..., ...)``, with the settings of points in train_cfg and test_cfg."""
    options = Options(_for_maps(original, context), context.where)
    options.expect("conv_cfg", {"type": "Conv1d"})
    own: dict[str, Any] = {
        "num_layers": options.take("num_fcs", 3),
        "coarse_in_each_layer": bool(options.take("coarse_pred_each_layer", True)),
        "subdivision_steps": context.test_cfg.take("subdivision_steps"),
        "subdivision_num_points": context.test_cfg.take("subdivision_num_points"),
        "scale_factor": float(context.test_cfg.take("scale_factor")),
    }
    training = Options(context.original.train_cfg or {}, "model.train_cfg")
    own |= {name: training.take(name) for name in _TRAINING if name in training}
    for name in own.keys() & {"oversample_ratio", "importance_sample_ratio"}:
        own[name] = float(own[name])
    fields, one_channel = head_options(options, context, PointHeadConfig)
    options.finish()
    if one_channel:
        raise options.error("one output channel is not supported: the head compares the two highest classes")
    return PointHeadConfig(**own, **fields)


def _for_maps(original: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """The options, with a batch norm of points under the name that it has for maps."""
    norm = original.get("norm_cfg")
    if norm is not None and type_name(norm, f"{context.where}.norm_cfg") == "BN1d":
        return {**original, "norm_cfg": {**norm, "type": "BN"}}
    return original


def keys(config: PointHeadConfig) -> tuple[KeyRule, ...]:
    """The key rules; the classifier has a name of its own."""
    return norm_keys(
        (
            KeyRule("fcs.{}.conv.weight", "layers.{}.conv.weight", change=_OVER_POINTS),
            *conv_module("fcs.{}", "layers.{}"),
            KeyRule("fc_seg.weight", "classifier.weight", change=_OVER_POINTS),
            KeyRule("fc_seg.{}", "classifier.{}"),
        ),
        config.norm,
    )


POINT = register(HeadRule(types=("PointHead",), translate=translate, keys=keys))

"""EncHead of mmsegmentation."""

from collections.abc import Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, register
from segzoo.conversion.one_channel import SecondChannel
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.encnet import EncHeadConfig

_PRESENCE_LOSS = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 0.2}
_ONE_CLASS = tuple(
    KeyRule(f"se_layer.{kind}", f"presence.{kind}", change=SecondChannel()) for kind in ("weight", "bias")
)


def translate(original: Mapping[str, Any], context: Context) -> tuple[EncHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="EncHead", num_codes=..., use_se_loss=..., add_lateral=..., ...)``."""
    options = Options(original, context.where)
    presence_loss = options.take("loss_se_decode", _PRESENCE_LOSS)
    own = {
        "num_codes": options.take("num_codes", 32),
        "add_lateral": options.take("add_lateral", False),
        "use_se_loss": options.take("use_se_loss", True),
    }
    if own["use_se_loss"]:
        own["se_loss_weight"] = _weight(presence_loss, context)
    needs_norm = "the codes have a batch norm even so"
    fields, first_keys = head_options(options, context, EncHeadConfig, needs_norm=needs_norm)
    options.finish()
    if context.one_channel.get(context.where) == 1:
        first_keys = (*first_keys, *_ONE_CLASS)
    return EncHeadConfig(**own, **fields), first_keys


def _weight(original: Any, context: Context) -> float:
    """The weight of the loss of which classes a picture shows; what else the original says of it becomes a note."""
    place = f"{context.where}.loss_se_decode"
    loss = Options(original, place)
    weight = loss.take("loss_weight", 1.0)
    known = type_name(original, place) == "CrossEntropyLoss" and loss.take("use_sigmoid", False)
    plain = loss.take("class_weight", None) is None and loss.take("reduction", "mean") == "mean"
    loss.ignore("loss_name", "avg_non_ignore")  # no entry of the target is ignored
    if not known or not plain or loss.rest():
        context.note(place, "it trains on with the mean of the classes' sigmoid cross-entropy, of equal weights")
    return float(weight)


def keys(config: EncHeadConfig) -> tuple[KeyRule, ...]:
    """The key rules; the norm of the codes is one of a list of layers, and has no name for its kind."""
    own = (
        *conv_module("bottleneck", "reduction"),
        *conv_module("lateral_convs.{}", "laterals.{}"),
        *conv_module("fusion"),
        *conv_module("enc_module.encoding_project", "encoding_conv"),
        KeyRule("enc_module.encoding.0.{}", "encoding.{}"),
        KeyRule("enc_module.encoding.1.{}", "codes_norm.{}"),
        KeyRule("enc_module.fc.0.{}", "gate.{}"),
        KeyRule("se_layer.{}", "presence.{}"),
    )
    return head_keys(own, config)


ENC = register(HeadRule(types=("EncHead",), translate=translate, keys=keys))

"""The model of an original config: what a recipe changes about one, and the options of ``segzoo train`` that build it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from segzoo.auto import backbone_variants
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translation import Translation
from segzoo.heads.base import HeadConfig
from segzoo.heads.fcn import FCNHeadConfig
from segzoo.losses import CrossEntropyLoss
from segzoo.training.recipes.original.findings import Findings, part_of

# PyTorch's.
_USUAL_MOMENTUM = 0.1
_USUAL_AUXILIARY = [CrossEntropyLoss(weight=0.4).to_dict()]
_NO_WEIGHTS = ("_eps", "_uniform", "dropout")  # endings of options that change no weights
_NO_SHAPE = ("drop_path_rate", "out_features", "norm_momentum", "out_indices", "stage_names")


def model_fields(config: Mapping[str, Any], translation: Translation, findings: Findings) -> None:
    """Take drop path, and of class weights, losses and the momentum of norms what all parts of the model have."""
    backbone = part_of(config, "model", "backbone") or {}
    rate = getattr(translation.config.backbone_config, "drop_path_rate", None)
    if rate is not None and "drop_path_rate" in backbone:
        findings.take("model.backbone.drop_path_rate", drop_path_rate=rate)
    # Heads with outputs of their own keep their losses, whatever a recipe says.
    decode, auxiliary = (
        [head for head in heads if head.own_outputs is None]
        for heads in (translation.config.decode_head_configs, translation.config.auxiliary_head_configs)
    )
    shared = _shared_class_weights([*decode, *auxiliary])
    if shared is not None:
        findings.take("model.decode_head.loss_decode.class_weight", class_weights=shared)
    _losses(decode, "model.decode_head", "losses", type(decode[-1])().losses, shared, findings)
    _losses(auxiliary, "model.auxiliary_head", "auxiliary_losses", _USUAL_AUXILIARY, shared, findings)
    for note in translation.notes:
        if "loss" in note or "train" in note:
            place, _, why = note.partition(": ")
            findings.leave(place, why)
    _norm_momentum(translation, findings)


def _shared_class_weights(heads: Sequence[HeadConfig]) -> list[float] | None:
    """The class weights of all losses of all heads, which are those that ``class_weights`` of a recipe can say; or None."""
    losses = [loss for head in heads for field in head.loss_fields for loss in getattr(head, field)]
    weights = losses[0].get("class_weights") if losses else None
    if weights is None or any(loss.get("class_weights") != weights for loss in losses):
        return None
    # An average over the weights is not said without them.
    if any(loss.get("average") == "weighted" for head in heads for loss in head.losses):
        return None
    return list(weights)


def _losses(
    heads: Sequence[HeadConfig],
    place: str,
    name: str,
    usual: Sequence[Mapping[str, Any]],
    shared: list[float] | None,
    findings: Findings,
) -> None:
    """Take the losses that all heads of a kind have, without the class weights that all heads share."""
    found = [_plain(head.losses, shared) for head in heads]
    if any(losses != found[0] for losses in found):
        findings.leave(
            f"{place}.loss_decode",
            "its heads have different losses, and a recipe has the same for all: a converted model keeps them, a new head has "
            "its usual ones",
        )
    elif found and found[0] != _plain(usual, None):
        findings.take(f"{place}.loss_decode", **{name: found[0]})


def _plain(losses: Sequence[Mapping[str, Any]], shared: list[float] | None) -> list[dict[str, Any]]:
    """Losses without options that are not set, and without class weights that are said elsewhere."""
    return [
        {key: value for key, value in loss.items() if value is not None and not (shared and key == "class_weights")}
        for loss in losses
    ]


def _norm_momentum(translation: Translation, findings: Findings) -> None:
    """Take the momentum that all batch norms of a model have."""
    found = {
        module.momentum
        for module in build_without_weights(translation.config).modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    if len(found) > 1:
        listed = ", ".join(f"{momentum:g}" for momentum in sorted(found))
        findings.leave("norm_cfg.momentum", f"{listed}: a recipe has one for all batch norms")
    elif found != {_USUAL_MOMENTUM} and found:
        findings.take("norm_cfg.momentum", norm_momentum=found.pop())


def model_flags(translation: Translation, findings: Findings) -> list[str]:
    """The options of ``segzoo train`` for a new model of this shape, as far as they say it.

    What differs from the original's model is left out with a reason.
    """
    config = translation.config
    kind = config.backbone_config.model_type.removeprefix("segzoo_")
    variant, others = _variant(config.backbone_config)
    if variant is None:
        why = f"no variant of {kind} has its shape (segzoo list --backbones {kind}); choose one"
        findings.leave("model.backbone", why)
    elif others:
        findings.leave("model.backbone", f"a new {variant} has its usual options, and not {others}")
    flags = ["--backbone", variant or "BACKBONE"]
    head = config.decode_head_configs[-1]
    name = head.model_type.removeprefix("segzoo_").removesuffix("_head")
    flags += ["--head", name]
    if (channels := getattr(head, "channels", None)) is not None:
        flags += ["--head_channels", str(channels)]
    if len(config.decode_head_configs) > 1:
        findings.leave(
            "model.decode_head", f"a new model has one decode head, and this one {len(config.decode_head_configs)}"
        )
    if others := _other_options(head):
        findings.leave("model.decode_head", f"a new head has its usual options, and not {others}")
    auxiliary = [one for one in config.auxiliary_head_configs if isinstance(one, FCNHeadConfig)]
    if auxiliary:
        flags += ["--auxiliary_channels", str(auxiliary[0].channels)]
    if len(config.auxiliary_head_configs) > (1 if auxiliary else 0):
        findings.leave("model.auxiliary_head", "a new model has one auxiliary FCN head at most")
    return flags


def _other_options(head: HeadConfig) -> str:
    """Options of a head in which it differs from a new one, as text."""
    usual = type(head)(channels=head.channels).to_dict() if hasattr(head, "channels") else type(head)().to_dict()
    skipped = (
        *head.loss_fields,
        "id2label",
        "label2id",
        "num_labels",
        "in_index",
        "in_channels",
        "class_weights",
        "dtype",
    )
    found = {key: value for key, value in head.to_dict().items() if key not in skipped and usual.get(key) != value}
    return ", ".join(f"{key}={value!r:.40}" for key, value in found.items())


def _variant(backbone: PreTrainedConfig) -> tuple[str | None, str]:
    """The name of the variant with the shape of a backbone config, None if there is none, and what differs besides the shape, as text."""
    wanted, found = _shape(backbone), []
    for name, registration in backbone_variants().items():
        if registration.config.model_type != backbone.model_type:
            continue
        usual = _shape(registration.variant_config(name))
        apart = {key: value for key, value in wanted.items() if usual.get(key) != value}
        if all(key.endswith(_NO_WEIGHTS) for key in apart):
            found.append((len(apart), name, ", ".join(f"{key}={value}" for key, value in apart.items())))
    _, name, others = min(found, default=(0, None, ""))
    return name, others


def _shape(config: PreTrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _NO_SHAPE}

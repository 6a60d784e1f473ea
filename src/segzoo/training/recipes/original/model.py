"""The model of an original config: what a recipe changes about one, and the options of ``segzoo train`` that build it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from segzoo.auto import backbone_variants
from segzoo.conversion.translation import Translation
from segzoo.heads.base import HeadConfig
from segzoo.heads.fcn import FCNHeadConfig
from segzoo.losses import CrossEntropyLoss
from segzoo.training.recipes.original.findings import Findings, part_of

_USUAL_AUXILIARY = [CrossEntropyLoss(weight=0.4).to_dict()]
_NO_WEIGHTS = ("_eps", "dropout")  # endings of options that change no weights
_NO_SHAPE = ("drop_path_rate", "out_features", "out_indices", "stage_names", "norm_eval", "frozen_stages")


def model_fields(config: Mapping[str, Any], translation: Translation, findings: Findings) -> None:
    """Take losses, class weights, drop path and the momentum of norms."""
    backbone = part_of(config, "model", "backbone") or {}
    rate = getattr(translation.config.backbone_config, "drop_path_rate", None)
    if rate is not None and "drop_path_rate" in backbone:
        findings.take("model.backbone.drop_path_rate", drop_path_rate=rate)
    momentum = (part_of(backbone, "norm_cfg") or {}).get("momentum")
    if momentum is not None:
        findings.take("model.backbone.norm_cfg.momentum", norm_momentum=momentum)
    if (frozen := backbone.get("frozen_stages", -1)) not in (-1, None):
        findings.leave(
            "model.backbone.frozen_stages",
            f"{frozen}: a recipe trains the whole backbone or (freeze_backbone) none of it",
        )
    heads = translation.config.decode_head_configs
    _losses(heads[-1], "model.decode_head", "losses", type(heads[-1])().losses, findings)
    auxiliary = translation.config.auxiliary_head_configs
    if auxiliary:
        if any(head.losses != auxiliary[0].losses for head in auxiliary if "losses" in head.loss_fields):
            findings.leave(
                "model.auxiliary_head", "its heads have different losses, and a recipe has one for all: the first's"
            )
        _losses(auxiliary[0], "model.auxiliary_head", "auxiliary_losses", _USUAL_AUXILIARY, findings)
    for note in translation.notes:
        if "loss" in note or "train" in note:
            place, _, why = note.partition(": ")
            findings.leave(place, why)


def _losses(head: HeadConfig, place: str, name: str, usual: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    if "losses" not in head.loss_fields or head.own_outputs is not None:
        return
    losses = [dict(loss) for loss in head.losses]
    weights = [loss.get("class_weights") for loss in losses]
    if weights[0] is not None and all(one == weights[0] for one in weights) and losses[0].get("average") != "weighted":
        findings.take(f"{place}.loss_decode.class_weight", class_weights=list(weights[0]))
        losses = [{key: value for key, value in loss.items() if key != "class_weights"} for loss in losses]
    plain = [{key: value for key, value in loss.items() if value is not None} for loss in losses]
    if plain != [{key: value for key, value in loss.items() if value is not None} for loss in usual]:
        findings.take(f"{place}.loss_decode", **{name: plain})


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

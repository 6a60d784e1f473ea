"""The losses that a head was trained with: ``loss_decode`` and ``sampler`` of an original config -> ours.

A loss acts in training only, and the logits of a converted model do not depend on it. So a loss or an option of one
that is not available here is left out with a note, and is no reason to refuse a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context
from segzoo.conversion.one_channel import two_class_losses
from segzoo.conversion.options import Options, type_name
from segzoo.losses import CrossEntropyLoss, DiceLoss, FocalLoss, Loss, LovaszLoss, Ohem

MAX_LOSSES = 100
DEFAULT_LOSS = {"type": "CrossEntropyLoss"}


def translate_losses(
    original: Any, sampler: Any, context: Context, *, one_channel: bool = False
) -> list[dict[str, Any]]:
    """Translates the losses of a head to the ``losses`` of our HeadConfig.

    Args:
        original: the head's ``loss_decode``, a dict or a list of dicts.
        sampler: the head's ``sampler``, or None.
        context: the context at the head's place, which takes notes.
        one_channel: whether the original head has one output channel, and ours two.

    Raises:
        ConversionError: a loss or sampler is not a dict with a ``type``, or there are more than `MAX_LOSSES`.
        SegZooError: an option has a value that the original could not train with either.
    """
    originals = original if isinstance(original, (list, tuple)) and original else [original]
    if len(originals) > MAX_LOSSES:
        raise ConversionError(f"{context.where}: {len(originals)} losses; no head has more than {MAX_LOSSES}")
    ohem = _ohem(sampler, context)
    losses = [loss for one in originals if (loss := _loss(one, context)) is not None]
    if not losses:
        context.note(
            context.where, "none of its losses is available; the converted model trains with plain cross-entropy"
        )
        losses = [CrossEntropyLoss(weight=originals[0].get("loss_weight", 1.0))]
    if one_channel:
        changed = two_class_losses(losses)
        if any(
            loss.class_weights is not None and new.class_weights is None
            for loss, new in zip(losses, changed, strict=True)
        ):
            context.note(context.where, "class weights that are not two are left out")
        losses = changed
    # The original hands the sampled pixels to every loss, but the others ignore them.
    sampled = [
        replace(loss, ohem=ohem) if isinstance(loss, CrossEntropyLoss) and loss.ohem is None else loss
        for loss in losses
    ]
    return [loss.to_dict() for loss in sampled]


def _ohem(sampler: Any, context: Context) -> Ohem | None:
    if sampler is None:
        return None
    place = f"{context.where}.sampler"
    if (kind := type_name(sampler, place, ("OHEMPixelSampler",))) != "OHEMPixelSampler":
        context.note(
            context.where, f"its pixel sampler {kind} is not available; the converted model trains with all pixels"
        )
        return None
    options = Options(sampler, place)
    ohem = Ohem(threshold=options.take("thresh", None), min_kept=options.take("min_kept", 100_000))
    _note_rest(options, kind, context)
    return ohem


def _loss(original: Mapping[str, Any], context: Context) -> Loss | None:
    """One translated loss, or None with a note where it is not available."""
    place = f"{context.where}.loss_decode"
    kind = type_name(original, place, _TRANSLATE)
    options = Options(original, place)
    translate = _TRANSLATE.get(kind)
    loss = None
    if translate is not None:
        options.ignore("loss_name")
        shared = {"weight": options.take("loss_weight", 1.0), "class_weights": _class_weights(options, context)}
        try:
            loss = translate(options, shared, context)
        except ConversionError as error:  # an option has a value that no loss here has
            context.note(context.where, f"it was trained with {kind}, which is left out ({error})")
            return None
    if loss is None:
        detail = "".join(
            f" with {k}={v!r:.40}" for k, v in original.items() if k in ("use_sigmoid", "use_mask", "loss_type")
        )
        context.note(context.where, f"it was trained with {kind}{detail}, which is not available and left out")
        return None
    _note_rest(options, kind, context)
    return loss


def _note_rest(options: Options, kind: str, context: Context) -> None:
    if rest := options.rest():
        context.note(context.where, f"options of its {kind} are not known here and left out: {rest}")


def _class_weights(options: Options, context: Context) -> list[float] | None:
    weights = options.take("class_weight", None)
    if isinstance(weights, str):
        context.note(
            context.where,
            f"its class weights lie in a file ({weights}), which is not read; it trains on with equal weights",
        )
        return None
    return None if weights is None else list(weights)


def _cross_entropy(options: Options, shared: dict[str, Any], context: Context) -> CrossEntropyLoss | None:
    if options.take("use_mask", False):
        return None
    sigmoid = bool(options.take("use_sigmoid", False))
    reduction = _reduction(options, context, "mean", "sum", "none")
    average = "valid" if options.take("avg_non_ignore", False) else "all"
    if shared["class_weights"] is not None and not sigmoid and context.original.is_1x:
        average = "weighted"  # 1.x divides by the weights, 0.x by the pixels
    if reduction != "mean":
        average = {"sum": "sum", "none": "all"}[reduction]
    return CrossEntropyLoss(sigmoid=sigmoid, average=average, **shared)


def _reduction(options: Options, context: Context, *allowed: str) -> str:
    """Takes ``reduction``. Of "none" mmcv's runner takes the mean over everything, which a note says."""
    reduction = options.expect("reduction", *allowed)
    if reduction == "none":
        context.note(
            options.where, "reduction='none' becomes the mean over all pixels, which the original's runner takes"
        )
    return reduction


def _dice(options: Options, shared: dict[str, Any], context: Context) -> DiceLoss:
    smooth, exponent = options.take("smooth", 1.0), options.take("exponent", 2.0)
    options.expect("reduction", "mean", "none", "sum")  # all the same for one number
    # Its own ignored label counts for it, and not the head's.
    ignored = options.take("ignore_index", 255)
    # 0.x accepts and ignores any further option.
    options.ignore("loss_type", "per_image", "use_sigmoid", "activate", "naive_dice", "eps")
    if context.original.is_1x:
        context.note(context.where, "its DiceLoss becomes that of mmsegmentation 0.x, which is taken class by class")
    own = None if ignored == context.ignore_index.get(context.where, 255) else ignored
    return DiceLoss(smooth=smooth, exponent=exponent, ignore_index=own, **shared)


def _focal(options: Options, shared: dict[str, Any], context: Context) -> FocalLoss | None:
    if not options.take("use_sigmoid", True):
        return None
    _reduction(options, context, "mean", "none")
    return FocalLoss(gamma=options.take("gamma", 2.0), alpha=options.take("alpha", 0.5), **shared)


def _lovasz(options: Options, shared: dict[str, Any], context: Context) -> LovaszLoss | None:
    # The hinge takes one channel, and the models have one per class.
    if options.expect("loss_type", "multi_class", "binary") == "binary":
        return None
    per_image = bool(options.take("per_image", False))
    options.expect("reduction", "mean", "none")  # the same, for one number an image or for all
    return LovaszLoss(classes=options.take("classes", "present"), per_image=per_image, **shared)


def _ohem_cross_entropy(options: Options, shared: dict[str, Any], context: Context) -> CrossEntropyLoss:
    """1.x's own hard example mining: the mean over the pixels that it keeps, whose least number is of the batch."""
    options.ignore("ignore_label")  # of the two ignored labels, the head's is the one that counts
    ohem = Ohem(
        threshold=options.take("thres", 0.7), min_kept=max(1, options.take("min_kept", 100_000)), per_batch=True
    )
    return CrossEntropyLoss(average="kept", ohem=ohem, **shared)


_TRANSLATE = {
    "CrossEntropyLoss": _cross_entropy,
    "DiceLoss": _dice,
    "FocalLoss": _focal,
    "LovaszLoss": _lovasz,
    "OhemCrossEntropy": _ohem_cross_entropy,
}

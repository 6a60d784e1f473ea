"""Losses built from plain data, the dicts in configs and recipes."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from segzoo.errors import SegZooError
from segzoo.losses.base import Loss
from segzoo.losses.boundary import BoundaryLoss
from segzoo.losses.cross_entropy import CrossEntropyLoss
from segzoo.losses.dice import DiceLoss
from segzoo.losses.focal import FocalLoss
from segzoo.losses.focal_mask_classification import FocalMaskClassificationLoss
from segzoo.losses.lovasz import LovaszLoss
from segzoo.losses.mask_classification import MaskClassificationLoss

_KINDS = (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    FocalMaskClassificationLoss,
    LovaszLoss,
    MaskClassificationLoss,
)
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in _KINDS}


def build_loss(loss: Loss | Mapping[str, Any]) -> Loss:
    """Build a loss from a dict such as ``{"type": "cross_entropy", "weight": 0.4}``; a loss is returned unchanged.

    Raises:
        SegZooError: the type or an option is unknown (the message names the nearest), or an option's value cannot be
            used.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, Mapping):
        raise SegZooError(f"a loss is a dict with a 'type', such as {{'type': 'cross_entropy'}}; got {loss!r:.80}")
    options = dict(loss)
    kind = options.pop("type", None)
    if kind not in LOSSES:
        raise SegZooError(f"loss type {kind!r} is unknown{_hint(kind, LOSSES)}; there are {', '.join(sorted(LOSSES))}")
    known = [field.name for field in fields(LOSSES[kind])]
    for option in options:
        if option not in known:
            raise SegZooError(
                f"loss {kind!r} has no option {option!r}{_hint(option, known)}; it has {', '.join(known)}"
            )
    return LOSSES[kind](**options)


def _hint(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

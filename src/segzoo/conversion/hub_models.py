"""Models that their publishers have on the Hub, for the refusal of an original whose types have no rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from segzoo.conversion.errors import UnknownTypeError

# Types of the backbone and of the decode head, without packages -> names on the Hub, which transformers loads.
_PUBLISHED = (
    (
        r"D2SwinTransformer",
        r"Mask2FormerHead",
        "facebook/mask2former-swin-tiny-ade-semantic, facebook/mask2former-swin-small-ade-semantic, "
        "facebook/mask2former-swin-base-ade-semantic, facebook/mask2former-swin-large-ade-semantic, "
        "facebook/mask2former-swin-large-cityscapes-semantic",
    ),
    (
        r".*",
        r"MaskFormerHead",
        "facebook/maskformer-swin-tiny-ade, facebook/maskformer-swin-base-ade, facebook/maskformer-swin-large-ade",
    ),
    (
        r"BEiT",
        r"UPerHead",
        "microsoft/beit-base-finetuned-ade-640-640, microsoft/beit-large-finetuned-ade-640-640",
    ),
    (r".*", r"DPTHead", "Intel/dpt-large-ade"),
)


@contextmanager
def hub_models_named(model: Mapping[str, Any]) -> Iterator[None]:
    """Adds to the error of a type without a rule what its publishers have on the Hub.

    Args:
        model: the model's dict of the original config.

    Raises:
        UnknownTypeError: the block raised it.
    """
    try:
        yield
    except UnknownTypeError as error:
        names = hub_models(model)
        if names is None:
            raise
        raise UnknownTypeError(f"{error}; on the Hub its publisher has {names}, which transformers loads") from None


def hub_models(model: Mapping[str, Any]) -> str | None:
    """Names on the Hub of an original's architecture, separated by commas; None where none is known."""
    backbone, head = _last_name(model.get("backbone")), _last_name(model.get("decode_head"))
    for backbones, heads, names in _PUBLISHED:
        if re.fullmatch(backbones, backbone) and re.fullmatch(heads, head):
            return names
    return None


def _last_name(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""

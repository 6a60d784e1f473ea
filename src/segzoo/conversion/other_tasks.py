"""Configs of the mmsegmentation family that are not of semantic segmentation of one image: what they are, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.original_config import OriginalConfig

# What each is by the names of its classes; the first that fits is said.
_BY_TYPE = (
    (
        r".*(DualInput|Siam|ChangeDet|MultipleRSImage|MultiImg).*|DIEncoderDecoder",
        "compares two images (change detection)",
    ),
    (
        r".*(Multimodal|DenseCLIP|OpenVocab|TextEncoder).*|CLIPTextEncoder|SideAdapterCLIPHead",
        "reads text beside the image",
    ),
    (r".*Depth(?!wise).*", "estimates depth"),
)
_TEXT_PARTS = ("text_encoder", "text_head", "context_decoder")
_DETECTOR_PARTS = ("rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head", "query_head")


def refuse_other_tasks(original: OriginalConfig) -> None:
    """Raises an error if a config is of another task.

    Raises:
        ConversionError: it is one of detection, classification, depth, two images, or text; the message says which
            and names the type.
    """
    model = original.model if isinstance(original.model, Mapping) else {}
    kind = model.get("type")
    if any(part in model for part in _DETECTOR_PARTS):
        _refuse(f"this is a detection checkpoint (model type {kind!r})")
    if "decode_head" not in model and "head" in model:
        _refuse(f"this is a classification checkpoint (model type {kind!r})")
    for part in _TEXT_PARTS:
        if model.get(part):
            _refuse(f"this is a model that reads text beside the image (model.{part})")
    for place, name in _types(original):
        for pattern, task in _BY_TYPE:
            if re.fullmatch(pattern, name.rpartition(".")[2]):
                _refuse(f"this is a model that {task}: {place} has the type {name!r}")


def _refuse(what: str) -> None:
    raise ConversionError(f"{what}; only semantic-segmentation models of one image can be converted")


def _types(original: OriginalConfig) -> Iterator[tuple[str, str]]:
    """The types that tell a task, with their places: of the model, its parts, the preprocessor, and loaders."""
    places: list[tuple[str, Any]] = [("model", original.model)]
    if isinstance(original.model, Mapping):
        places += [(f"model.{part}", original.model.get(part)) for part in ("backbone", "decode_head")]
    places.append(("data_preprocessor", original.preprocessor))
    places += [(f"{original.pipeline_place}[{i}]", step) for i, step in enumerate(original.test_pipeline or ())]
    for place, part in places:
        if isinstance(part, Mapping) and isinstance(part.get("type"), str):
            yield place, part["type"]

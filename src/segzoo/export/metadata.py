"""The metadata of an exported file, for people who run it without segzoo."""

import json
from typing import Any

import torch
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from segzoo import __version__
from segzoo.configuration_segzoo import SegZooConfig, class_names
from segzoo.export.exported_model import ExportedModel
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.images.resizing import pads_to_multiple


def describe(
    exported: ExportedModel,
    processor: BaseImageProcessor | None = None,
    *,
    size: tuple[int, int] | None = None,
    least_side: int | None = None,
    name: str | None = None,
) -> dict[str, str]:
    """The metadata of a file, as names and texts; lists and settings are JSON.

    Args:
        exported: the module that the file computes.
        processor: the model's image processor; its steps become part of the metadata, or the settings of one of
            transformers.
        size: (height, width) of a fixed input; None: any size.
        least_side: from which side on, in pixels, the file takes pictures of any size; None is not said.
        name: name of the model.
    """
    config = exported.model.config
    names = class_names(config)
    corners = "true" if exported.align_corners else "false"
    if exported.labels:
        output = "int64 (batch, height, width), the class id of every pixel of the input"
    else:
        output = (
            f"float32 (batch, {len(names)}, rows, columns), scores before softmax; resize them to the picture "
            f"(bilinear, align_corners={corners}), then take the largest"
        )
    metadata = {
        "task": "semantic-segmentation",
        "producer": f"segzoo {__version__}, torch {torch.__version__}",
        "class_names": json.dumps(names, ensure_ascii=False),
        "ignore_index": str(getattr(config, "semantic_loss_ignore_index", 255)),
        "input": "uint8 (batch, height, width, 3), RGB"
        if exported.uint8
        else "float32 (batch, channels, height, width)",
        "output": output,
    }
    if name is not None:
        metadata["model"] = name
    if getattr(config, "palette", None) is not None:
        metadata["palette"] = json.dumps(config.palette)
    if getattr(config, "window_size", None) is not None and isinstance(config, SegZooConfig):
        metadata["windows"] = json.dumps({"size": config.window_size, "stride": config.window_stride})
    if size is not None:
        metadata["input_size"] = json.dumps(list(size))
    if least_side is not None:
        metadata["least_side"] = str(least_side)
    if isinstance(processor, SegZooImageProcessor):
        metadata["preprocessing"] = json.dumps(_preprocessing(processor, exported))
    elif processor is not None:
        metadata["image_processor"] = processor.to_json_string()  # of transformers, which knows its steps
    return metadata


def _preprocessing(processor: SegZooImageProcessor, exported: ExportedModel) -> dict[str, Any]:
    """The steps that have to be done before running the file, in their order."""
    steps: dict[str, Any] = {}
    if processor.do_resize or _resizes_to_multiple(processor):
        steps["resize"] = _resizing(processor)
    if not exported.uint8:
        steps["channel_order"] = processor.channel_order
        if processor.do_rescale:
            steps["rescale_factor"] = processor.rescale_factor
        if processor.do_normalize:
            steps["mean"], steps["std"] = processor.image_mean, processor.image_std
    if processor.do_pad and (padding := _padding(processor)):
        value = _raw_colour(processor.pad_value, exported) if exported.uint8 else processor.pad_value
        steps["pad"] = {"sides": "right and bottom", **padding, "value": value}
    return steps


def _resizing(processor: SegZooImageProcessor) -> dict[str, Any]:
    size = dict(processor.size) if processor.do_resize else {}  # else the picture's own
    resize: dict[str, Any] = {side: value for side, value in size.items() if value is not None}
    if resize and "height" not in resize:
        resize["rounding"] = processor.rounding
    resize["filter"] = PILImageResampling(processor.resample).name.lower()
    if resize["filter"] != "nearest":
        resize["filter"] += ", antialiased" if processor.antialias else ", not antialiased"
    if _resizes_to_multiple(processor):
        resize |= {"multiple_of": processor.size_multiple, "how": processor.size_multiple_mode}
    return resize


def _resizes_to_multiple(processor: SegZooImageProcessor) -> bool:
    return processor.size_multiple is not None and not pads_to_multiple(processor.size_multiple_mode)


def _padding(processor: SegZooImageProcessor) -> dict[str, Any]:
    """The sizes to which a single picture is padded; empty if it is not padded."""
    padding: dict[str, Any] = {}
    if processor.pad_size is not None:
        padding["at_least"] = {side: value for side, value in dict(processor.pad_size).items() if value is not None}
    if processor.size_multiple is not None and pads_to_multiple(processor.size_multiple_mode):
        padding["multiple_of"] = processor.size_multiple
    return padding


def _raw_colour(value: Any, exported: ExportedModel) -> list[int]:
    """The RGB colour of 0..255 that the file normalises to the values closest to ``value``.

    Args:
        value: a normalised value, or one for each channel in the model's order.
        exported: a module that normalises (``uint8``).
    """
    raw = (torch.as_tensor(value, dtype=torch.float32).expand(3) - exported.shift.view(3)) / exported.scale.view(3)
    raw = raw.round().clamp(0, 255).int()
    return (raw.flip(0) if exported.bgr else raw).tolist()

"""What an exported file says of itself, for people who run it without segzoo."""

import json

import torch


def describe(exported, processor=None, *, size=None, name: str | None = None) -> dict[str, str]:
    """The metadata of a file: names and values are text; those of lists and settings are JSON.

    Args:
        exported: the `segzoo.export.ExportedModel` that the file computes.
        processor: the model's image processor.
        size: (height, width) of a fixed input.
        name: what the model is called.
    """
    from segzoo import __version__

    config = exported.model.config
    names = [config.id2label[i] for i in range(config.num_labels)]
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
        "ignore_index": str(config.semantic_loss_ignore_index),
        "input": "uint8 (batch, height, width, 3), RGB"
        if exported.uint8
        else "float32 (batch, channels, height, width)",
        "output": output,
    }
    if name is not None:
        metadata["model"] = name
    if config.palette is not None:
        metadata["palette"] = json.dumps(config.palette)
    if config.window_size is not None:
        metadata["windows"] = json.dumps({"size": config.window_size, "stride": config.window_stride})
    if size is not None:
        metadata["input_size"] = json.dumps(list(size))
    if processor is not None:
        metadata["preprocessing"] = json.dumps(_preprocessing(processor, exported.uint8))
    return metadata


def _preprocessing(processor, uint8: bool) -> dict:
    """The steps that are left to whoever runs the file, in their order."""
    steps = {}
    if processor.do_resize:
        steps["resize"] = {
            **{side: value for side, value in dict(processor.size).items() if value is not None},
            "filter": "bilinear, antialiased" if processor.antialias else "bilinear, not antialiased",
        }
        if processor.size_multiple is not None:
            steps["resize"] |= {"multiple_of": processor.size_multiple, "how": processor.size_multiple_mode}
    if not uint8:
        steps["channel_order"] = processor.channel_order
        if processor.do_rescale:
            steps["rescale_factor"] = processor.rescale_factor
        if processor.do_normalize:
            steps["mean"], steps["std"] = processor.image_mean, processor.image_std
    if processor.pad_size is not None:
        steps["pad_to_at_least"] = {k: v for k, v in dict(processor.pad_size).items() if v is not None}
        steps["pad_value"] = processor.pad_value
    return steps

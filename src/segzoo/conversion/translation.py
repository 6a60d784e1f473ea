"""The translation of a config: our config, the processor's settings, and the names of each component's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from segzoo.configuration_segzoo import SegZooConfig
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.labels import OriginalClasses
from segzoo.images.resizing import multiple_settings


@dataclass(frozen=True)
class ComponentKeys:
    """The key table of one component, and the component's places in both models.

    Args:
        original_prefix: prefix of its keys in the original state dict, such as "decode_head.".
        native_prefix: prefix of its keys in our state dict, such as "decode_heads.0.".
        table: the renaming of what follows the prefix.
        original_type: name of the original class, for reports.
        config: our config of the component.
    """

    original_prefix: str
    native_prefix: str
    table: KeyTable
    original_type: str
    config: PreTrainedConfig

    @property
    def place(self) -> str:
        """The component's place in the original config, such as "model.decode_head"."""
        return "model." + self.original_prefix.rstrip(".")


@dataclass(frozen=True)
class Translation:
    """Everything that an original config says about a converted model.

    Args:
        config: the model's config, with class names and palette.
        processor: keyword arguments of SegZooImageProcessor.
        classes: class names, colours and data set, and where they come from.
        components: key tables of the components, in the order of the model.
        notes: remarks for the user about what was not carried over.
    """

    config: SegZooConfig
    processor: dict[str, Any]
    classes: OriginalClasses
    components: list[ComponentKeys]
    notes: list[str]


def assemble(
    components: Sequence[ComponentKeys],
    classes: OriginalClasses,
    *,
    processor: dict[str, Any],
    notes: Sequence[str],
    ignore_index: int = 255,
    window_size: list[int] | None = None,
    window_stride: list[int] | None = None,
) -> Translation:
    """Assembles the translation of a whole model from its translated parts.

    Args:
        components: the components in the order of the model; their native prefixes tell what each is.
        classes: class names and colours of the model.
        processor: keyword arguments of SegZooImageProcessor about the preparation of images; those that follow from
            the model are added.
        notes: remarks for the user so far.
        ignore_index: label id that does not count.
        window_size, window_stride: (height, width), in pixels, of sliding windows and of the step between them; None
            for whole images.

    Raises:
        SegZooError: the parts do not fit each other.
    """
    places: dict[str, list[PreTrainedConfig]] = {"backbone": [], "neck": [], "decode_heads": [], "auxiliary_heads": []}
    for component in components:
        places[component.native_prefix.partition(".")[0]].append(component.config)
    decode_heads = places["decode_heads"]
    notes = list(notes)
    if classes.names is None:
        notes.append("classes: no names are known; they are called LABEL_0, LABEL_1, ... (id2label in config.json)")
    names = classes.names or [f"LABEL_{i}" for i in range(decode_heads[-1].num_labels)]
    config = SegZooConfig(
        backbone_config=places["backbone"][0],
        neck_config=next(iter(places["neck"]), None),
        decode_head_configs=decode_heads,
        auxiliary_head_configs=places["auxiliary_heads"],
        semantic_loss_ignore_index=ignore_index,
        window_size=window_size,
        window_stride=window_stride,
        palette=classes.palette,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    processor = processor | {
        "do_reduce_labels": classes.reduce_labels,
        "ignore_index": ignore_index,
        "align_corners": decode_heads[-1].align_corners,
        "window_size": window_size,
        "window_stride": window_stride,
    }
    if padding := multiple_settings(config.size_multiple, processor.get("size_multiple")):
        processor |= padding
        notes.append(
            f"{components[0].place}: its images must have sides that are multiples of {config.size_multiple}; others, which the "
            "original refuses, are padded at the right and the bottom, and the label map is cut back to the image"
        )
    return Translation(config, processor, classes, list(components), notes)

"""What a conversion would give, without weights and without writing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segzoo import zoo
from segzoo.conversion.bases import load_config
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.labels import GIVEN_NAMES
from segzoo.conversion.plan import Plan, build_translated
from segzoo.conversion.translate import translate_config
from segzoo.conversion.translation import ComponentKeys
from segzoo.conversion.weights import match_weights
from segzoo.text import MOST_IN_NAME, line_text, shorten


@dataclass(frozen=True)
class ConversionPreview:
    """What an original would become.

    Args:
        config_source: where the original config comes from, in words.
        components: original class name and our model type of each component, in the order of the model.
        num_labels: number of classes; None for a backbone.
        class_names: their names, or None where they are not known.
        labels_source: where the names come from, in words; empty where they are not known.
        parameters: number of weights, without buffers, with auxiliary heads.
        notes: what would not be carried over, and what would be assumed.
        weights_checked: whether the weights were read too, and fit.
    """

    config_source: str
    components: list[tuple[str, str]]
    num_labels: int | None
    class_names: list[str] | None
    labels_source: str
    parameters: int
    notes: list[str]
    weights_checked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The preview as plain values for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """The preview in lines for people."""
        parts = ", ".join(f"{original} -> {ours}" for original, ours in self.components)
        lines = [f"converts: {parts}"]
        if self.num_labels is not None:
            names = self.class_names or []
            shown = ", ".join(shorten(name, MOST_IN_NAME) for name in names[:5]) + (", ..." if len(names) > 5 else "")
            known = f" ({shown}; from {self.labels_source})" if names else " (no names known)"
            lines.append(f"classes: {self.num_labels}{known}")
        lines.append(f"weights: {self.parameters:,}" + (", all found in the file" if self.weights_checked else ""))
        lines.append(f"config: {self.config_source}")
        return "\n".join(map(line_text, [*lines, *(f"note: {note}" for note in self.notes)]))


def describe_conversion(
    config: str | Path | Mapping[str, Any], *, class_names: list[str] | None = None
) -> ConversionPreview:
    """Says what a checkpoint with this training config would become; the model is built without memory for weights.

    >>> preview = describe_conversion("fcn_r50-d8_512x1024_40k_cityscapes")
    >>> preview.num_labels, preview.components[0]
    (19, ('ResNetV1c', 'segzoo_resnet'))

    Args:
        config: the original training config: its file (.py, or .yaml for MIT's models), its values, or the name of a
            released checkpoint.
        class_names: names of the classes, in the order of their ids, before those of the config.

    Returns:
        the description; that there is one means that the config converts.

    Raises:
        ConversionError: the config does not convert; the message says why.
        SegZooError: there is neither such a file nor a released checkpoint of this name.
    """
    if isinstance(config, Mapping):
        values, source = config, "the values given"
    elif isinstance(config, str) and not Path(config).exists() and (row := zoo.lookup(config)) is not None:
        values, source = zoo.original_config(row.name), f"the zoo ({row.name})"
        if values is None:
            raise ConversionError(f"{row.name}: the zoo does not have its config")
    else:
        values, source = load_config(config), f"the file {config}"
    translation = translate_config(values, class_names=class_names, names_source=GIVEN_NAMES)
    model = build_translated(translation)
    return ConversionPreview(
        config_source=source,
        components=_types(translation.components),
        num_labels=translation.config.num_labels,
        class_names=translation.classes.names,
        labels_source=translation.classes.source,
        parameters=sum(p.numel() for p in model.parameters()),
        notes=list(translation.notes),
    )


def describe_plan(plan: Plan) -> ConversionPreview:
    """Says what a checkpoint would become that has been read, and compares its weights with the model.

    Raises:
        ConversionError: the weights do not fit the config; every missing, unexpected and wrong key is listed.
    """
    _, match = match_weights(plan.state, plan.components, plan.model.state_dict())
    match.raise_for_problems(plan.original.title, own_config=plan.own_config)
    config = plan.model.config
    known = bool(plan.labels_source)
    return ConversionPreview(
        config_source=plan.config_source,
        components=_types(plan.components),
        num_labels=None if plan.processor is None else config.num_labels,
        class_names=[config.id2label[i] for i in range(config.num_labels)] if known else None,
        labels_source=plan.labels_source,
        parameters=sum(p.numel() for p in plan.model.parameters()),
        notes=list(plan.notes),
        weights_checked=True,
    )


def _types(components: list[ComponentKeys]) -> list[tuple[str, str]]:
    return [(component.original_type, component.config.model_type) for component in components]

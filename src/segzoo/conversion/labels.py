"""Which class each output channel stands for: names and colours, from the checkpoint, its config, or the data set."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.original_config import OriginalDataset
from segzoo.data.facts import DatasetFacts, facts_for_original_type
from segzoo.images.drawing import default_palette

GIVEN_NAMES = "the caller"
"""Where names come from that the user gives."""
BACKGROUND = "background"  # name of class 0 where the original had one class and no name for the rest


@dataclass(frozen=True)
class OriginalClasses:
    """Names and colours of a checkpoint's classes, and where they come from.

    Args:
        names: one name per class, or None where they are not known.
        palette: one [red, green, blue], each 0..255, per class, or None.
        source: where the names come from, in words.
        dataset: facts of the data set that it was trained on, or None where that is not a known one.
        reduce_labels: whether label files hold 0 for "no class" and 1..n for the classes.
    """

    names: list[str] | None
    palette: list[list[int]] | None
    source: str
    dataset: DatasetFacts | None
    reduce_labels: bool


def find_classes(
    dataset: OriginalDataset,
    num_labels: int,
    *,
    one_channel: int | None = None,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    names_source: str = "the checkpoint",
) -> OriginalClasses:
    """Finds names and colours of a model's classes: the checkpoint's, else the config's, else those of its data set.

    Args:
        dataset: the data set of the original config.
        num_labels: number of classes of the model.
        one_channel: number of classes that an original with one output channel named; None for all others. Where it
            named one, or the name of one, class 0 is the background here, and label files hold 0 for it.
        class_names, palette: names and colours that come before those of the config: the checkpoint's, or None.
        names_source: where they come from, in words.

    Raises:
        ConversionError: the checkpoint, the caller or the config names another number of classes than the model has.
    """
    facts, reduce_labels = None, dataset.reduce_labels
    if dataset.type:
        facts = facts_for_original_type(dataset.type, reduce_labels=reduce_labels, num_labels=num_labels)
    if reduce_labels is None:  # the class of the data set decides, also where the model has been given other classes
        known = facts or (facts_for_original_type(dataset.type) if dataset.type else None)
        reduce_labels = bool(known and known.reduce_labels)

    if dataset.relabelled and names_source != GIVEN_NAMES:
        class_names = palette = None
    options, metainfo = dataset.options, dataset.metainfo
    candidates = [
        (class_names, palette, names_source),
        (options.get("classes"), options.get("palette"), f"{dataset.where} of the config"),
        (metainfo.get("classes"), metainfo.get("palette"), f"the metainfo of {dataset.where or 'the config'}"),
    ]
    if facts is not None:
        candidates.append((facts.classes, facts.palette, f"the data set {facts.title}"))
    names, colors, source = next((c for c in candidates if are_names(c[0])), (None, None, ""))
    if one_channel is not None:
        reduce_labels = reduce_labels and one_channel != 1
        if names is not None and len(names) == 1:
            reduce_labels = False
            names, facts = [BACKGROUND, *names], None
            colors = [[0, 0, 0], *colors] if colors is not None and len(colors) == 1 else None
    whole = facts_for_original_type(dataset.type, reduce_labels=dataset.reduce_labels) if dataset.type else None
    if (
        whole is not None
        and whole.num_labels < num_labels
        and plain_names(names or whole.classes) == plain_names(whole.classes)
    ):
        # A head with more outputs than its data set has classes: the first are these, the others were never right.
        # Where label files hold 0 for "no class", and the original does not leave it out, it is the first one.
        has_background = whole.reduce_labels and not reduce_labels
        colors = colors if colors is not None and len(colors) == whole.num_labels else whole.palette
        colors = [*([[0, 0, 0]] if has_background else []), *colors]
        colors += default_palette(num_labels)[len(colors) :]
        names = [*([BACKGROUND] if has_background else []), *whole.classes]
        names += [f"LABEL_{i}" for i in range(len(names), num_labels)]
        source = source or f"the data set {whole.title}"
    if names is not None and len(names) != num_labels:
        fix = "the config does not belong to this checkpoint, or its num_classes is wrong, or --classes names those of the model"
        if source == GIVEN_NAMES:
            fix = "give one name for each class"
        raise ConversionError(
            f"class counts disagree: {source} names {len(names)} classes, the model of the config has {num_labels}; {fix}"
        )
    if facts is not None and names is not None and plain_names(names) != plain_names(facts.classes):
        facts = None  # a user has trained the data set class on other classes
    if colors is not None and len(colors) != num_labels:
        colors = None
    if colors is None and facts is not None:
        colors = facts.palette
    return OriginalClasses(
        names=None if names is None else unique_names(names),
        palette=None if colors is None else [[int(value) for value in color] for color in colors],
        source=source,
        dataset=facts if dataset.trained_on in (None, dataset.type) else _trained_on(dataset, num_labels),
        reduce_labels=reduce_labels,
    )


def _trained_on(dataset: OriginalDataset, num_labels: int) -> DatasetFacts | None:
    return facts_for_original_type(dataset.trained_on or "", num_labels=num_labels)


def read_class_names(text: str) -> list[str]:
    """The class names that a user gives.

    Args:
        text: names separated by commas, or a file: JSON (a list, or ``id2label`` with or without the rest of a
            config.json) or text with one name in each line.

    Raises:
        ConversionError: the file cannot be read, or has no names, or its ids are not 0, 1, 2, ...
    """
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8-sig") if _is_file(path) else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{text}: the class names cannot be read ({error}); give a text file or JSON") from error
    if content is None:
        if path.suffix.lower() in (".json", ".txt"):
            raise ConversionError(f"{text}: there is no such file of class names")
        names: Any = [name.strip() for name in text.split(",")]
    elif path.suffix.lower() == ".json":
        names = _names_in_json(text, content)
    else:
        names = [line.strip() for line in content.splitlines() if line.strip()]
    if not are_names(names) or not all(names):
        raise ConversionError(f"{text}: expected class names, each a text that is not empty")
    return names


def _is_file(path: Path) -> bool:
    """Whether a text is the path of a file; the names of many classes are longer than any path may be."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _names_in_json(path: str, content: str) -> Any:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: the file is not JSON ({error})") from error
    if isinstance(values, dict):
        values = values.get("id2label", values)
    if not isinstance(values, dict):
        return values
    if set(values) != {str(i) for i in range(len(values))}:
        raise ConversionError(f"{path}: id2label must have the ids 0, 1, 2, ... of the classes, each once")
    return [values[str(i)] for i in range(len(values))]


def are_names(value: Any) -> bool:
    """Whether a value is a list of texts, and not empty."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(name, str) for name in value)


def plain_names(names: Sequence[str]) -> list[str]:
    """The names for comparisons: their letters and digits, in lower case."""
    return ["".join(c for c in name.lower() if c.isalnum()) for name in names]


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number after repeated ones, because ``label2id`` needs distinct names."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        unique.append(name if count == 1 else f"{name} ({count})")
    return unique

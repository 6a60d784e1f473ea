"""An evaluation on a known data set, as its published scores were measured: part, pictures, classes, size, metric."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo import zoo
from segzoo.data.classes import plain_name
from segzoo.data.data_source import DataSource
from segzoo.data.facts import DatasetFacts
from segzoo.data.loading import SPLIT_NAMES, detect_facts, load_id2label, load_source
from segzoo.data.trees import rows_of_tree
from segzoo.errors import SegZooError
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.inference.settings import fixed_input_size
from segzoo.text import MOST_IN_NAME, line_text, shorten

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import BaseImageProcessor

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_MOST_LINES = 40
_NO_NAME = re.compile(r"LABEL_\d+")


def load_known_split(source: DataSource, facts: DatasetFacts, split: str | None = None) -> tuple[str, Dataset]:
    """The pictures and masks of one part of a known data set.

    They are read from the folder that `segzoo data prepare` wrote, from the layout in which segzoo reads the released
    data set, or from mmsegmentation's tree of it.

    Args:
        source: where the data come from.
        facts: the data set.
        split: name of the part; None: the one that published scores are measured on.

    Returns:
        the name of the part and its table.

    Raises:
        SegZooError: there are no such data, no such part, or they are those of another data set.
    """
    wanted = facts.test_split if split is None else SPLIT_NAMES.get(split.casefold(), split)
    if (own := source.path / "id2label.json").is_file():
        names = load_id2label(source.name) or {}
        _compare(
            [names[index] for index in sorted(names)],
            facts,
            str(own),
            "take the data set that these are, or if the file is wrong, mend it",
        )
    other = _recognised(source)
    if other is None or other.splits.get(wanted) != facts.splits.get(wanted):  # Pascal Context lies in VOC's folders
        rows = rows_of_tree(source.path, facts, wanted)
        if rows is not None:
            return wanted, rows
        if other is not None:
            raise SegZooError(
                f"--dataset {facts.name}: {source} holds {other.title}; take --dataset {other.name}, or give the folder of "
                f"{facts.title}"
            )
    splits = load_source(source)
    if split is None and wanted not in splits:
        wanted = next((name for name in ("validation", "test") if name in splits), wanted)
    name = split if split in splits else wanted
    if name not in splits:
        raise SegZooError(f"--split {split or wanted}: {source} has no such split; it has {', '.join(splits)}")
    return name, splits[name]


def _recognised(source: DataSource) -> DatasetFacts | None:
    """As `detect_facts`; None too where a part of the data set that the folder looks like is missing."""
    try:
        return detect_facts(source.name)
    except SegZooError:
        return None


def num_named(names: Sequence[str]) -> int:
    """How many of a model's classes have names, up to the last one that has."""
    named = [index for index, name in enumerate(names) if not _NO_NAME.fullmatch(name)]
    return named[-1] + 1 if named else 0


def check_class_order(model: Sequence[str], facts: DatasetFacts, *, model_name: str = "the model") -> None:
    """Check that a model's classes are those of a data set, in its order.

    Case, and what stands between the words of a name, make no other class. Outputs without a name (``LABEL_7``) beyond
    the data set's classes are no classes: some released models have such.

    Args:
        model: names of the model's classes, by id.
        facts: the data set.
        model_name: the model's name in messages.

    Raises:
        SegZooError: a class is another one; the message shows both lists, or the part of them that differs.

    Warns:
        UserWarning: no class of the model has a name.
    """
    data = facts.classes
    if num_named(model) == 0 and len(model) == len(data):
        warnings.warn(f"the classes of {model_name} have no names, so their order was not compared", stacklevel=2)
        return
    named = model[: max(num_named(model), min(len(model), len(data)))]
    fix = f"--classes {facts.name} in place of --dataset"
    fix = f"take a model of this data set, or if they are the same classes under other names, {fix}"
    _compare(named, facts, model_name, way_to_choose(named, data) or fix)


def way_to_choose(model: Sequence[str], data: Sequence[str]) -> str | None:
    """How to score a model of a choice of the data's classes, or of all in another order; None for another model.

    Args:
        model, data: names of the classes, by id.
    """
    wanted, known = (list(map(plain_name, names)) for names in (model, data))
    if wanted == known or len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
        return None
    return (
        "for a model of some of the data's classes, or of all in another order, write a YAML file with the model's classes, and under "
        "sources the data with their own classes and default: ignore; named in place of the data, it gives the masks the model's ids"
    )


def _compare(names: Sequence[str], facts: DatasetFacts, where: str, fix: str) -> None:
    """Raise an error with both lists, or the part of them that differs, if these are not the classes of the data set."""
    count = max(len(names), facts.num_labels)
    one, two = ([*classes, *["-"] * (count - len(classes))] for classes in (names, facts.classes))
    rows = list(zip(map(str, range(count)), one, two, strict=True))
    differing = [row for row in rows if plain_name(row[1]) != plain_name(row[2])]
    if not differing:
        return
    shown = rows if count <= _MOST_LINES // 2 else differing
    lines = [[shorten(line_text(cell), MOST_IN_NAME) for cell in row] for row in shown[:_MOST_LINES]]
    lines = [["id", line_text(where), facts.name], *lines]
    first, second = (max(len(row[column]) for row in lines) for column in (0, 1))
    table = [f"  {index:>{first}}  {own:{second}}  {known}" for index, own, known in lines]
    if len(shown) > _MOST_LINES:
        table.append(f"  ... and {len(shown) - _MOST_LINES} more")
    said = f"--dataset {facts.name}: {len(differing)} of {count} classes are others in {where}, and scores compare ids; {fix}:"
    raise SegZooError("\n".join([said, *table]))


def at_test_size(processor: BaseImageProcessor, facts: DatasetFacts, model: nn.Module) -> BaseImageProcessor:
    """The image processor that resizes pictures as the data set's are in tests.

    A model of the zoo keeps its own size where that is one at which the data set is tested; so its row's test is
    repeated.

    Args:
        processor: the model's image processor.
        facts: the data set.
        model: the model.

    Returns:
        the processor itself, or a copy with another size.

    Warns:
        UserWarning: the size is another than the processor's own, or should be and cannot.
    """
    if not facts.test_sizes:
        return processor
    own = dict(processor.size or {}) if getattr(processor, "do_resize", False) else {}
    if own.get("shortest_edge") and (own.get("longest_edge"), own["shortest_edge"]) in facts.test_sizes:
        return processor
    longer, shorter = facts.test_sizes[0]
    size = {"shortest_edge": shorter} | ({} if longer is None else {"longest_edge": longer})
    said = f"{facts.title} is tested on pictures of at most {longer}x{shorter} pixels"
    if fixed_input_size(model.config) is not None or not isinstance(processor, SegZooImageProcessor):
        warnings.warn(f"{said}, and this model's image processor keeps its own size", stacklevel=2)
        return processor
    warnings.warn(f"{said}, which is not the model's own size; --classes {facts.name} keeps that one", stacklevel=2)
    return SegZooImageProcessor.from_dict(processor.to_dict() | {"do_resize": True, "size": size})


def row_of_folder(folder: str, facts: DatasetFacts) -> zoo.ZooRow | None:
    """The released checkpoint of a data set that a model folder was converted from, by the title of its card.

    Args:
        folder: the model folder, or a name on the Hub.
        facts: the data set.

    Returns:
        the row; None where there is no card, or its title is not the name of a checkpoint of this data set.
    """
    card = Path(folder) / "README.md"
    try:
        title = _TITLE.search(card.read_text(encoding="utf-8") if card.is_file() else "")
    except (OSError, UnicodeDecodeError):
        return None
    row = None if title is None else zoo.lookup(title[1].replace("\\", "").strip())
    return row if row is not None and row.dataset in facts.zoo_names else None


def published_scores(row: zoo.ZooRow) -> str:
    """What was published for a released checkpoint, in a line. Dice is that of the last class, the vessels, alone."""
    named = (("mIoU", row.miou), ("mIoU on several scales", row.miou_ms), ("Dice of vessel", row.dice))
    scores = [f"{title} {value:.2f}" for title, value in named if value is not None]
    return f"published for {row.name}: {', '.join(scores) or 'no score'}"

"""The classes of a data set: names, colours and label rule, from a user, a file beside the data, or a model."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.data.facts import DATASETS, DatasetFacts
from segzoo.data.loading import detect_facts, load_id2label
from segzoo.data.mixture import is_mixture
from segzoo.data.palettes import read_palette
from segzoo.data.prepared import prepared_facts
from segzoo.errors import SegZooError
from segzoo.images.drawing import default_palette


@dataclass(frozen=True)
class ClassFacts:
    """The names and colours of the classes of a data set, and its label rule.

    Args:
        id2label: class name by id; ids are 0..n-1.
        palette: colours (red, green, blue), each 0..255, in the order of the ids.
        reduce_labels: masks hold 0 for "no class" and 1..n for the classes.
        source: where the names come from, for messages.
        dataset: title of the known data set that the data are by their manifest or layout, or None; equal classes alone do
            not tell.
    """

    id2label: dict[int, str]
    palette: list[list[int]]
    reduce_labels: bool = False
    source: str = ""
    dataset: str | None = None

    @property
    def names(self) -> list[str]:
        """The class names in the order of their ids."""
        return [self.id2label[index] for index in range(len(self.id2label))]

    def uncounted(self, ignore_index: int) -> str | None:
        """A sentence about classes that never count, as where there are more than 255; None if all count.

        They are the one whose id is ``ignore_index`` and, with ``reduce_labels``, the one that masks hold it for.
        """
        ids = {ignore_index, ignore_index - self.reduce_labels}
        names = [repr(self.id2label[index]) for index in sorted(ids) if index in self.id2label]
        if not names:
            return None
        verb = "do" if len(names) > 1 else "does"
        return f"ignore_index {ignore_index} is {' and '.join(names)}, which {verb} not count"


def find_classes(
    dataset_name: str | os.PathLike,
    *,
    classes: str | None = None,
    num_labels: int | None = None,
    model_config: Any = None,
    reduce_labels: bool | None = None,
    token: str | None = None,
) -> ClassFacts:
    """Find the classes of a data set: those that the arguments name, that come with the data, or else the model's.

    Args:
        dataset_name: the folder or Hub name of the data.
        classes: a name in `segzoo.data.DATASETS`, or a JSON file with an object of ids and names, or a list of names, or
            a palette (`segzoo.data.palettes.read_palette`), whose colours the classes then have too.
        num_labels: number of classes, if they have no names.
        model_config: config of a model that is to be fine-tuned, whose classes are used where nothing else names them.
        reduce_labels: whether masks hold 0 for "no class" and 1..n; None follows the facts of the data set, if it is
            named in ``classes`` or recognised (`segzoo.data.detect_facts`), and otherwise is False.
        token: Hub token.

    Raises:
        SegZooError: nothing names the classes, the ids are not 0..n-1, or ``reduce_labels`` contradicts the facts of
            the data set.
    """
    if is_mixture(dataset_name) and (classes is not None or num_labels is not None or reduce_labels is not None):
        raise SegZooError(
            f"{dataset_name} names the common classes and the label rule of each source itself; leave out --classes, --num_labels "
            "and --do_reduce_labels"
        )
    facts, colors = None, None
    if classes is not None and classes in DATASETS:
        facts = DATASETS[classes]
        names, source = facts.id2label, facts.title
    elif classes is not None:
        (names, colors), source = _read_names(Path(classes)), classes
    elif num_labels is not None:
        if num_labels < 1:
            raise SegZooError(f"--num_labels is {num_labels}; a model has at least one class")
        names, source = {index: f"class {index}" for index in range(num_labels)}, "--num_labels"
    elif (names := load_id2label(dataset_name, token=token)) is not None:
        source = str(dataset_name) if is_mixture(dataset_name) else f"id2label of {dataset_name}"
        facts = prepared_facts(dataset_name)
        if facts is None and not (Path(dataset_name).expanduser() / "id2label.json").is_file():
            facts = detect_facts(dataset_name)
        if facts is not None and facts.id2label != names:
            facts = None
        elif facts is not None:
            source = facts.title
    elif model_config is not None and model_config.id2label:
        names, source = {int(index): name for index, name in model_config.id2label.items()}, "the model"
    else:
        raise SegZooError(
            f"{dataset_name} does not say what its classes are called: put id2label.json beside it, or pass --classes with "
            f"a JSON file or one of {', '.join(sorted(DATASETS))}, or --num_labels"
        )
    if sorted(names) != list(range(len(names))):
        raise SegZooError(
            f"the classes of {source} have the ids {sorted(names)[:10]}...; ids must run from 0 to n - 1"
        )
    if facts is not None and reduce_labels is not None:
        _refuse_contradiction(facts, reduce_labels)
    names = {index: names[index] for index in range(len(names))}
    known = facts or next((d for d in DATASETS.values() if d.id2label == names), None)
    palette = [list(colour) for colour in known.palette] if known else default_palette(len(names))
    palette = palette if colors is None else colors
    if reduce_labels is None:
        reduce_labels = facts is not None and facts.reduce_labels
    title = facts.title if facts is not None and classes is None else None
    return ClassFacts(names, palette, reduce_labels, source, title)


def plain_name(name: str) -> str:
    """A class name for comparisons: case, and what stands between its words, make no other class."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _refuse_contradiction(facts: DatasetFacts, reduce_labels: bool) -> None:
    if reduce_labels == facts.reduce_labels:
        return
    rule = "0 for 'no class' and 1..n for the classes" if facts.reduce_labels else "0 for the first class"
    wrong = "--do_reduce_labels" if reduce_labels else "--no-do_reduce_labels"
    raise SegZooError(
        f"{wrong}: the masks of {facts.title} hold {rule}, so that every class would get the name of another; leave the "
        "flag out. If your copy's masks are stored otherwise, give the names with --classes FILE.json"
    )


def _read_names(file: Path) -> tuple[dict[int, str], list[list[int]] | None]:
    """Names by id, and of a palette the first colour of each class."""
    if not file.is_file():
        raise SegZooError(
            f"--classes {file}: is neither a file nor a known data set; known are {', '.join(sorted(DATASETS))}"
        )
    if file.suffix.lower() in (".csv", ".txt"):
        return _of_palette(file)
    try:
        loaded = json.loads(file.read_text(encoding="utf-8-sig"))
        entries = list(loaded.values()) if isinstance(loaded, dict) else loaded
        if any(isinstance(entry, dict | list) or str(entry).startswith("#") for entry in entries):
            return _of_palette(file)
        if isinstance(loaded, list):
            loaded = dict(enumerate(loaded))
        return {int(index): str(name) for index, name in loaded.items()}, None
    except (ValueError, AttributeError, TypeError) as error:
        raise SegZooError(f'{file} should be JSON such as {{"0": "sky", "1": "road"}}: {error}') from error


def _of_palette(file: Path) -> tuple[dict[int, str], list[list[int]]]:
    palette = read_palette(file)
    first: dict[int, list[int]] = {}
    for color, index in palette.colors.items():
        first.setdefault(index, list(color))
    return dict(enumerate(palette.names)), [first[index] for index in range(len(palette.names))]

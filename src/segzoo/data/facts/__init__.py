"""Facts about data sets that segmentation models are trained on: classes, display colours, label rules, origin, and
what repeats a published number: parts, files, metric, sizes of the test pictures.

Each data set has a JSON file that bears its name and is read on first use. Its entries are the fields of
`DatasetFacts`, with these differences: `classes` lists pairs of name and colour in the order of the ids, or names
another data set that has the same ones, and `encodings` lists names of `segzoo.data.label_encodings`.

Class orders and colours are those of the released checkpoints of the mmsegmentation family, so that an id in a
converted checkpoint means what it meant to its authors. The licence is only a hint: the data set's own page decides.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any, Literal

from segzoo.data.label_encodings import Color, LabelEncoding, label_encoding
from segzoo.errors import SegZooError

Metric = Literal["mean_iou", "mean_dice"]
TestSize = tuple[int | None, int]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One part of a data set, as the checkpoints of the zoo were trained or tested on it.

    Attributes:
        num_images: number of pictures; of tiles, if the released pictures are cut.
        cut_from: number of the released pictures that the tiles are cut from; None if they are used whole.
        images, masks: folders in the tree that mmsegmentation reads, with slashes; None: not published, or not in one
            folder.
        image_list: list of the part's pictures in that tree, if several parts share their folders.
    """

    num_images: int
    cut_from: int | None = None
    images: str | None = None
    masks: str | None = None
    image_list: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What a model, a loader or a model card needs to know about one data set.

    Attributes:
        name: short identifier, the key in `DATASETS`.
        title: name to display.
        classes: class names in id order, after the label rule has been applied.
        palette: one (red, green, blue) per class, each 0..255.
        reduce_labels: True when masks on disk hold 0 for "no class" and 1..N for the classes, so that training
            turns 0 into `ignore_index` and subtracts one from the rest.
        ignore_index: label id that never counts.
        encodings: other ways in which masks of the data set are written. Loading recognises them, decoding applies
            them.
        original_types: names of the mmsegmentation dataset classes whose checkpoints use these classes.
        hub_names: names of copies on the Hub whose masks follow this label rule.
        zoo_names: names of the data set in the rows of the zoo (`segzoo.zoo.ZooRow.dataset`).
        splits: the parts by name, "train", "validation" and "test".
        test_split: the part that published scores are measured on.
        image_suffix, mask_suffix: ends of the file names in the tree that mmsegmentation reads; what stands before
            them is the same in a picture and its mask.
        metric: name of the main score, as `segzoo.metrics.metrics_from_confusion` calls it.
        mean_over: the classes that the metric is the mean over, in words.
        test_sizes: upper bounds of (longer, shorter) side in pixels that pictures are resized to in tests, the ratio
            kept; None: no bound. The first is the usual one, the others are those of some rows of the zoo. Empty:
            pictures keep their size.
        licence: terms of the pictures, in a few words.
        url: home page of the data set.
        note: anything else that a user must know, or an empty string.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    reduce_labels: bool = False
    ignore_index: int = 255
    encodings: tuple[LabelEncoding, ...] = ()
    original_types: tuple[str, ...] = ()
    hub_names: tuple[str, ...] = ()
    zoo_names: tuple[str, ...] = ()
    splits: Mapping[str, SplitFacts] = field(default_factory=dict, hash=False)
    test_split: str = "validation"
    image_suffix: str = ""
    mask_suffix: str = ""
    metric: Metric = "mean_iou"
    mean_over: str = ""
    test_sizes: tuple[TestSize, ...] = ()
    licence: str = "see the data set's page"
    url: str = ""
    note: str = ""

    @property
    def num_labels(self) -> int:
        """Number of classes, without the ignored id."""
        return len(self.classes)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as in a model's config."""
        return dict(enumerate(self.classes))

    @property
    def label2id(self) -> dict[str, int]:
        """Class ids by name, as in a model's config."""
        return {name: index for index, name in enumerate(self.classes)}


class _Datasets(Mapping[str, DatasetFacts]):
    """Facts by name: first the data sets with classes of their own, then those that share another's."""

    def __init__(self) -> None:
        self._loaded: dict[str, DatasetFacts] = {}

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        """The contents of the files by name, in the order of iteration."""
        files = (file for file in resources.files(__name__).iterdir() if file.name.endswith(".json"))
        entries = {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}
        return dict(sorted(entries.items(), key=lambda item: (isinstance(item[1]["classes"], str), item[0])))

    def __getitem__(self, name: str) -> DatasetFacts:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> DatasetFacts:
        entry = self._entries[name]
        classes = entry["classes"]
        if isinstance(classes, str):
            classes = self._entries[classes]["classes"]
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        values["classes"] = tuple(label for label, _ in classes)
        values["palette"] = tuple(tuple(color) for _, color in classes)
        values["encodings"] = tuple(map(label_encoding, entry.get("encodings", ())))
        values["splits"] = {split: SplitFacts(**part) for split, part in entry.get("splits", {}).items()}
        values["test_sizes"] = tuple((longer, shorter) for longer, shorter in entry.get("test_sizes", ()))
        values.setdefault("mean_over", f"{len(classes)} classes")
        return DatasetFacts(name=name, **values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


DATASETS: Mapping[str, DatasetFacts] = _Datasets()
"""Facts by name. Of data sets with the same classes, the one that the classes are named after comes first."""


def color_map(num_labels: int) -> tuple[Color, ...]:
    """Colours for any number of classes: the bit-interleaved colour map of the Pascal VOC development kit.

    Args:
        num_labels: number of colours; all are distinct.

    Returns:
        colours (red, green, blue), each 0..255; that of class 0 is black.
    """
    colors = []
    for index in range(num_labels):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        colors.append((red, green, blue))
    return tuple(colors)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def dataset_facts(name: str) -> DatasetFacts:
    """The facts of a data set by its name; case, spaces, dashes and underscores do not matter.

    Raises:
        SegZooError: there is no such data set; the message lists the nearest names.
    """
    by_plain = {_plain(key): facts for key, facts in DATASETS.items()}
    found = by_plain.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(_plain(name), by_plain, n=3, cutoff=0.4) or sorted(by_plain)
        near = ", ".join(by_plain[key].name for key in near)
        raise SegZooError(f"No facts about a data set called {name!r}. Nearest: {near}.")
    return found


def facts_for_original_type(
    original_type: str, *, reduce_labels: bool | None = None, num_labels: int | None = None
) -> DatasetFacts | None:
    """The facts of the data set that a dataset class of mmsegmentation reads; None if it is not known or does not fit.

    Args:
        original_type: name of the class, such as "ADE20KDataset".
        reduce_labels: the config's `reduce_zero_label`, which distinguishes COCO-Stuff 10k from 164k. Where it is
            None, or fits none, the first data set whose number of classes fits is returned.
        num_labels: the model's number of classes; facts with another number do not fit. None fits all.
    """
    fitting = [
        f for f in DATASETS.values() if original_type in f.original_types and num_labels in (None, f.num_labels)
    ]
    exact = [f for f in fitting if reduce_labels in (None, f.reduce_labels)]
    return (exact or fitting or [None])[0]

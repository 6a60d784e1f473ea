"""Facts about data sets that segmentation models are trained on: classes, display colours, label rules, origin.

One JSON file for each data set, called as the data set and read when it is asked for. Its entries are the fields of
`DatasetFacts`, but that `classes` lists pairs of name and colour in the order of the ids, or names the data set whose
classes and colours they are; `encodings` are names of `segzoo.data.label_encodings`.

Class orders and colours are those of the released checkpoints of the mmsegmentation family, so that an id in a
converted checkpoint means what it meant to its authors. Licence words are a pointer only: the data set's own page
decides.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

from segzoo.data.label_encodings import Color, LabelEncoding, label_encoding
from segzoo.errors import SegZooError


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What a model, a loader or a model card needs to know about one data set.

    Attributes:
        name: Short identifier, the key in `DATASETS`.
        title: Name for people.
        classes: Class names in id order, after the label rule was applied.
        palette: One (red, green, blue) per class, each 0..255.
        reduce_labels: True when masks on disk hold 0 for "no class" and 1..N for the classes, so that training
            turns 0 into `ignore_index` and subtracts one from the rest.
        ignore_index: Label id that never counts.
        encodings: Other ways in which masks of the data set are written. Loading recognises them, decoding applies them.
        original_types: Names of the mmsegmentation dataset classes whose checkpoints use these classes.
        hub_names: Data sets on the Hub that hold it with masks as this label rule says.
        licence: Terms of the pictures, in a few words.
        url: Home page.
        note: Anything else that a user must know, or an empty string.
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
    licence: str = "see the data set's page"
    url: str = ""
    note: str = ""

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def id2label(self) -> dict[int, str]:
        """Class id -> class name."""
        return dict(enumerate(self.classes))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name -> class id."""
        return {name: index for index, name in enumerate(self.classes)}


class _Datasets(Mapping[str, DatasetFacts]):
    """The facts by name. First come, by name, those with classes of their own, then those that have another's."""

    def __init__(self) -> None:
        self._loaded: dict[str, DatasetFacts] = {}

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        """What is in the files, in the order of iteration."""
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
        return DatasetFacts(name=name, **values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


DATASETS: Mapping[str, DatasetFacts] = _Datasets()
"""Name -> facts. Of data sets with the same classes, the one that the classes are named after comes first."""


def color_map(num_labels: int) -> tuple[Color, ...]:
    """Colours for any number of classes: the bit-interleaved colour map of the Pascal VOC development kit.

    Args:
        num_labels: How many colours, at most 256 distinct ones exist; class 0 is black.
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
        SegZooError: No such data set; the message lists the nearest names.
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
    """The data set that a dataset class of mmsegmentation stands for; None when it is not known or does not fit.

    Args:
        original_type: Name of the class, such as "ADE20KDataset".
        reduce_labels: The config's `reduce_zero_label`, which tells COCO-Stuff 10k from 164k; None: not known, and
            then the first data set whose class count fits is returned.
        num_labels: The model's number of classes; facts with another number do not fit. None: not checked.
    """
    fitting = [
        f for f in DATASETS.values() if original_type in f.original_types and num_labels in (None, f.num_labels)
    ]
    exact = [f for f in fitting if reduce_labels in (None, f.reduce_labels)]
    return (exact or fitting or [None])[0]

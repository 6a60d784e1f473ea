"""What every format of annotations gives: pictures with something to draw, and what is wrong with them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PureWindowsPath
from typing import Protocol

import numpy as np

from segzoo.data.folders import Folder
from segzoo.data.pairing import IMAGE_EXTENSIONS, SPLIT_NAMES
from segzoo.errors import SegZooError

IGNORED = -1
"""In place of a class id: pixels that do not count."""

PROBLEMS = {
    "missing_picture": "picture that the annotations name, but that is not there",
    "ambiguous_picture": "picture whose name several files have",
    "twice": "picture that is annotated twice; the first one counts",
    "no_picture": "file of annotations without a picture",
    "not_listed": "annotated picture that data.yaml does not list",
    "unreadable_picture": "picture that cannot be read",
    "unreadable_file": "file of annotations that cannot be read",
    "size_differs": "picture of another size than its annotations say",
    "no_shape": "object without an outline (a box, a point or a line is no mask)",
    "few_points": "outline of fewer than 3 points",
    "outside": "outline that lies outside the picture altogether",
    "empty": "outline that covers no pixel",
    "broken_shape": "outline that cannot be drawn",
    "unknown_class": "object of a class that is not in the list of classes",
    "unknown_colour": "mask of colours that are not in the palette",
}
"""What is left out, by kind, as phrases that read well before a colon."""

NOTES = {
    "other_json": "JSON file of something else",
    "no_objects": "picture without any object",
    "overlap": "picture in which objects of two classes share pixels",
    "partly_outside": "outline that reaches beyond the picture",
}
"""What takes nothing from the masks, by kind."""

Report = Callable[[str, str], object]
"""Called with a kind of `PROBLEMS` or `NOTES`, and what is particular to the case."""


@dataclass(frozen=True)
class Annotated:
    """A picture with annotations.

    Attributes:
        picture: address of the picture.
        split: "train", "validation" or "test".
        stem: path of the pair in the folders that are written, without extension, with slashes.
        where: where the annotations stand, for messages.
        size: (width, height) in pixels that the annotations state; None: as the upright picture.
        content: the annotations, as the format's `draw` takes them.
    """

    picture: str
    split: str
    stem: str
    where: str
    size: tuple[int, int] | None = None
    content: object = None


@dataclass
class Collection:
    """All annotated pictures of a folder.

    Attributes:
        names: the class names that the annotations use, in their own order.
        pictures: the pictures.
        has_background: whether the first name already stands for all that is not annotated.
        meaning: what ids or colours in the annotations stand for, as JSON can hold it.
        problems: what was left out while reading, as kind and text.
    """

    names: list[str] = field(default_factory=list)
    pictures: list[Annotated] = field(default_factory=list)
    has_background: bool = False
    meaning: object = None
    problems: list[tuple[str, str]] = field(default_factory=list)

    def report(self, kind: str, text: str) -> None:
        """Note what is left out."""
        self.problems.append((kind, text))


class Format(Protocol):
    """A format of annotations."""

    def collect(self, folder: Folder) -> Collection:
        """List what a folder holds; SegZooError if it holds nothing of this format."""
        ...

    def draw(
        self, annotated: Annotated, size: tuple[int, int], ids: Mapping[str, int], fill: int, report: Report
    ) -> np.ndarray:
        """The mask of a picture.

        Args:
            annotated: the picture.
            size: (width, height) in pixels.
            ids: class ids by name, or `IGNORED`.
            fill: id of what is not annotated.
            report: told of all that cannot be drawn.

        Returns:
            int32 array (height, width) of class ids and `IGNORED`.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """An object that is ready to be painted: its class, and a boolean array (height, width)."""

    name: str
    mask: np.ndarray


def paint(
    objects: Iterable[Drawn], size: tuple[int, int], ids: Mapping[str, int], fill: int, report: Report, where: str
) -> np.ndarray:
    """Paint objects one over the other, the last one on top, into an int32 array (height, width)."""
    result = np.full(size[::-1], fill, dtype=np.int32)
    painted = np.zeros(size[::-1], dtype=bool)
    shared, count = 0, 0
    for drawn in objects:
        if drawn.name not in ids:
            report("unknown_class", f"{where}: {drawn.name!r}")
            continue
        if not drawn.mask.any():
            report("empty", f"{where}: {drawn.name!r}")
            continue
        count += 1
        shared += int((painted & drawn.mask & (result != ids[drawn.name])).sum())
        result[drawn.mask] = ids[drawn.name]
        painted |= drawn.mask
    if not count:
        report("no_objects", where)
    if shared:
        report("overlap", f"{where}: {shared} pixel(s), which got the class of the later object")
    return result


class OutlineFormat(ABC):
    """A `Format` of single objects, which are painted one over the other."""

    @abstractmethod
    def objects(self, annotated: Annotated, size: tuple[int, int], report: Report) -> Iterator[Drawn]:
        """The objects of a picture in the order of painting; arguments as in `Format.draw`."""

    def draw(
        self, annotated: Annotated, size: tuple[int, int], ids: Mapping[str, int], fill: int, report: Report
    ) -> np.ndarray:
        """The mask of a picture; see `Format`."""
        return paint(self.objects(annotated, size, report), size, ids, fill, report, annotated.where)


def can_be_drawn(points: np.ndarray, size: tuple[int, int], where: str, report: Report) -> bool:
    """Whether an outline (points, 2) of x and y in pixels can be drawn; what is wrong with it is reported."""
    fault = _outline_fault(points, size)
    if fault is not None:
        report(fault, where)
    return fault in (None, "partly_outside")


def _outline_fault(points: np.ndarray, size: tuple[int, int]) -> str | None:
    """The kind of problem with an outline, or None."""
    if len(points) < 3:
        return "few_points"
    if not np.isfinite(points).all():
        return "broken_shape"
    low, high = points.min(0), points.max(0)
    if (high < 0).any() or (low >= size).any():
        return "outside"
    # Tools put points onto the border, which half a pixel of rounding carries over it.
    return "partly_outside" if (low < -1).any() or (high > np.add(size, 1)).any() else None


class PictureFiles:
    """The picture files of a folder, found by the names that annotations give them.

    Args:
        folder: searched with its subfolders.
    """

    def __init__(self, folder: Folder):
        self.addresses: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._taken: set[str] = set()
        for path, address in folder.walk():
            if os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS:
                self.addresses[path] = address
                self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def take(self, name: str, near: str, split: str | None, collection: Collection) -> str | None:
        """The path of the picture that a name means; None, with a report, where that is not one that is still free.

        Args:
            name, near, split: as in `find`.
            collection: takes the report.
        """
        found = self.find(name, near, split)
        where = f"{near}, {name}"
        if len(found) != 1:
            text = where if not found else f"{where}: {', '.join(found[:4])}"
            collection.report("ambiguous_picture" if found else "missing_picture", text)
            return None
        if found[0] in self._taken:
            collection.report("twice", where)
            return None
        self._taken.add(found[0])
        return found[0]

    def find(self, name: str, near: str, split: str | None) -> list[str]:
        """Paths of the pictures that a name can mean: one where it is certain, none, or several.

        Args:
            name: path as the annotations write it, of any system; folders that are not here are passed over.
            near: path of the file of annotations.
            split: the split that this file states, if any.
        """
        parts = [part for part in PureWindowsPath(name).parts if part not in ("\\", "/", "..", ".")]
        found = self._by_name.get(parts[-1], []) if parts else []
        for closeness in (_shared_end(parts), _same_split(split), _shared_start(near.split("/")[:-1])):
            if len(found) > 1:
                best = max(map(closeness, found))
                found = [path for path in found if closeness(path) == best]
        # A file of annotations beside several pictures means the one of its own name.
        own = [path for path in found if path.rpartition(".")[0] == near.rpartition(".")[0]]
        return own if len(found) > 1 and own else found


def _shared_end(parts: Sequence[str]) -> Callable[[str], int]:
    def count(path: str) -> int:
        pairs = zip(reversed(parts), reversed(path.split("/")), strict=False)
        return next((index for index, (a, b) in enumerate(pairs) if a != b), len(parts))

    return count


def _same_split(split: str | None) -> Callable[[str], int]:
    return lambda path: int((split_of(path) or "train") == (split or "train"))


def _shared_start(parts: Sequence[str]) -> Callable[[str], int]:
    def count(path: str) -> int:
        pairs = zip(parts, path.split("/")[:-1], strict=False)
        return next((index for index, (a, b) in enumerate(pairs) if a != b), len(parts))

    return count


def split_of(path: str, *, by_name: bool = False) -> str | None:
    """The split that the nearest folder of a path names; None where none does.

    Args:
        path: path below the folder of the data.
        by_name: look at the words of the file's name first, such as "instances_val2017.json". For files that stand for a
            split; the name of a picture says nothing.
    """
    *folders, name = path.casefold().split("/")
    named = os.path.splitext(name)[0].replace("-", "_").replace(".", "_").split("_") if by_name else []
    words = (word.rstrip("0123456789") for word in reversed([*folders, *named]))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


_PLAIN_FOLDERS = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "default", "data", "annotations", "labels", "obj_train_data"}
)


def stem_of(path: str) -> str:
    """The path of a picture without extension and without the folders that only say that it is a picture, or of
    which split."""
    *folders, name = path.split("/")
    words = (folder.casefold().rstrip("0123456789") for folder in folders)
    kept = [
        f for f, word in zip(folders, words, strict=True) if word not in _PLAIN_FOLDERS and word not in SPLIT_NAMES
    ]
    return "/".join([*kept, os.path.splitext(name)[0]])


def require_libraries(*names: str) -> None:
    """Check that the libraries that draw outlines are there.

    Raises:
        SegZooError: one is missing; the message has the command that installs it.
    """
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise SegZooError(
                f'outlines are drawn by the {name} library, which is missing ({error}); pip install "segzoo[formats]"'
            ) from None

"""Pictures and masks in files: which belong together, and which have no partner."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from segzoo.data.data_source import DataSource
from segzoo.data.facts import DatasetFacts
from segzoo.data.folders import Folder
from segzoo.data.label_encodings import LabelEncoding
from segzoo.errors import SegZooError
from segzoo.images.archives import file_address
from segzoo.images.windows import is_window
from segzoo.text import listed

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"}
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PairingProblem:
    """Files or folders that do not pair up.

    Attributes:
        kind: "image_without_mask" or "mask_without_image" (one file), "duplicate_stem" (files whose names differ only
            in the extension), "split_without_masks" or "split_without_images" (a folder without counterpart), or
            "empty_split".
        split: "train", "validation" or "test".
        files: the addresses of the files, or the path of the folder.
    """

    kind: str
    split: str
    files: tuple[str, ...]


@dataclass
class SplitFiles:
    """The pairs of one split.

    Attributes:
        pairs: addresses of picture and mask.
        encoding: how the masks are written; None: they hold class ids.
        place: path of the folder or list of the pictures, for messages.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    encoding: LabelEncoding | None = None
    place: str = ""


@dataclass
class Listing:
    """All that a source of files holds: the pairs by split, and the files that do not pair up."""

    splits: dict[str, SplitFiles] = field(default_factory=dict)
    problems: list[PairingProblem] = field(default_factory=list)


class FileSource(Protocol):
    """Pictures and masks that were found in a known layout.

    Attributes:
        facts: the facts of the data set, or None where it is not a known one.
    """

    @property
    def facts(self) -> DatasetFacts | None: ...

    def list_files(self) -> Listing: ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A layout of pictures and masks on a disk.

    Attributes:
        layout: the layout in words, for messages, after "looked for".
        find: `find(folder, data)` returns the pictures and masks of a folder, or None if the folder does not have this
            layout; `data` is the source as the user described it. Raises SegZooError if a part of a known data set is
            missing.
        order: layouts with lower numbers are tried first.
        extension: extension of a file that may be given instead of its folder, such as a list of pictures; `find` is
            then called with a folder that shows that file alone.
    """

    layout: str
    find: Callable[[Folder, DataSource], FileSource | None]
    order: int
    extension: str | None = None


def files_by_stem(folder: Folder, suffix: str = "") -> dict[str, list[str]]:
    """Addresses of picture files by stem: their path in the folder, without suffix and extension, in Unicode's NFC.

    Args:
        folder: searched with its subfolders.
        suffix: end of the names before the extension; files without it are left out.
    """
    found: dict[str, list[str]] = {}
    for path, address in folder.walk():
        stem, extension = os.path.splitext(path)
        if extension.lower() in IMAGE_EXTENSIONS and stem.endswith(suffix):
            key = unicodedata.normalize("NFC", stem.removesuffix(suffix))
            found.setdefault(key, []).append(address)
    return found


def pair_by_stem(
    listing: Listing, split: str, images: Mapping[str, list[str]], labels: Mapping[str, list[str]]
) -> None:
    """Adds the pictures and masks of equal stems to a split, and the others to the problems.

    Args:
        listing: the listing that is added to.
        split: name of the split.
        images, labels: addresses by stem, from `files_by_stem`.
    """
    target = listing.splits.setdefault(split, SplitFiles())
    for files in (images, labels):
        for paths in files.values():
            if len(paths) > 1:
                listing.problems.append(PairingProblem("duplicate_stem", split, tuple(paths)))
    for kind, here, there in (("image_without_mask", images, labels), ("mask_without_image", labels, images)):
        listing.problems += [
            PairingProblem(kind, split, (paths[0],)) for stem, paths in here.items() if stem not in there
        ]
    target.pairs += [
        (paths[0], labels[stem][0])
        for stem, paths in sorted(images.items())
        if len(paths) == 1 and len(labels.get(stem, ())) == 1
    ]


def pair_by_list(
    listing: Listing, split: str, stems: Iterable[str], images: Mapping[str, str], labels: Mapping[str, str]
) -> None:
    """Adds the pictures and masks that a list names to a split, and what is missing to the problems.

    Args:
        listing: the listing that is added to.
        split: name of the split.
        stems: stems of the pairs, in the order of the split.
        images, labels: addresses by stem.
    """
    target = listing.splits.setdefault(split, SplitFiles())
    for stem in stems:
        image, label = images.get(stem), labels.get(stem)
        if image is not None and label is not None:
            target.pairs.append((image, label))
        elif image is not None:
            listing.problems.append(PairingProblem("image_without_mask", split, (image,)))
        else:
            listing.problems.append(PairingProblem("mask_without_image", split, (label or stem,)))


def listed_stem(line: str, known: Container[str]) -> str:
    """The stem that a line of a list means: the whole of it, or its first word, such as a path beside that of the mask.

    Args:
        line: the line; folders are passed over, and so is the extension of a picture.
        known: stems of the files that are there, which decide; they may have blanks and dots.
    """
    names = [name.rpartition("/")[2] for name in (line.strip(), line.split()[0])]
    stems = [stem if end.lower() in IMAGE_EXTENSIONS else stem + end for stem, end in map(os.path.splitext, names)]
    return next((name for pair in zip(names, stems, strict=True) for name in pair if name in known), stems[-1])


def single_files(folder: Folder) -> dict[str, str]:
    """Addresses by stem of the picture files directly in a folder, without its subfolders."""
    stems = ((os.path.splitext(name), address) for name, address in folder.files.items())
    return {stem: address for (stem, extension), address in stems if extension.lower() in IMAGE_EXTENSIONS}


def settle(
    listing: Listing, where: str, *, strict: bool, on_problem: Callable[[PairingProblem], None] | None
) -> dict[str, Dataset]:
    """Reports the problems of a listing, and makes a table of each split's pairs.

    Args:
        listing: what a source holds.
        where: name of the source in messages.
        strict: raise for files that do not pair up; False warns and continues with the others.
        on_problem: called with each problem, which then neither raises nor warns; None: `strict` decides.

    Returns:
        tables by split, with the columns `image`, `label`, `image_path`, `label_path` and, if need be,
        `label_encoding`.

    Raises:
        SegZooError: there is no pair at all. Without `on_problem` also: a split is empty or has no masks (a test split
            is left out instead), masks are JPEG files, or, if `strict`, there is any other problem.
    """
    for split, files in listing.splits.items():
        if not files.pairs:
            listing.problems.append(PairingProblem("empty_split", split, (files.place or where,)))
    if on_problem is not None:
        for problem in listing.problems:
            on_problem(problem)
    else:
        _refuse_or_warn(listing, strict)
    tables = {split: _table(listing.splits[split]) for split in SPLITS if split in listing.splits}
    tables = {split: table for split, table in tables.items() if len(table)}
    if not tables:
        raise SegZooError(f"No pair of picture and mask was found in {where}.")
    return tables


def _refuse_or_warn(listing: Listing, strict: bool) -> None:
    by_kind: dict[tuple[str, str], list[PairingProblem]] = {}
    for problem in listing.problems:
        by_kind.setdefault((problem.split, problem.kind), []).append(problem)
    if ("test", "split_without_masks") in by_kind:
        folder = by_kind.pop(("test", "split_without_masks"))[0].files[0]
        warnings.warn(f"The test split is left out: there are no masks for {folder}.", stacklevel=4)
    for split, files in listing.splits.items():
        lossy = [label for _, label in files.pairs if label.lower().endswith((".jpg", ".jpeg"))]
        if lossy:
            raise SegZooError(
                f"{split}: {len(lossy)} mask(s) are JPEG, which changes class ids: {listed(map(_base, lossy), 5)}. Export masks as PNG."
            )
    if not by_kind:
        return
    lines = [_sentence(split, kind, problems) for (split, kind), problems in by_kind.items()]
    if any(kind in ("empty_split", "split_without_masks") for _, kind in by_kind):
        raise SegZooError("; ".join(lines) + ".")
    if strict:
        raise SegZooError(
            f"Pictures and masks do not pair up: {'; '.join(lines)}. Mend the data, or load the pairs that are there with "
            "strict=False."
        )
    warnings.warn(f"Skipped files that do not pair up: {'; '.join(lines)}.", stacklevel=4)


_WORDS = {
    "image_without_mask": "{count} picture(s) without mask: {files}",
    "mask_without_image": "{count} mask(s) without picture: {files}",
    "duplicate_stem": "{count} name(s) with several files: {files}",
    "split_without_images": "there are masks but no pictures for {files}",
    "split_without_masks": "there are pictures but no masks for {files}",
    "empty_split": "the split is empty, no picture with a mask in {files}",
}


_OF_FOLDERS = ("split_without_images", "split_without_masks", "empty_split")


def _sentence(split: str, kind: str, problems: list[PairingProblem]) -> str:
    if len(problems[0].files) > 1:
        names = [" and ".join(map(_base, problem.files)) for problem in problems]
    else:
        names = [problem.files[0] if kind in _OF_FOLDERS else _base(problem.files[0]) for problem in problems]
    return f"{split}: " + _WORDS[kind].format(count=len(problems), files=listed(names, 5))


def _base(address: str) -> str:
    return os.path.basename(address.partition("::")[0])


def _table(files: SplitFiles) -> Dataset:
    import datasets

    images = [file_address(image) for image, _ in files.pairs]
    labels = [file_address(label) for _, label in files.pairs]
    columns = {"image": images, "label": labels, "image_path": images, "label_path": labels}
    if files.encoding is not None:
        columns["label_encoding"] = [files.encoding.name] * len(images)
    features = {name: datasets.Value("string") for name in columns}
    # Windows are read by this package alone, which takes undecoded columns.
    image = datasets.Image(decode=not any(map(is_window, images[:1])))
    features |= {"image": image, "label": image}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

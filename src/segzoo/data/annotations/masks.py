"""Writes pictures and masks of class ids from annotations, so that it goes on where a killed run stopped."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image

from segzoo.data.annotations.annotated import IGNORED, NOTES, Annotated, Collection, Format
from segzoo.data.folders import open_folder
from segzoo.errors import SegZooError, first_line
from segzoo.files import FolderInUse, check_folder_place, json_text, lock, remove_abandoned, write_whole
from segzoo.images.archives import file_stamp, is_address, read_address, readable
from segzoo.images.reading import CorruptImageError, read_header
from segzoo.regular_files import open_regular

MANIFEST = "masks.jsonl"
"""Name of the file in the target that holds the settings, and a line for each finished picture."""

_MASK_BYTES = 1 << 16  # about what a mask of outlines takes as PNG


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How annotations become ids.

    Attributes:
        classes: names of the classes in the order of their ids; None: all that the annotations name, in their order.
        ignored: names of classes whose pixels do not count.
        background: name of the class of all that is not annotated, which gets the id 0 if it is not among the classes;
            None: what is not annotated does not count.
        link: link to the pictures instead of copying them.
    """

    classes: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()
    background: str | None = "background"
    link: bool = False


@dataclass
class MaskReport:
    """What was written.

    Attributes:
        names: names of the classes, in the order of their ids.
        ignore_index: id of the pixels that do not count.
        written: number of pictures by split, those of an earlier run included.
        earlier: how many of them an earlier run had written.
        pixels: number of pixels by class id and, for those that do not count, by `ignore_index`.
        cases: what was left out or is worth knowing: texts by kind of `PROBLEMS` and `NOTES`.
    """

    names: list[str]
    ignore_index: int
    written: Counter[str] = field(default_factory=Counter)
    earlier: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    cases: dict[str, list[str]] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Number of pictures and objects that were left out."""
        return sum(len(texts) for kind, texts in self.cases.items() if kind not in NOTES)

    def add(self, entry: dict[str, Any]) -> None:
        """Count a line of the manifest."""
        if entry["split"] is not None:
            self.written[entry["split"]] += 1
        self.pixels.update({int(key): count for key, count in entry["pixels"].items()})
        for kind, text in entry["cases"]:
            self.cases.setdefault(kind, []).append(text)


def write_masks(
    form: Format,
    source: str | os.PathLike,
    target: str | os.PathLike,
    settings: MaskSettings,
    *,
    kind: str,
    progress: Callable[[int, int], Callable[[], object]] | None = None,
) -> MaskReport:
    """Write `images/{split}`, `annotations/{split}` and `id2label.json` into a folder.

    A picture is done when its line stands in the manifest: a later call with the same settings passes over it, unless it,
    its annotations or their meaning changed, and removes what it no longer writes. The source is only read.

    Args:
        form: the format of the annotations.
        source: folder or zip archive of the annotations and pictures.
        target: folder to write; it is empty, or was begun with the same settings.
        settings: how annotations become ids.
        kind: name of the format, for the manifest.
        progress: called once with the number of pictures and how many are done; the function that it returns is
            called after each further picture.

    Raises:
        SegZooError: the annotations cannot be read at all, the target is in use or holds something else, the disk has
            no room, or source and target lie in each other.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise SegZooError(f"{target} and {source} lie in each other; write into a folder elsewhere")
    check_folder_place(target)
    collection = form.collect(open_folder(source))
    names, ids, fill = _class_ids(collection, settings)
    report = MaskReport(names, 255 if len(names) <= 255 else 65535)
    header = {"format": kind, "source": str(here), "names": names, **asdict(settings)}
    target.mkdir(parents=True, exist_ok=True)
    try:
        with lock(target):
            lines = _resume(target, json.loads(json_text(header, indent=None)))
            named = list(_named(collection, source))
            _remove_stale(target, lines, {str(path) for annotated, stem in named for path in _paths(annotated, stem)})
            done = {line["picture"]: line for line in lines}
            todo = []
            for annotated, stem in named:
                line = done.get(f"{annotated.split}/{stem}")
                digest = _digest(annotated, collection.meaning, source)
                if line is not None and line["annotations"] == digest and _is_whole(line, target):
                    report.add(line)
                else:
                    todo.append((annotated, stem, digest))
            _check_room(target, [annotated for annotated, _, _ in todo], settings.link)
            report.earlier = len(collection.pictures) - len(todo)
            write_whole(target / "id2label.json", json_text({str(i): name for i, name in enumerate(names)}))
            on_picture = None if progress is None else progress(len(collection.pictures), report.earlier)
            with (target / MANIFEST).open("a", encoding="utf-8") as manifest:
                for annotated, stem, digest in todo:
                    entry = _write_pair(form, annotated, stem, target, settings, ids, fill, report.ignore_index)
                    entry["annotations"] = digest
                    manifest.write(json_text(entry, indent=None).strip() + "\n")
                    manifest.flush()
                    report.add(entry)
                    if on_picture is not None:
                        on_picture()
    except FolderInUse as error:
        raise SegZooError(f"{target} is being written by another process ({error.holder}); wait for it") from None
    for case, text in collection.problems:
        report.cases.setdefault(case, []).append(text)
    return report


def _class_ids(collection: Collection, settings: MaskSettings) -> tuple[list[str], dict[str, int], int]:
    """The names of the classes, ids by the annotations' names, and the id of what is not annotated."""
    missing = [name for name in settings.ignored if name not in collection.names]
    if missing:
        raise SegZooError(
            f"--ignored {missing[0]}: the annotations have no such class; they have {', '.join(collection.names)}"
        )
    ignored = {*settings.ignored, "__ignore__"}
    names = list(settings.classes or (name for name in collection.names if name not in ignored))
    if len(set(names)) != len(names):
        raise SegZooError(f"a class is named twice: {', '.join(names)}")
    fill = IGNORED
    if settings.background is not None:
        usual = {settings.background.casefold(), "background", "_background_"}
        own = next((name for name in names if name.casefold() in usual), None)
        if own is None:
            names.insert(0, own := settings.background)
        fill = names.index(own)
    ids = {name: index for index, name in enumerate(names)} | dict.fromkeys(ignored, IGNORED)
    if not names or not set(names) & set(collection.names):
        raise SegZooError(
            f"none of the classes {', '.join(names)} is in the annotations, which have {', '.join(collection.names)}"
        )
    return names, ids, fill


def _named(collection: Collection, source: Path) -> Iterator[tuple[Annotated, str]]:
    """The pictures and the stems under which they are written, which differ."""
    stems: set[tuple[str, str]] = set()
    for annotated in collection.pictures:
        free = (stem for stem in _stems(annotated, source) if (annotated.split, stem.casefold()) not in stems)
        stem = next(free)
        stems.add((annotated.split, stem.casefold()))
        yield annotated, stem


def _stems(annotated: Annotated, source: Path) -> Iterator[str]:
    """Stems for a picture, the best one first: its own, with the folders that it leaves out, with the extension, counted."""
    yield annotated.stem
    stem, extension = os.path.splitext(_inside(annotated.picture, source).replace("/", "_"))
    yield stem
    yield f"{stem}_{extension[1:].lower()}"
    yield from (f"{stem}_{number}" for number in itertools.count(2))


def _inside(address: str, source: Path) -> str:
    """The path of a file in the source, with slashes."""
    path = readable(address).removeprefix(str(source.absolute())).removeprefix(str(source))
    return path.replace("\\", "/").strip("/")


def _paths(annotated: Annotated, stem: str) -> tuple[PurePosixPath, PurePosixPath]:
    """The picture and its mask, as paths in the target."""
    picture = PurePosixPath("images", annotated.split, stem + os.path.splitext(readable(annotated.picture))[1].lower())
    return picture, PurePosixPath("annotations", annotated.split, f"{stem}.png")


def _digest(annotated: Annotated, meaning: object, source: Path) -> str:
    """What tells whether a picture, its annotations or their meaning have changed since an earlier run."""
    files, content = [annotated.picture], annotated.content
    if isinstance(content, str):
        files, content = [*files, content], None
    values = [annotated.size, content, meaning, [[_inside(path, source), *_stamp(path)] for path in files]]
    return hashlib.sha256(json_text(values, indent=None).encode()).hexdigest()[:16]


def _stamp(path: str) -> tuple[int, ...]:
    try:
        return file_stamp(path)
    except OSError:  # who reads the file reports that better
        return ()


def _resume(target: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifest's lines of an earlier run; a torn last line is taken off the file."""
    path = target / MANIFEST
    remove_abandoned(target)
    if not path.is_file():
        if any(not entry.name.startswith(".") for entry in target.iterdir()):
            raise SegZooError(f"{target}: the folder is not empty; choose another one, or empty it first")
        write_whole(path, json_text(header, indent=None).strip() + "\n")
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()] or [{}]
        lines = [
            line for line in lines if {"picture", "annotations", "split", "files", "pixels", "cases"} <= line.keys()
        ]
        differing = [key for key in header if first.get(key) != header[key]]
    except (ValueError, AttributeError) as error:
        raise SegZooError(f"{path} is damaged ({error}); choose another folder, or empty this one") from None
    if differing:
        raise SegZooError(
            f"{target} was begun with other settings ({', '.join(differing)}); use the same ones, or choose another folder"
        )
    if whole != content:
        write_whole(path, whole)
    for folder in {(target / name).parent for line in lines for name in line["files"]}:
        remove_abandoned(folder)
    return lines


def _is_whole(line: dict[str, Any], target: Path) -> bool:
    return bool(line["files"]) and all((target / name).is_file() for name in line["files"])


def _remove_stale(target: Path, lines: Iterable[dict[str, Any]], kept: set[str]) -> None:
    """Remove what earlier runs wrote of pictures that are no longer there, or are now written elsewhere."""
    names = {name for line in lines for name in line["files"]} - kept
    _remove(target, map(PurePosixPath, sorted(names)))


def _remove(target: Path, paths: Iterable[PurePosixPath]) -> None:
    """Remove files of the target, and the folders that they leave empty."""
    for path in paths:
        (target / path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for folder in path.parents[:-1]:
                (target / folder).rmdir()


def _check_room(target: Path, pictures: Iterable[Annotated], link: bool) -> None:
    needed = 0
    for annotated in pictures:
        needed += _MASK_BYTES
        if not link or is_address(annotated.picture):
            needed += next(iter(_stamp(annotated.picture)), 0)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise SegZooError(
            f"{target}: about {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free; make room, or choose "
            "another disk" + ("" if link else ", or link to the pictures with --link")
        )


def _write_pair(
    form: Format,
    annotated: Annotated,
    stem: str,
    target: Path,
    settings: MaskSettings,
    ids: dict[str, int],
    fill: int,
    ignore_index: int,
) -> dict[str, Any]:
    """Write a picture and its mask; returns the line of the manifest."""
    cases: list[tuple[str, str]] = []
    entry: dict[str, Any] = {"picture": f"{annotated.split}/{stem}", "split": None, "files": [], "pixels": {}}
    picture, label = _paths(annotated, stem)
    mask = _draw(form, annotated, ids, fill, lambda kind, text: cases.append((kind, text)))
    entry["cases"] = cases
    if mask is None:
        _remove(target, (picture, label))
        return entry
    mask[mask == IGNORED] = ignore_index
    values, counts = np.unique(mask, return_counts=True)
    stored = mask.astype(np.uint8 if ignore_index == 255 else np.uint16)
    for path in (picture, label):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
    if settings.link and not is_address(annotated.picture):
        (target / picture).unlink(missing_ok=True)
        (target / picture).symlink_to(os.path.abspath(annotated.picture))
    elif is_address(annotated.picture):
        write_whole(target / picture, read_address(annotated.picture))
    else:
        with open_regular(annotated.picture) as file:
            write_whole(target / picture, lambda copy: shutil.copyfileobj(file, copy))
    write_whole(target / label, lambda file: PIL.Image.fromarray(stored).save(file, format="PNG"))
    pixels = {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}
    return {**entry, "split": annotated.split, "files": [str(picture), str(label)], "pixels": pixels}


def _draw(
    form: Format, annotated: Annotated, ids: dict[str, int], fill: int, report: Callable[[str, str], object]
) -> np.ndarray | None:
    """The mask of a picture, of the size as stored or upright; None where the picture is left out."""
    try:
        header = read_header(annotated.picture)
    except SegZooError as error:
        report("unreadable_picture", str(error))
        return None
    sizes = (header.upright_size, header.size)
    size = annotated.size or header.upright_size
    mask = None
    if size in sizes:
        try:
            mask = form.draw(annotated, size, ids, fill, report)
        except SegZooError as error:
            report("unreadable_file" if isinstance(error, CorruptImageError) else "unknown_colour", first_line(error))
            return None
        size = mask.shape[1], mask.shape[0]
    if size not in sizes:
        report("size_differs", f"{annotated.where}: {size[0]}x{size[1]}, the picture {sizes[0][0]}x{sizes[0][1]}")
        return None
    return mask

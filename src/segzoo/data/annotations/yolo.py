"""YOLO: a text file beside each picture's folder, a line an outline, and the names in data.yaml or classes.txt."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from segzoo.data.annotations.annotated import (
    Annotated,
    Collection,
    Drawn,
    OutlineFormat,
    PictureFiles,
    Report,
    can_be_drawn,
    require_libraries,
    stem_of,
)
from segzoo.data.annotations.recognition import YOLO_NAMES
from segzoo.data.annotations.yolo_splits import YoloSplits
from segzoo.data.folders import Folder
from segzoo.errors import SegZooError
from segzoo.images.archives import read_address

_NO_LABELS = frozenset({"classes.txt", "obj.names", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"})


class YoloFormat(OutlineFormat):
    """Outlines are painted in the order of the file. A picture without a file has no objects, and pictures of one
    stem have one file, as in training YOLO."""

    def collect(self, folder: Folder) -> Collection:
        """List the pictures of the folder and their files of labels.

        Raises:
            SegZooError: there is no file of class names, or no file of labels.
        """
        require_libraries("supervision")
        files = {path: address for path, address in folder.walk() if not path.startswith(".")}
        names, described = _read_descriptions(folder, files)
        labels = {
            path: address
            for path, address in files.items()
            if path.endswith(".txt")
            and not path.lower().rpartition("/")[2].startswith(("readme", "notes"))
            and path.lower().rpartition("/")[2] not in _NO_LABELS
        }
        collection = Collection(names=list(dict.fromkeys(names)), meaning=names)
        self._names = names
        pictures = PictureFiles(folder)
        splits = YoloSplits(described, folder, files, pictures, collection)
        labels = {path: address for path, address in labels.items() if path not in splits.lists}
        used = set()
        for path, address in pictures.addresses.items():
            stem = path.rpartition(".")[0]
            mine = next((f"{s}.txt" for s in _label_stems(stem) if f"{s}.txt" in labels), None)
            used.add(mine)
            split = splits.of(path)
            if split is None:
                if mine is not None:
                    collection.report("not_listed", path)
                continue
            where = path if mine is None else f"labels of {path}"
            try:
                lines = [] if mine is None else read_address(labels[mine]).decode("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                collection.report("unreadable_file", f"{where}: {error}")
                continue
            content = [line for line in lines if line.strip()]
            collection.pictures.append(Annotated(address, split, stem_of(path), where, None, content))
        for path in filter(lambda path: path not in used, labels):
            collection.report("no_picture", path)
        if not collection.pictures or not any(picture.content for picture in collection.pictures):
            raise SegZooError(f"{folder.path} holds no picture with a file of YOLO labels in labels/ or beside it")
        return collection

    def objects(self, annotated: Annotated, size: tuple[int, int], report: Report) -> Iterator[Drawn]:
        """The objects of a picture; see `OutlineFormat`."""
        from supervision.dataset.formats.yolo import yolo_annotations_to_detections

        lines: Any = annotated.content
        for number, line in enumerate(lines, 1):
            where, values = f"{annotated.where}, line {number}", line.split()
            try:
                if len(values) < 7:
                    is_box = len(values) in (5, 6) and not (len(values) == 5 and _looks_like_points(lines))
                    report("no_shape" if is_box else "few_points", where)
                    continue
                points = np.array(values[1 : 1 + (len(values) - 1) // 2 * 2], dtype=np.float64).reshape(-1, 2) * size
                if not can_be_drawn(points, size, where, report):
                    continue
                drawn = yolo_annotations_to_detections([line], size, with_masks=True)
            except ValueError as error:
                report("broken_shape", f"{where}: {error}")
                continue
            key = int(drawn.class_id[0])
            if not 0 <= key < len(self._names):
                report("unknown_class", f"{where}: id {key} of {len(self._names)} classes")
                continue
            yield Drawn(self._names[key], drawn.mask[0])


def _read_descriptions(
    folder: Folder, files: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    """The names of the classes, and path and content of each data.yaml."""
    found = sorted(p for p in files if p.lower().rpartition("/")[2] in YOLO_NAMES or p.endswith((".yaml", ".yml")))
    names, described = None, []
    for path in found:
        text = read_address(files[path]).decode("utf-8-sig", "replace")
        if not path.endswith((".yaml", ".yml")):
            names = [line.strip() for line in text.splitlines() if line.strip()] if names is None else names
            continue
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        if isinstance(content, dict) and "names" in content:
            described.append((path, content))
            names = _names_of(path, content["names"]) if names is None else names
    if names is None:
        raise SegZooError(f"{folder.path} has no data.yaml and no classes.txt with the names of the classes; add one")
    return names, described


def _names_of(path: str, names: Any) -> list[str]:
    if isinstance(names, list):
        return list(map(str, names))
    with contextlib.suppress(AttributeError, ValueError, TypeError):
        by_id = {int(key): str(name) for key, name in names.items()}
        if sorted(by_id) == list(range(len(names))):
            return [by_id[key] for key in sorted(by_id)]
    raise SegZooError(f"{path}: names should be a list, or an object of the ids 0 to n - 1 and names")


def _looks_like_points(lines: list[str]) -> bool:
    """Whether a file holds outlines, so that a line of two points is a faulty one and no box."""
    return any(len(line.split()) > 6 for line in lines)


def _label_stems(stem: str) -> list[str]:
    """Where the file of a picture can be: images/ becomes labels/, the last one first, or it is beside the picture."""
    places = [match.span() for match in re.finditer(r"(?:(?<=/)|^)images(?=/)", stem)]
    return [*(f"{stem[:start]}labels{stem[end:]}" for start, end in reversed(places)), stem]

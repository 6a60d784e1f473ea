"""What annotations a folder holds that are no masks, told by names and contents, and which command makes masks."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from segzoo.data.folders import Folder, open_folder
from segzoo.errors import SegZooError
from segzoo.images.archives import is_address, read_address
from segzoo.regular_files import open_regular

COCO, YOLO, LABELME, CVAT, LABEL_STUDIO = "coco", "yolo", "labelme", "cvat", "label_studio"
YOLO_NAMES = ("classes.txt", "obj.names")
_WORDS = {
    COCO: "outlines in COCO's JSON",
    YOLO: "outlines in YOLO's text files",
    LABELME: "outlines of LabelMe",
    CVAT: "annotations in CVAT's own XML",
    LABEL_STUDIO: "annotations in Label Studio's own JSON",
}
ELSEWHERE = {
    CVAT: "export the task from CVAT as 'COCO 1.0' (or 'Segmentation mask 1.1')",
    LABEL_STUDIO: "export the project from Label Studio as COCO (or 'YOLO with images')",
}
_MOST_FILES, _MOST_OPENED, _HEAD = 50_000, 40, 4096
_COCO_START = re.compile(rb'\s*\{\s*"(info|images|annotations|categories|licenses)"\s*:')
_KEYS = {COCO: {"images", "annotations"}, LABELME: {"shapes", "imagePath"}}
_YOLO_LINE = re.compile(rb"\s*\d+(\.0+)?([ \t]+-?[\d.]+(e-?\d+)?){4,}[ \t]*(\r?\n|$)")
_YAML_NAMES = re.compile(rb"^names\s*:", re.MULTILINE)
_YAML_PARTS = re.compile(rb"^(train|nc|val)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Recognised:
    """Annotations that were recognised.

    Attributes:
        format: one of the formats of this module.
        path: the folder.
        file: path of a file in it that tells.
    """

    format: str
    path: str
    file: str

    @property
    def words(self) -> str:
        """What was found, as a phrase."""
        return f"{_WORDS[self.format]} ({self.file}) instead of masks"

    @property
    def fix(self) -> str:
        """What to do, with the command."""
        then = f"segzoo data masks {self.path} TARGET"
        if self.format in ELSEWHERE:
            return f"{ELSEWHERE[self.format]}, then make masks of that: {then}"
        return f"make masks of them: {then}"


def recognise(folder: Folder, *, whole: bool = False) -> Recognised | None:
    """The annotations of a folder or of the folders in it; None where there are none of a known format.

    Args:
        folder: searched with its subfolders.
        whole: read JSON files as a whole; otherwise the names and first bytes of some files are read, no more.
    """
    opened = 0
    for path, address in islice(folder.walk(), _MOST_FILES):
        name = path.lower().rpartition("/")[2]
        extension = os.path.splitext(name)[1]
        if extension not in (".json", ".xml", ".txt", ".yaml", ".yml") or opened >= _MOST_OPENED:
            continue
        opened += 1
        found = kind_of(path, address)
        if found is None and whole and extension == ".json":
            with contextlib.suppress(OSError, ValueError, SegZooError):
                found = _kind_by_keys(address)
        if found is not None:
            return Recognised(found, folder.path, path)
    return None


def recognise_path(path: Path) -> Recognised | None:
    """`recognise` for a folder or zip archive at a path; None for anything else."""
    if not path.is_dir() and path.suffix.casefold() != ".zip":
        return None
    try:
        return recognise(open_folder(path))
    except SegZooError:  # what reads the data reports that better
        return None


def files_of(folder: Folder, kind: str, report: Callable[[str, str], object]) -> dict[str, str]:
    """Addresses by path of all JSON files of a folder that are of a format; `report` is told of the others."""
    found = {}
    for path, address in folder.walk():
        if not path.lower().endswith(".json"):
            continue
        try:
            if (kind_of(path, address) or _kind_by_keys(address)) == kind:
                found[path] = address
            else:
                report("other_json", path)
        except (OSError, ValueError, SegZooError) as error:
            report("unreadable_file", f"{path}: {type(error).__name__}: {error}")
    return found


def _kind_by_keys(address: str) -> str | None:
    """The format of a JSON file, from its keys, in whatever order they stand."""
    content = json.loads(read_address(address))
    keys = content.keys() if isinstance(content, dict) else set()
    return next((kind for kind, needed in _KEYS.items() if needed <= keys), None)


def kind_of(path: str, address: str) -> str | None:
    """The format that a file belongs to, from its name and its first bytes."""
    name = path.lower().rpartition("/")[2]
    extension = os.path.splitext(name)[1]
    try:
        head, tail = _ends(address)
    except (OSError, SegZooError):
        return None
    if extension == ".json":
        head = head.removeprefix(codecs.BOM_UTF8)
        if b'"shapes"' in head and re.search(rb'"image(Path|Height|Width)"', head + tail):
            return LABELME
        if _COCO_START.match(head):
            return COCO
        listed = head.lstrip().startswith(b"[")
        if listed and b'"annotations"' in head and (b'"completed_by"' in head or b'"predictions"' in head + tail):
            return LABEL_STUDIO
    if extension == ".xml" and b"<annotations>" in head and (b"<version>1" in head or b"<meta>" in head):
        return CVAT
    if extension in (".yaml", ".yml") and _YAML_NAMES.search(head + tail) and _YAML_PARTS.search(head):
        return YOLO
    in_labels = "labels" in path.lower().split("/")[:-1]
    return YOLO if extension == ".txt" and in_labels and _YOLO_LINE.match(head) else None


def _ends(address: str) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    if is_address(address):
        content = read_address(address)
        return content[:_HEAD], content[-_HEAD:]
    with open_regular(address) as file:
        head = file.read(_HEAD)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _HEAD))
        return head, file.read(_HEAD)

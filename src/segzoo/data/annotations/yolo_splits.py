"""Which pictures a data.yaml of YOLO lists, and for which split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

from segzoo.data.annotations.annotated import Collection, PictureFiles, split_of
from segzoo.data.folders import Folder
from segzoo.data.pairing import SPLITS
from segzoo.images.archives import read_address

_KEYS = {"train": "train", "val": "validation", "test": "test"}


class YoloSplits:
    """The splits of pictures, as files of data.yaml list them.

    A file lists folders, texts of pictures, or several of them. Leading parts of their paths that are not here are passed
    over, since exports move. A split of which a place is not here goes by the names of folders, and so do all where no place
    is. A picture of several splits is in the first one.

    Args:
        described: paths of the files of data.yaml, and their content.
        folder: the folder of the data.
        files: addresses of its files by path.
        pictures: its pictures.
        collection: takes reports of lists.

    Attributes:
        lists: paths of the texts that list pictures.
    """

    def __init__(
        self,
        described: Iterable[tuple[str, Mapping[str, Any]]],
        folder: Folder,
        files: Mapping[str, str],
        pictures: PictureFiles,
        collection: Collection,
    ):
        self.lists: set[str] = set()
        self._listed: dict[str, str] = {}
        self._by_folder: set[str] = set()
        self._source, self._files, self._pictures = os.path.abspath(folder.path), files, pictures
        self._folders = {
            "/".join(parts[:n]) for parts in map(_folders_of, pictures.addresses) for n in range(len(parts) + 1)
        }
        for file, content in described:
            for key, split in _KEYS.items():
                for value in _texts(content.get(key)):
                    place = self._place(value, str(content.get("path") or ""), _folders_of(file))
                    if place is None:
                        self._by_folder.add(split)
                        continue
                    for path in self._pictures_of(place, split, collection):
                        self._listed.setdefault(path, split)
        if not self._listed:
            self._by_folder = set(SPLITS)

    def of(self, path: str) -> str | None:
        """The split of a picture at a path; None where it is not listed."""
        named = split_of(path) or "train"
        return self._listed.get(path) or (named if named in self._by_folder else None)

    def _place(self, value: str, root: str, near: list[str]) -> str | None:
        """Path of the folder or text that a value means, below `root` and the folder that its file lies in; or None."""
        own = _parts(os.path.relpath(value, self._source) if value.startswith(self._source + os.sep) else value)
        parts = [*_parts(root), *own]
        # One name alone, such as images, is found in too many places.
        shortest = min(2, len(own))
        candidates = (
            "/".join([*above, *parts[start:]]) for above in (near, []) for start in range(len(parts) - shortest + 1)
        )
        return next((path for path in candidates if path in self._folders or self._is_list(path)), None)

    def _is_list(self, path: str) -> bool:
        return path.endswith(".txt") and path in self._files

    def _pictures_of(self, place: str, split: str, collection: Collection) -> Iterator[str]:
        if not self._is_list(place):
            yield from (path for path in self._pictures.addresses if path.startswith(f"{place}/" if place else ""))
            return
        self.lists.add(place)
        try:
            lines = read_address(self._files[place]).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            collection.report("unreadable_file", f"{place}: {error}")
            return
        for line in filter(None, map(str.strip, lines)):
            found = self._pictures.find(line, place, split)
            if len(found) == 1:
                yield found[0]
            else:
                collection.report("ambiguous_picture" if found else "missing_picture", f"{place}, {line}")


def _texts(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _folders_of(path: str) -> list[str]:
    return path.split("/")[:-1]


def _parts(path: str) -> list[str]:
    path = PureWindowsPath(path)
    return [part for part in path.parts if part != path.anchor and part not in ("..", ".")]

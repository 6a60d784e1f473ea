"""Folders on a disk or inside a zip archive, of which no more is read than a caller needs."""

from __future__ import annotations

import codecs
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from segzoo.errors import SegZooError
from segzoo.images.archives import is_address, read_address, zip_address
from segzoo.regular_files import refuse_special
from segzoo.text import listed


class Folder(ABC):
    """The content of one folder. Hidden files and folders, and what macOS adds to archives, are left out.

    Attributes:
        path: path of the folder; in an archive that of the archive and the path inside it.
        name: last part of the path.
        folders: subfolders by name, sorted.
        files: addresses of files by name, sorted; `segzoo.images.archives.read_address` reads them.
    """

    path: str

    @property
    def name(self) -> str:
        return os.path.basename(os.path.normpath(self.path))

    @property
    @abstractmethod
    def folders(self) -> dict[str, Folder]: ...

    @property
    @abstractmethod
    def files(self) -> dict[str, str]: ...

    def child(self, *names: str) -> Folder | None:
        """The first of these subfolders that exists, or None; upper and lower case are the same."""
        folders = {name.casefold(): folder for name, folder in reversed(self.folders.items())}
        return next((folders[name.casefold()] for name in names if name.casefold() in folders), None)

    def at(self, path: str) -> Folder | None:
        """The folder at a path below this one, with slashes between its parts; None if there is none."""
        folder: Folder | None = self
        for part in path.split("/"):
            folder = None if folder is None else folder.child(part)
        return folder

    def part(self, name: str, archive: str) -> Folder | None:
        """A subfolder, or the content of the archive that holds it; None if there is neither.

        Args:
            name: name of the subfolder.
            archive: file name of the archive.
        """
        found = self.child(name)
        path = next((f for n, f in self.files.items() if n.casefold() == archive.casefold()), None)
        if found is not None or path is None or is_address(path):
            return found
        content = open_folder(Path(path))
        return content.child(name) or content

    def walk(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Path below this folder, after ``prefix``, and address of every file here and in subfolders, in order."""
        for name, address in self.files.items():
            yield prefix + name, address
        for name, folder in self.folders.items():
            yield from folder.walk(f"{prefix}{name}/")

    def read_text(self, name: str) -> str:
        """The content of one of the files, as text.

        Raises:
            SegZooError: the file is not UTF-8 text, or cannot be read.
        """
        return self._read(name, lambda content: content.decode("utf-8-sig"))

    def read_names(self, name: str) -> list[str]:
        """The lines of a list of file names, in one of the files; names are as this system's functions give them.

        Raises:
            SegZooError: the file cannot be read.
        """
        return self._read(name, lambda content: os.fsdecode(content.removeprefix(codecs.BOM_UTF8))).splitlines()

    def _read(self, name: str, decode: Callable[[bytes], str]) -> str:
        try:
            return decode(read_address(self.files[name]))
        except (OSError, UnicodeDecodeError) as error:
            raise SegZooError(f"{self.path}/{name} cannot be read as text: {error}") from error

    def in_words(self, most: int = 8) -> str:
        """The names of the first ``most`` folders and files, folders first, for messages."""
        names = [f"{name}/" for name in self.folders] + list(self.files)
        return listed(names, most) or "nothing"


class DiskFolder(Folder):
    """A folder on a disk.

    Args:
        path: path of the folder.
        above: real paths of the folders that led here, so that links that lead back are left out.

    Raises:
        SegZooError: the folder cannot be read; raised when its content is first used.
    """

    def __init__(self, path: str, above: frozenset[str] = frozenset()):
        self.path, self.above = path, above

    @cached_property
    def _content(self) -> tuple[dict[str, Folder], dict[str, str]]:
        here = self.above | {os.path.realpath(self.path)}
        folders, files = {}, {}
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if _hidden(entry.name):
                        continue
                    if not entry.is_dir():
                        files[entry.name] = entry.path
                    elif not entry.is_symlink() or os.path.realpath(entry.path) not in here:
                        folders[entry.name] = DiskFolder(entry.path, here)
        except OSError as error:
            raise SegZooError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return folders, files

    @property
    def folders(self) -> dict[str, Folder]:
        return self._content[0]

    @property
    def files(self) -> dict[str, str]:
        return self._content[1]


class FileFolder(Folder):
    """A folder on a disk that shows a single one of its files."""

    def __init__(self, file: str):
        self.path, self._file = os.path.dirname(file), file

    @property
    def folders(self) -> dict[str, Folder]:
        return {}

    @property
    def files(self) -> dict[str, str]:
        return {os.path.basename(self._file): self._file}


class ZipFolder(Folder):
    """A folder inside a zip archive, whose members are listed but not unpacked."""

    def __init__(self, path: str):
        self.path = path
        self._folders: dict[str, ZipFolder] = {}
        self._files: dict[str, str] = {}

    @classmethod
    def of(cls, archive: Path) -> ZipFolder:
        """List the whole content of an archive.

        Raises:
            SegZooError: the file is not a zip archive, or is incomplete.
        """
        root = cls(str(archive))
        refuse_special(archive)
        try:
            with zipfile.ZipFile(archive) as opened:
                members = sorted(opened.namelist())
        except (zipfile.BadZipFile, OSError) as error:
            raise SegZooError(f"{archive} cannot be read as a zip archive ({error}). Fetch it again.") from error
        for member in members:
            parts = [part for part in member.split("/") if part]
            if not parts or any(map(_hidden, parts)):
                continue
            folder = root
            for part in parts if member.endswith("/") else parts[:-1]:
                folder = folder._folders.setdefault(part, cls(f"{folder.path}/{part}"))
            if not member.endswith("/"):
                folder._files[parts[-1]] = zip_address(archive, member)
        return root

    @property
    def folders(self) -> dict[str, Folder]:
        return self._folders

    @property
    def files(self) -> dict[str, str]:
        return self._files


def open_folder(path: Path) -> Folder:
    """Open a folder on a disk, or a zip archive as if it were one."""
    return DiskFolder(str(path)) if path.is_dir() else ZipFolder.of(path.absolute())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"

"""The pictures that a user names: files, folders, patterns, web addresses and lists of these."""

from __future__ import annotations

import glob
import os
import re
import sys
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segzoo.errors import SegZooError
from segzoo.images.web import is_web_address, read_web
from segzoo.progress import print_text
from segzoo.regular_files import refuse_special
from segzoo.text import line_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


@dataclass(frozen=True)
class Input:
    """A picture to label.

    Args:
        name: path or web address, as the user calls it.
        stem: what the names of its results begin with; with slashes where folders are kept.
        path: its file; None for a picture on the web that is not fetched yet.
    """

    name: str
    stem: str
    path: Path | None = None

    @classmethod
    def of(cls, path: Path, root: Path | None = None) -> Input:
        """A file on this machine.

        Args:
            path: the file.
            root: a folder above it; the results are put into the same folders below theirs. None: into none.
        """
        folder = "" if root is None else os.path.relpath(path.parent, root).replace(os.sep, "/")
        return cls(str(path), path.stem if folder in ("", ".") else f"{folder}/{path.stem}", path)

    @classmethod
    def on_the_web(cls, url: str) -> Input:
        """A picture at a web address; its results are named after the last part of the address's path."""
        last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
        return cls(url, re.sub(r"[^\w.-]", "_", Path(last).stem).lstrip(".") or "picture")

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by the ending of its file."""
        return self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def key(self) -> str:
        """Equal for two names of one picture."""
        return self.name if self.path is None else str(self.path.resolve())

    def fetched(self, folder: Path) -> Input:
        """This picture with a file, which is put into ``folder`` if it is on the web.

        Raises:
            SegZooError: it cannot be fetched.
        """
        if self.path is not None:
            return self
        print_text(line_text(f"fetching {self.name}"), stream=sys.stderr)
        try:
            content = read_web(self.name)
        except OSError as error:
            raise SegZooError(f"{self.name}: the picture cannot be fetched ({error}); check the address") from error
        from segzoo.files import write_errors_of

        path = folder / f"{self.stem}.download"
        with write_errors_of(f"{self.name}: the copy in {folder}"):
            path.write_bytes(content)
        return replace(self, path=path)


def named_pictures(
    arguments: Sequence[str], *, lists: Sequence[str] = (), leave_out: Path | None = None
) -> list[Input]:
    """The pictures and videos that the arguments name.

    Folders are replaced by the pictures in them and below them, sorted. Videos in folders are not taken.

    Args:
        arguments: files, folders, patterns such as ``photos/**/*.jpg``, and web addresses.
        lists: text files that hold such arguments, one a line; ``-`` is standard input. Below the folder that all
            files of a list have in common, folders are kept.
        leave_out: a folder whose files are not taken, such as that of the results.

    Raises:
        SegZooError: a path does not exist, a folder has no pictures, a pattern fits nothing, or a list cannot be read.
    """
    pictures = [picture for argument in arguments for picture in _named_by(argument, leave_out)]
    for source in lists:
        lines = _lines(source)
        found = [picture for line in lines for picture in _named_by(line, leave_out)]
        if not found:
            raise SegZooError(f"--list {source}: it names no pictures; write one path or address on each line")
        files = [picture.path for picture in found if picture.path is not None]
        root = _common_folder(path.parent for path in files) if files else None
        pictures += [p if p.path is None else Input.of(p.path, root) for p in found]
    return list({picture.key: picture for picture in pictures}.values())


def find_pictures(
    arguments: Sequence[str],
    results: Callable[[Input], Iterable[str]],
    *,
    lists: Sequence[str] = (),
    leave_out: Path | None = None,
) -> list[Input]:
    """The pictures of `named_pictures`, whose results have names of their own.

    Args:
        results: the names of a picture's results, with slashes.
        arguments, lists, leave_out: as in `named_pictures`.

    Raises:
        SegZooError: as in `named_pictures`, or two pictures would have results of the same name.
    """
    pictures = named_pictures(arguments, lists=lists, leave_out=leave_out)
    writers = defaultdict(dict)
    for picture in pictures:
        for name in results(picture):
            writers[name][picture.key] = picture.name
    for name, sources in writers.items():
        if len(sources) > 1:
            listed = " and ".join(sorted(sources.values()))
            raise SegZooError(f"{listed} would both write {name}; rename one, or use one --output folder for each")
    return pictures


def check_results_are_free(
    pictures: Sequence[Input], output: Path, results: Callable[[Input], Iterable[str]], *, overwrite: bool
) -> None:
    """Check that the results replace no picture and, without ``overwrite``, no file.

    Args:
        pictures: the pictures.
        output: folder of the results.
        results: the names of a picture's results in it, with slashes.
        overwrite: whether results may be there.

    Raises:
        SegZooError: a file is in the way; the message names the first one.
    """
    from segzoo.files import check_folder_place

    check_folder_place(output, option="--output")
    targets = [output / name for picture in pictures for name in results(picture)]
    inputs = {picture.path.resolve() for picture in pictures if picture.path is not None}
    for target in targets:
        if target.resolve() in inputs:
            raise SegZooError(f"{target}: the result would replace the picture itself; choose another --output folder")
        if target.is_dir():
            raise SegZooError(f"{target}: a folder has the name of a result; choose another --output folder")
    taken = [target for target in targets if target.exists()]
    if taken and not overwrite:
        raise SegZooError(
            f"{taken[0]}: {len(taken)} results exist already; add --overwrite, or choose another folder (--skip_existing "
            "goes on where a run was ended)"
        )


def _named_by(argument: str, leave_out: Path | None) -> list[Input]:
    path = Path(argument)
    if is_web_address(argument):
        return [Input.on_the_web(argument)]
    if path.is_dir():
        found = sorted(_files_below(path, leave_out))
        if not found:
            raise SegZooError(f"{path}: the folder holds no pictures ({', '.join(SUFFIXES)})")
        for file in found:
            refuse_special(file)
        return [Input.of(file, path) for file in found]
    if path.is_file():
        return [Input.of(path)]
    if glob.has_magic(argument) and not os.path.lexists(path):
        wanted = SUFFIXES + VIDEO_SUFFIXES
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True))]
        found = [p for p in found if p.is_file() and p.suffix.lower() in wanted and not _is_below(p, leave_out)]
        if not found:
            raise SegZooError(f"{argument}: no picture has a name of this pattern; check it")
        root = _common_folder([Path(*_before_magic(path.parts)), *(file.parent for file in found)])
        return [Input.of(file, root) for file in found]
    refuse_special(path)
    raise SegZooError(f"{path}: there is no such picture; check the path")


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """The pictures in a folder and those below it; hidden folders and ``leave_out`` are not looked into."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is(Path(place, name), leave_out)]
        yield from (Path(place, name) for name in files if Path(name).suffix.lower() in SUFFIXES)


def _is(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _before_magic(parts: Sequence[str]) -> list[str]:
    kept = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        kept.append(part)
    return kept


def _common_folder(folders: Iterable[Path]) -> Path:
    """The folder that is above all of them, or one of them; no path below it leaves it by ``..``."""
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))


def _lines(source: str) -> list[str]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SegZooError(
            f"--list {source}: cannot be read ({reason}); give a text file with one path a line"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]

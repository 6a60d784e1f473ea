"""The files of a released data set, and what is made of them."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segzoo.data.folders import open_folder
from segzoo.data.preparation.content import Content, Regions
from segzoo.data.preparation.tiling import Tiling
from segzoo.errors import SegZooError
from segzoo.files import whole_folder
from segzoo.text import listed

PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Folders of the prepared tree by the names of parts in the facts."""

_DISK_BLOCK = 4096


@dataclass(frozen=True)
class Item:
    """One picture of a release, with its mask.

    Attributes:
        part: "train", "validation" or "test".
        stem: name of the prepared files without extension.
        picture: address of the released picture.
        mask: its mask, or None where the release has none.
        tiling: how it is cut; None keeps it whole.
    """

    part: str
    stem: str
    picture: str
    mask: Content | Regions | None = None
    tiling: Tiling | None = None

    def renamed(self, stem: str) -> Item:
        """The same under another name."""
        return replace(self, stem=stem)


class Files:
    """All files of a release by their path, those inside its archives included.

    A zip archive is read where it lies; its files stand below its name without ``.zip``. A tar archive is unpacked into
    ``scratch`` first, since files inside it cannot be reached one by one.

    Args:
        source: the folder with the release, or one archive of it.
        scratch: folder for what must be unpacked; the source is never written to.

    Raises:
        SegZooError: there is no such folder, or an archive cannot be read.
    """

    def __init__(self, source: Path, scratch: Path) -> None:
        if not source.exists():
            raise SegZooError(f"{source}: there is no such folder or archive")
        self.source = source
        self.addresses: dict[str, str] = {}
        if source.is_dir():
            self._take_folder(source, "", scratch)
        else:
            self._take_archive(source, "", scratch)

    def _take_folder(self, folder: Path, prefix: str, scratch: Path) -> None:
        for path, address in open_folder(folder).walk(prefix):
            if _is_archive(path):
                self._take_archive(Path(address), path.rpartition("/")[0], scratch)
            else:
                self.addresses[path] = address

    def _take_archive(self, archive: Path, folder: str, scratch: Path) -> None:
        stem = re.sub(r"(\.tar)?\.(zip|tar|tgz|gz|bz2|xz)$", "", archive.name, flags=re.IGNORECASE)
        prefix = f"{folder}/{stem}/" if folder else f"{stem}/"
        if archive.suffix.casefold() == ".zip":
            for path, address in open_folder(archive).walk(prefix):
                if _is_archive(path):
                    raise SegZooError(f"{address}: an archive in an archive; unpack {archive} first")
                self.addresses[path] = address
            return
        place = scratch / prefix.rstrip("/").replace("/", "+")
        if not place.is_dir():
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                needed, free = _unpacked_size(archive), shutil.disk_usage(scratch).free
                if needed > free:
                    raise SegZooError(
                        f"{archive}: unpacking needs at least {needed / 2**30:.1f} GiB beside the target, where "
                        f"{free / 2**30:.1f} GiB are free; make room, or choose another disk"
                    )
                with whole_folder(place) as partial, tarfile.open(archive) as file:
                    file.extractall(partial, filter="data")
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise SegZooError(f"{archive}: the archive cannot be unpacked ({error}); download it again") from None
        self.addresses |= dict(open_folder(place).walk(prefix))

    def matching(self, pattern: str) -> Iterator[tuple[re.Match[str], str]]:
        """Matches and addresses, in the order of the paths, of the files whose path ends in ``pattern``.

        The pattern is a regular expression for the end of the path, from a slash on.
        """
        expression = re.compile(rf"(?:.*/)?(?:{pattern})", re.IGNORECASE)
        for path in sorted(self.addresses):
            if found := expression.fullmatch(path):
                yield found, self.addresses[path]

    def by_name(self, pattern: str, *, what: str) -> dict[str, str]:
        """Addresses by the group ``name`` of the pattern.

        Raises:
            SegZooError: no file matches, or two files have the same name.
        """
        found: dict[str, str] = {}
        for match, address in self.matching(pattern):
            if match["name"] in found:
                raise SegZooError(
                    f"{self.source}: two files are {what} {match['name']}: {found[match['name']]} and {address}; keep one"
                )
            found[match["name"]] = address
        if not found:
            raise SegZooError(f"{self.source}: no {what} are here: no file's path ends like {_readable(pattern)}")
        return found

    def the(self, pattern: str, *, what: str) -> str:
        """The address of the one file that matches.

        Raises:
            SegZooError: there is none, or there are several.
        """
        found = [address for _, address in self.matching(pattern)]
        if len(found) != 1:
            reason = f"{len(found)} files are" if found else "no file is"
            raise SegZooError(f"{self.source}: {reason} {what}: a path that ends like {_readable(pattern)}")
        return found[0]


@dataclass(frozen=True)
class Release:
    """How a released data set becomes pictures and masks.

    Attributes:
        facts: name of the data set in `segzoo.data.DATASETS`.
        items: lists pictures and masks.
    """

    facts: str
    items: Callable[[Files], Iterable[Item]]


def pair(
    part: str,
    pictures: Mapping[str, str],
    masks: Mapping[str, Content | Regions],
    names: Sequence[str] | None = None,
    *,
    tiling: Tiling | None = None,
) -> Iterator[Item]:
    """Pictures with the masks of the same name.

    Args:
        part: the part that they belong to.
        pictures, masks: by name.
        names: the names to take; None takes all pictures.
        tiling: how pictures and masks are cut.

    Raises:
        SegZooError: a picture or mask is missing; the message counts and names them.
    """
    wanted = list(pictures) if names is None else list(names)
    for what, there in (("picture", pictures), ("mask", masks)):
        missing = [name for name in wanted if name not in there]
        if missing:
            raise SegZooError(
                f"{part}: {len(missing)} of {len(wanted)} names have no {what}: {listed(missing, most=5)}; complete the "
                "release first"
            )
    for name in wanted:
        yield Item(part, name, pictures[name], masks[name], tiling)


def names_in(content: bytes) -> list[str]:
    """The names in a list of a release: the first word of each line."""
    return [line.split()[0] for line in content.decode("utf-8", "replace").splitlines() if line.strip()]


def _unpacked_size(archive: Path) -> int:
    """Bytes on disk of the content of a tar archive; of a compressed one it is read through, since no header tells."""
    if archive.suffix.casefold() == ".tar":
        return archive.stat().st_size
    with tarfile.open(archive, "r|*") as file:
        return sum(-(-member.size // _DISK_BLOCK) * _DISK_BLOCK for member in file if member.isfile())


def _is_archive(path: str) -> bool:
    return path.casefold().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz"))


def _readable(pattern: str) -> str:
    """A pattern as people write file names: groups become NAME, escapes go."""
    plain = re.sub(r"\(\?P<\w+>(?:[^()]|\([^()]*\))*\)", "NAME", pattern)
    return os.fspath(re.sub(r"\\(.)", r"\1", plain))

"""Files that are opened only if they are files: opening a FIFO waits for a writer, and some devices never end."""

import os
import stat
from typing import BinaryIO

from segzoo.errors import SegZooError

_KINDS = {
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class NotAFileError(OSError):
    """A path that is there, and is no file; the message says what it is, without the path."""


def special_kind(path: str | os.PathLike) -> str | None:
    """What a path is that is no regular file, in words such as "a socket"; links are followed.

    None for a regular file, and for a path that does not exist or cannot be looked at: opening it gives the reason.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def refuse_special(path: str | os.PathLike) -> None:
    """Check that a path is no FIFO, device, socket or folder; one that does not exist passes.

    Raises:
        SegZooError: it is one of these.
    """
    kind = special_kind(path)
    if kind is not None:
        raise SegZooError(f"{os.fspath(path)}: it is {kind}, not a file; take it out")


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading in binary mode, unless it is a FIFO, a device, a socket or a folder.

    Raises:
        NotAFileError: it is one of these; it has not been opened.
        OSError: it cannot be opened.
    """
    kind = special_kind(path)
    if kind is not None:
        raise NotAFileError(f"it is {kind}, not a file")
    return open(path, "rb")

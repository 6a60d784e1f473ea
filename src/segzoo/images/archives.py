"""Reading files inside zip archives, without unpacking them, and files at any other address of a table."""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
import zipfile
import zlib

from segzoo.images.web import is_web_address, read_web
from segzoo.images.windows import is_window, read_window, split_window, window_words
from segzoo.regular_files import open_regular

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_BYTES = "bytes://"
_open_archives: dict[tuple[int, str], zipfile.ZipFile] = {}
_lock = threading.Lock()


def zip_address(archive: str | os.PathLike, member: str) -> str:
    """The address of a file in a zip archive, in the form that `datasets` and `fsspec` also read."""
    return f"zip://{member}::{os.fspath(archive)}"


def file_name(text: str) -> str:
    """A path in a text in UTF-8, as this system's functions take it: other encodings than UTF-8 spell it otherwise."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def file_address(path: str) -> str:
    """The path or address of a file as text that can be stored.

    Names on Linux are bytes. Those that are no UTF-8 come into Python with lone surrogates, which neither Arrow nor a
    file in UTF-8 holds; such a path becomes an address of its bytes, bytes://a%FF.png, and any other one stays.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _BYTES + urllib.parse.quote_from_bytes(os.fsencode(path))
    return path


def plain_path(address: str) -> str:
    """The path or address that `file_address` was given."""
    if not address.startswith(_BYTES):
        return address
    return os.fsdecode(urllib.parse.unquote_to_bytes(address.removeprefix(_BYTES)))


def file_of(address: str) -> str:
    """The path of the file on a disk that an address names a part of: an archive, or a file that is read by windows;
    other paths and addresses stay."""
    if is_window(address):
        return plain_path(split_window(address)[0])
    return plain_path(address).rpartition("::")[2]


def is_address(path: str) -> bool:
    """Whether a path is an address such as zip://..., hf://... or https://..., not a file on a disk."""
    return _ADDRESS.match(path) is not None


def readable(path: str) -> str:
    """A path as it is shown to people: zip://MEMBER::ARCHIVE becomes ARCHIVE/MEMBER, a window has rows and columns."""
    if is_window(path):
        path, window = split_window(path)
        return f"{plain_path(path)} ({window_words(window)})"
    path = plain_path(path)
    if not path.startswith("zip://"):
        return path
    member, _, archive = path.removeprefix("zip://").partition("::")
    return f"{archive}/{member}"


def read_address(path: str) -> bytes:
    """The content of a file on a disk, in a local zip archive, on the web, or at any address that `fsspec` knows; of a
    window (`segzoo.images.windows`) its values as a file of `numpy.save`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read, or its checksum in the archive is wrong.
    """
    path = plain_path(path)
    if not is_address(path):
        with open_regular(path) as file:
            return file.read()
    if path.startswith("zip://") and not is_address(path.partition("::")[2]):
        member, _, archive = path.removeprefix("zip://").partition("::")
        return _read_member(archive, member)
    if is_window(path):
        path, window = split_window(path)
        return read_window(plain_path(path), window)
    if is_web_address(path):
        return read_web(path)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError:
        raise
    except Exception as error:  # each file system of fsspec raises errors of its own types
        raise OSError(f"{type(error).__name__}: {error}") from error


def file_stamp(path: str) -> tuple[int, ...]:
    """What tells whether a file has changed, without reading it: size and time on a disk, size and checksum in a local zip
    archive; nothing at any other address.

    Raises:
        OSError: there is no such file.
    """
    path = plain_path(path)
    if not is_address(path):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    if path.startswith("zip://") and not is_address(path.partition("::")[2]):
        member, _, archive = path.removeprefix("zip://").partition("::")
        information = _member(archive, member)
        return information.file_size, information.CRC
    return ()


def _member(archive: str, member: str) -> zipfile.ZipInfo:
    try:
        return _archive(archive).getinfo(member)
    except KeyError:
        raise FileNotFoundError(f"{archive} has no file {member}") from None


def _read_member(archive: str, member: str) -> bytes:
    try:
        return _archive(archive).read(_member(archive, member))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise OSError(str(error)) from error


def _archive(path: str) -> zipfile.ZipFile:
    """The archive, opened and its table of contents read once per process; threads share it, forks do not."""
    key = os.getpid(), path
    with _lock:
        if key not in _open_archives:
            _open_archives[key] = zipfile.ZipFile(path)
        return _open_archives[key]

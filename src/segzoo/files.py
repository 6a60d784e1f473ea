"""Files and folders that exist whole or not at all, locks, and JSON that every reader understands.

Everything is first written under a hidden name with ``.partial`` in it, next to its final place, and renamed once it
is on the disk. While it is written it is locked, and a lock ends with its process: something with such a name and no
lock was left by a killed process, and `remove_abandoned` removes it.
"""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from segzoo.errors import SegZooError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""Name of the file in a folder that `lock` locks."""

_REPLACED, _EARLIER = ".replaced", ".earlier"  # suffixes of what is moved aside: a folder; files, inside a folder
_LOCK_PAUSE = 0.2  # seconds


# Files and folders


def write_whole(path: str | os.PathLike, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """Write a file under another name, sync it to the disk, and rename it into place.

    Readers see the old file or the new one, also after a crash, a full disk or a power cut.

    Args:
        path: the file; its folder exists.
        content: bytes, text (written as UTF-8 with ``\\n`` line endings, and with ``\\udcff`` for a byte of a file name
            that is no UTF-8, which JSON reads back), or a function that writes into the open file.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; an earlier file of this name is left as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        with _locked(partial):
            with partial.open("wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def whole_folder(directory: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """A hidden folder that is synced and renamed to ``directory`` when the block succeeds, and is removed when it
    fails.

    Remains of the same folder from killed processes are removed first. Its files get the read and write permissions of
    the folder.

    Args:
        directory: the folder to create, with its parents if necessary. It may exist if it is empty.
        replace: ``directory`` may also hold files; they stay until the new folder is whole. If the process is killed
            between the two renames, the old folder is left under a hidden name, and `remove_abandoned` renames it
            back.

    Raises:
        SegZooError: ``directory`` is not free (`check_folder_is_free`) or cannot be written; its earlier content is
            unchanged.
    """
    target = Path(directory)
    with _write_errors_of(target):
        if not (replace and target.is_dir()):
            check_folder_is_free(target)
    target = Path(os.path.realpath(target))
    with _write_errors_of(target), _hidden_folder(target) as partial:
        yield partial
        _sync(partial)
        if replace and target.is_dir():
            _exchange(partial, target)
            return
        try:
            if target.is_dir():
                target.rmdir()  # os.rename replaces an empty folder on POSIX only
            os.rename(partial, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise SegZooError(
                    f"{target}: was filled by someone else in the meantime; choose another folder"
                ) from error
            raise
        _sync_folder(target.parent)


@contextlib.contextmanager
def moved_together(main: str | os.PathLike, *, overwrite: bool = True, stale: Iterable[Path] = ()) -> Iterator[Path]:
    """A hidden folder whose files all move next to ``main`` when the block succeeds; if it fails, none of them do.

    The main file describes the others: the old one is moved away first and the new one arrives last, so that it never
    stands next to files that do not belong to it. If moving fails, the earlier files are put back; after a kill,
    `remove_abandoned` or the next call for the same main file does so.

    Args:
        main: the main file's final path; the block writes it into the folder under the same name, with others if it
            likes.
        overwrite: whether files with the same names may be replaced.
        stale: files next to ``main`` that belong to the earlier main file and are removed with it.

    Raises:
        SegZooError: a file cannot be written, or exists and ``overwrite`` is False; the earlier files are unchanged.
    """
    main = Path(main)
    stale = list(stale)
    with _write_errors_of(main), _hidden_folder(main) as folder:
        yield folder
        _sync(folder)
        others = sorted(main.with_name(path.name) for path in folder.iterdir() if path.name != main.name)
        if not overwrite and (there := next((place for place in (*others, main) if place.exists()), None)):
            raise SegZooError(f"{there}: the file exists already; choose another name, or allow to overwrite it")
        old = [place for place in {*others, *stale} if place.is_file()]
        if others or old:
            _exchange_files(folder, main, others, old)
        else:
            os.replace(folder / main.name, main)
        _sync_folder(main.parent)


def check_folder_is_free(directory: str | os.PathLike) -> None:
    """Check that a folder can be created at this path; call this before long work whose result goes there.

    Raises:
        SegZooError: the path is a file, or a folder that is not empty.
    """
    target = Path(directory)
    if target.is_dir():
        if any(target.iterdir()):
            raise SegZooError(f"{target}: the folder is not empty; choose another one, or empty it first")
    elif os.path.lexists(target):
        raise SegZooError(f"{target}: is not a folder; choose another name for the output")


def remove_folder(folder: Path) -> None:
    """Give a folder a hidden name and remove it, so that nobody sees it half-removed.

    Raises:
        OSError: the folder does not exist, or something in it cannot be removed.
    """
    hidden = _hidden_name(folder)
    with _locked(folder):
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


def remove_abandoned(directory: Path, name: str | None = None) -> None:
    """Clean up after killed processes in a folder; anything that a living process has locked stays.

    Half-written and half-removed files and folders are removed. Those that were moved aside for a replacement that
    never arrived get their names back.

    Args:
        directory: the folder to look into.
        name: clean up after this file or folder only; None: after all.
    """
    pattern = "*" if name is None else glob.escape(name)
    for path in [*directory.glob(f".{pattern}.partial-*"), *directory.glob(f".{pattern}.*.partial")]:
        with _locked(path) as is_ours:
            if is_ours:
                _remove(path)
    for aside in directory.glob(f".{pattern}{_REPLACED}"):
        target = aside.with_name(aside.name[1:].removesuffix(_REPLACED))
        with _locked(aside) as is_ours:
            if is_ours is False:
                continue
            if target.is_dir():
                _remove(aside)
            else:
                os.rename(aside, target)
    for aside in directory.glob(f".{pattern}{_EARLIER}"):
        main = aside.with_name(aside.name[1:].removesuffix(_EARLIER))
        with _locked(aside) as is_ours:
            if is_ours is False:
                continue
            if not main.is_file():
                _put_back(aside, main)
            _remove(aside)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hidden_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _hidden_folder(target: Path) -> Iterator[Path]:
    """A new, locked folder next to a target; it is removed at the end of the block, unless it has been renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, target.name)
    folder = _hidden_name(target)
    folder.mkdir()
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _write_errors_of(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SegZooError(
            f"{target}: could not be written ({error.strerror or error}); what was there before is unchanged, and nothing was "
            "left behind"
        ) from error


def _exchange(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``, and remove the folder that had this name."""
    aside = target.with_name(f".{target.name}{_REPLACED}")
    with _locked(target):  # so that nobody renames it back in the meantime
        os.rename(target, aside)
        try:
            os.rename(partial, target)
            _sync_folder(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange_files(folder: Path, main: Path, others: Iterable[Path], old: Iterable[Path]) -> None:
    """Move files out of ``folder`` to ``others`` and ``main``, after moving the old ``main`` and ``old`` aside."""
    aside = main.with_name(f".{main.name}{_EARLIER}")
    aside.mkdir()
    come: list[Path] = []
    with _locked(aside):
        try:
            for place in (main, *old):
                if place.is_file():
                    os.replace(place, aside / place.name)
            for place in (*others, main):
                os.replace(folder / place.name, place)
                come.append(place)
            _sync_folder(main.parent)
        except BaseException as error:
            try:
                for place in come:
                    place.unlink()
                _put_back(aside, main)
                aside.rmdir()
            except OSError:
                raise SegZooError(
                    f"{main}: could not be written ({error}); the earlier files are in {aside}, move them back"
                ) from error
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _put_back(aside: Path, main: Path) -> None:
    """Move the files of a folder back next to ``main``, ``main`` itself last."""
    for path in sorted(aside.iterdir(), key=lambda path: path.name == main.name):
        os.replace(path, main.with_name(path.name))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Sync a folder and its files to the disk, and give the files the read and write permissions of the folder."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors creates files that only their owner may read, whatever the umask
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Locks


class FolderInUse(Exception):
    """Another process holds a folder; ``holder`` is its number and machine, or empty if it has not written them."""

    def __init__(self, holder: str):
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def lock(
    directory: str | os.PathLike, *, shared: bool = False, joining: bool = False, wait: float = 0.0
) -> Iterator[None]:
    """Hold a folder until the block ends or the process dies; its forked children do not hold it.

    The lock is on the file `LOCK` in the folder; the last process to release it removes the file. If the system or the
    disk has no locks, nobody is kept out.

    Args:
        directory: an existing folder.
        shared: once the folder is held, others may join.
        joining: hold the folder together with the processes that share it; otherwise nobody else may hold it.
        wait: seconds to wait for the folder to become free.

    Raises:
        FolderInUse: another process holds the folder.
        OSError: the file cannot be created.
    """
    path = Path(directory) / LOCK
    deadline = time.monotonic() + wait
    while True:
        try:
            held = _hold_file(path, shared=shared, joining=joining)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FolderInUse(_holder(path)) from None
            time.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if held is not None:
                held.take()  # fails while others share it, and in a forked child
            path.unlink()
        if held is not None:
            held.close()


def _hold_file(path: Path, *, shared: bool, joining: bool) -> "_Held | None":
    while True:
        held = _try_lock(path, os.O_RDWR | os.O_CREAT, shared=joining)
        if held is None:
            return None
        try:
            if not held.is_at(path):  # the process that held it before has just removed it
                held.close()
                continue
            if not joining:
                held.sign()
            if shared and not joining:
                held.take(shared=True)
        except BaseException:
            held.close()
            raise
        return held


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder for the block; the lock stays if it is renamed or removed.

    Yields True; False if another process has locked it or it cannot be opened; None if the system or the disk has no
    locks.
    """
    held: _Held | None = None
    try:
        held = _try_lock(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        is_ours = None if held is None else True
    except OSError:
        is_ours = False
    try:
        yield is_ours
    finally:
        if held is not None:
            held.close()


def _try_lock(path: Path, flags: int, *, shared: bool = False) -> "_Held | None":
    """Open and lock a file or folder; None if the system or the disk has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the path cannot be opened.
    """
    if sys.platform == "win32":
        return None
    held = _Held(path, flags)
    try:
        held.take(shared=shared)
    except OSError as error:
        held.close()
        if isinstance(error, BlockingIOError):
            raise
        return None
    return held


class _Held:
    """An open file or folder that can be locked. The lock lasts until all copies of the descriptor are closed.

    Forked children close their copies at once, because a data-loading process may outlive a killed training by
    seconds.
    """

    _all: "ClassVar[set[_Held]]" = set()

    def __init__(self, path: Path, flags: int):
        self._descriptor: int | None = os.open(path, flags, 0o666)
        self._all.add(self)

    def take(self, *, shared: bool = False) -> None:
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def is_at(self, path: Path) -> bool:
        try:
            return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False

    def sign(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # only used in the message of a process that finds the folder held
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())

    def close(self) -> None:
        if self._descriptor is not None:
            self._all.discard(self)
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def close_all(cls) -> None:
        for held in list(cls._all):
            held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Held.close_all)


# Texts


def json_text(values: Any, *, indent: int | None = 2) -> str:
    """Values as JSON with a newline at the end; NaN and infinite numbers become null."""
    return json.dumps(_finite(values), indent=indent, ensure_ascii=False) + "\n"


def slug(text: str) -> str:
    """Text for a file name or identifier: lower-case ASCII letters, digits and dashes, or ``"unnamed"``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

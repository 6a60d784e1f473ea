"""Locks on files and folders, which end with the process that holds them."""

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""Name of the file in a folder that `lock` locks."""

_LOCK_PAUSE = 0.2  # seconds


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
def locked(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder for the block; the lock stays if it is renamed or removed.

    Yields True; False if another process has locked it, or it cannot be opened, or it was removed or replaced just
    before it was locked; None if the system or the disk has no locks.
    """
    held: _Held | None = None
    try:
        held = _try_lock(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        is_ours = None if held is None else held.is_at(path)
    except OSError:
        is_ours = False
    try:
        yield is_ours
    finally:
        if held is not None:
            held.close()


@contextlib.contextmanager
def created_and_locked(path: Path, create: Callable[[Path], object]) -> Iterator[None]:
    """Create a file or folder and lock it for the block; the lock stays if it is renamed or removed.

    Between the two another process may take it for the remains of a killed one and remove it. Then it is created
    again.

    Raises:
        OSError: ``create`` fails.
    """
    held: _Held | None = None
    while True:
        create(path)
        try:
            held = _try_lock(path, os.O_RDONLY if path.is_dir() else os.O_RDWR, wait=True)
        except FileNotFoundError:
            continue
        if held is None or held.is_at(path):
            break
        held.close()
    try:
        yield
    finally:
        if held is not None:
            held.close()


def _try_lock(path: Path, flags: int, *, shared: bool = False, wait: bool = False) -> "_Held | None":
    """Open and lock a file or folder; None if the system or the disk has no locks.

    Args:
        path: what to lock.
        flags: of `os.open`.
        shared: others may lock it too, if they share it.
        wait: until others have released it.

    Raises:
        BlockingIOError: another process holds the lock, without ``wait``.
        OSError: the path cannot be opened.
    """
    if sys.platform == "win32":
        return None
    held = _Held(path, flags)
    try:
        held.take(shared=shared, wait=wait)
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

    def take(self, *, shared: bool = False, wait: bool = False) -> None:
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)

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

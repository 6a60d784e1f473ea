"""Places that a user names for results: what is wrong with them is found before the work, and errors name them."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from segzoo.errors import DISK_IS_FULL, SegZooError

if sys.platform != "win32":
    import resource

ARRIVING = ".arriving.partial-"
"""How the names of hidden folders begin whose content moves into the folder around them when it is whole."""


def check_file_place(path: str | os.PathLike, *, option: str = "", overwrite: bool = True) -> None:
    """Check that a file can be made at a path; call this before long work whose result goes there.

    Args:
        path: the file; its folder must exist.
        option: the option that names it, such as ``"--json"``, for messages.
        overwrite: whether it may exist already.

    Raises:
        SegZooError: the path is empty, a folder, a device or a pipe, its folder does not exist or cannot be written to, the
            name is too long, or the file exists although ``overwrite`` is False.
    """
    shown = _shown(path, option)
    path = _with_name(path, shown)
    if path.is_dir():
        raise SegZooError(f"{shown}: this is a folder; name a file")
    if path.exists() and not path.is_file():
        raise SegZooError(f"{shown}: this is a device or a pipe, which cannot be replaced; name a file")
    above = _check_above(path, shown)
    if not path.parent.is_dir():
        raise SegZooError(f"{shown}: there is no folder {path.parent} (only {above}); make it first")
    if path.exists() and not overwrite:
        raise SegZooError(f"{shown}: the file exists already; choose another name, or allow to overwrite it")


def check_folder_place(directory: str | os.PathLike, *, option: str = "") -> None:
    """Check that a folder is there and can be written to, or can be made; call this before long work.

    Args:
        directory: the folder; folders above it may be missing.
        option: the option that names it, such as ``"--output"``, for messages.

    Raises:
        SegZooError: the path is empty, it or one above it is a file, the name is too long, or a folder cannot be written to.
    """
    shown = _shown(directory, option)
    target = _with_name(directory, shown)
    if os.path.lexists(target) and not target.is_dir():
        raise SegZooError(f"{shown}: is not a folder but is a file; choose another name for the output")
    _check_above(target, shown)
    if target.is_dir() and not os.access(target, os.W_OK | os.X_OK):
        raise SegZooError(f"{shown}: the folder cannot be written to; choose another one")


def check_folder_is_free(directory: str | os.PathLike, *, option: str = "") -> None:
    """Check that a folder can be created at this path; call this before long work whose result goes there.

    Args:
        directory: the folder; folders above it may be missing.
        option: the option that names it, for messages.

    Raises:
        SegZooError: as `check_folder_place`, or the folder is not empty.
    """
    check_folder_place(directory, option=option)
    if not is_free(Path(directory)):
        raise SegZooError(
            f"{_shown(directory, option)}: the folder is not empty; choose another one, or empty it first"
        )


def is_free(folder: Path) -> bool:
    """Whether a folder is not there, or empty but for what a killed process has left or another one is writing in it."""
    return not folder.is_dir() or all(path.name.startswith(ARRIVING) for path in folder.iterdir())


def check_room(path: str | os.PathLike, needed: int) -> None:
    """Check that a file of a known size has room where it goes.

    Args:
        path: the file, which need not exist.
        needed: its size in bytes.

    Raises:
        SegZooError: the disk has less room, or the process may not write files of this size (``ulimit -f``).
    """
    free = shutil.disk_usage(_first_there(Path(path))).free
    cause = (
        f"and {_mebibytes(free)} are free on its disk; make room, or choose another disk" if needed > free else None
    )
    if sys.platform != "win32":
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY and needed > limit:
            cause = f"and files may have {_mebibytes(limit)} here (ulimit -f); raise the limit"
    if cause is not None:
        raise SegZooError(f"{path}: the file needs about {_mebibytes(needed)}, {cause}")


@contextlib.contextmanager
def write_errors_of(target: str | os.PathLike) -> Iterator[None]:
    """A context whose errors of the operating system name what the user asked for, instead of a hidden file in it.

    Raises:
        SegZooError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        fix = "make room" if error.errno in DISK_IS_FULL else "correct that"
        raise SegZooError(
            f"{target}: could not be written ({error.strerror or error}); what was there before is unchanged, and nothing was "
            f"left behind; {fix}, or choose another place"
        ) from error


def _with_name(path: str | os.PathLike, shown: str) -> Path:
    """The path, or where ``.`` or ``..`` at its end leads."""
    if not os.fspath(path):
        raise SegZooError(f"{shown}: the path is empty; name a file or folder".lstrip(" :"))
    path = Path(path)
    return Path(os.path.realpath(path)) if path.name in ("", "..") else path


def _check_above(path: Path, shown: str) -> Path:
    """The nearest path above that exists, which must be a folder where the next one, or the file, can be made."""
    above = _first_there(path.absolute().parent)
    if not above.is_dir():
        raise SegZooError(f"{shown}: {above} is a file, and nothing can be made below a file; choose another place")
    if not path.is_dir() and not os.access(above, os.W_OK | os.X_OK):
        raise SegZooError(f"{shown}: {above} cannot be written to; choose another folder")
    try:
        if path.name:  # a root has none
            os.lstat(path.with_name(f".{path.name}.partial-00000000"))  # the longest name while it is written
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SegZooError(f"{shown}: the name is too long; choose a shorter one") from error
    return above


def _first_there(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))


def _shown(path: str | os.PathLike, option: str) -> str:
    return f"{option} {path}".strip()


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"

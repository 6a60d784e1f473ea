"""Files and folders that exist whole or not at all.

Everything is first written under a hidden name with ``.partial`` in it, next to its final place, and renamed once it
is on the disk. While it is written it is locked, and a lock ends with its process: something with such a name and no
lock was left by a killed process, and `remove_abandoned` removes it.
"""

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from segzoo.errors import SegZooError
from segzoo.files.locks import created_and_locked, locked
from segzoo.files.outputs import ARRIVING, check_folder_is_free, is_free, write_errors_of

_ARRIVING = ARRIVING[1:].removesuffix(".partial-")
_MAIN = "config.json"  # with it a folder is a model
_REPLACED, _EARLIER = ".replaced", ".earlier"  # suffixes of what is moved aside: a folder; files, inside a folder


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
        OSError: the file cannot be written; it names ``path``. An earlier file of this name is left as it was.
    """
    path = Path(path)
    try:
        _write_and_rename(path, content)
    except OSError as error:
        # Errors of writing name no file, and others name the hidden one.
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    return path


def _write_and_rename(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with created_and_locked(partial, Path.touch):
        try:
            with partial.open("wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_folder(directory: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """A hidden folder that is synced and renamed to ``directory`` when the block succeeds, and is removed when it
    fails.

    An empty folder that is there stays the same one, with its owner and rights, be it the current one, a mounted disk, or in a
    folder that may not be written: the hidden folder is in it, and its files move out at the end, ``config.json`` last. A kill
    between two of these moves leaves some of them.

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
    with write_errors_of(directory):
        # What replaces a folder is written many times: a disk that fails in between tells its own reason.
        if not replace or (os.path.lexists(directory) and not Path(directory).is_dir()):
            check_folder_is_free(directory)
    target = Path(os.path.realpath(directory))
    place = target / _ARRIVING if target.is_dir() and not replace else target
    with write_errors_of(directory), _hidden_folder(place) as partial:
        yield partial
        _sync(partial)
        if replace and target.is_dir():
            _exchange(partial, target)
            return
        try:
            if place == target:
                if target.is_dir():
                    target.rmdir()  # os.rename replaces an empty folder on POSIX only
                os.rename(partial, target)
            else:
                _move_out(partial, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise SegZooError(
                    f"{directory}: was filled by someone else in the meantime; choose another folder"
                ) from error
            raise
        _sync_folder(place.parent)


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
    with write_errors_of(main), _hidden_folder(main) as folder:
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


def remove_folder(folder: Path) -> None:
    """Give a folder a hidden name and remove it, so that nobody sees it half-removed.

    Raises:
        OSError: the folder does not exist, or something in it cannot be removed.
    """
    hidden = _hidden_name(folder)
    with locked(folder):
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
        with locked(path) as is_ours:
            if is_ours:
                _remove(path)
    for aside in directory.glob(f".{pattern}{_REPLACED}"):
        target = aside.with_name(aside.name[1:].removesuffix(_REPLACED))
        with locked(aside) as is_ours:
            if is_ours is False:
                continue
            if target.is_dir():
                _remove(aside)
            else:
                os.rename(aside, target)
    for aside in directory.glob(f".{pattern}{_EARLIER}"):
        main = aside.with_name(aside.name[1:].removesuffix(_EARLIER))
        with locked(aside) as is_ours:
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
    with created_and_locked(folder, Path.mkdir):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_out(partial: Path, target: Path) -> None:
    """Move what a hidden folder holds into the empty folder around it; if that fails, nothing of it is left there.

    Raises:
        OSError: the files cannot be moved, or another process has filled the folder, or does so now.
    """
    come: list[Path] = []
    with locked(target) as is_ours:
        if is_ours is False or not is_free(target):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        try:
            for path in sorted(partial.iterdir(), key=lambda path: path.name == _MAIN):
                come.append(target / path.name)
                os.replace(path, come[-1])
        except BaseException:
            for path in come:
                _remove(path)
            raise


def _exchange(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``, and remove the folder that had this name."""
    aside = target.with_name(f".{target.name}{_REPLACED}")
    with locked(target):  # so that nobody renames it back in the meantime
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
    come: list[Path] = []
    with created_and_locked(aside, Path.mkdir):
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

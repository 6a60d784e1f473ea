"""Where an export is written before it takes its name."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from segzoo.errors import SegZooError
from segzoo.hub import remove_abandoned, try_lock


@contextlib.contextmanager
def aside(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path of the target's name in a hidden folder beside it; all files there take their places when the block ends well.

    Otherwise whatever was there before stays, or is put back. A process that is killed leaves the hidden folder, which the
    next export to the same target removes. The weights that an overwritten ONNX graph had beside it go with it.

    Args:
        target: the file to write, or a graph that has weights beside it.
        overwrite: files of these names may be replaced.

    Raises:
        SegZooError: something cannot be written (no permission, disk full), or is there already.
    """
    folder = lock = None
    try:
        remove_abandoned(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        lock = try_lock(folder)
        partial = folder / target.name
        yield partial
        for path in folder.iterdir():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
            if not overwrite and (place := target.with_name(path.name)).exists():
                raise SegZooError(f"{place}: the file exists already; choose another name, or allow to overwrite it")
        others = [path for path in folder.iterdir() if path != partial]
        stale = target.with_name(f"{target.name}.data")
        is_stale = target.suffix == ".onnx" and target.is_file() and folder / stale.name not in others
        _put_in_place(partial, others, target)
        if is_stale:
            with contextlib.suppress(OSError):  # there is none, or it harms nobody
                stale.unlink()
    except OSError as error:
        raise SegZooError(
            f"{target}: could not be written ({error.strerror or error}); what was there before is unchanged"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _put_in_place(partial: Path, others: Sequence[Path], target: Path) -> None:
    """Move the files of an export beside each other, all of them or none."""
    if not others:
        os.replace(partial, target)
        return
    # Old and new weights beside the wrong graph would be wrong without a word: the graph goes first and comes last.
    earlier = Path(tempfile.mkdtemp(prefix=f".{target.name}.earlier-", dir=target.parent))
    try:
        with contextlib.ExitStack() as undo:
            for path in (partial, *others):
                place = target.with_name(path.name)
                if place.is_file():
                    os.replace(place, earlier / path.name)
                    undo.callback(os.replace, earlier / path.name, place)
            for path in (*others, partial):
                place = target.with_name(path.name)
                os.replace(path, place)
                undo.callback(place.unlink)
            undo.pop_all()
    except BaseException as error:
        try:
            earlier.rmdir()  # empty, unless a file could not be put back
        except OSError:
            raise SegZooError(
                f"{target}: could not be written ({error}); the earlier files are in {earlier}, move them back"
            ) from error
        raise
    shutil.rmtree(earlier, ignore_errors=True)

"""The output folder of a training: free, and held, when it starts; a whole model folder when it ends."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError
from segzoo.files import json_text, write_whole
from segzoo.hub import remove_abandoned, save_model_folder
from segzoo.training.checkpoints import list_checkpoints, list_left_checkpoints, remove_leftovers

RESULTS, LOG, FIGURES = "all_results.json", "training_log.jsonl", "figures"
_STAGING, _LOCK = ".model", ".lock"
_MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*config.json", "modeling_segzoo.py", "README.md")


@contextlib.contextmanager
def claim_output_folder(
    directory: str | os.PathLike, *, overwrite: bool = False, resume: bool = False
) -> Iterator[Path]:
    """`prepare_output_folder`, and no other training can have the folder until the block ends or the process dies.

    The main process enters it. What a killed training left half-written is removed.

    Raises:
        SegZooError: as `prepare_output_folder`, or another living process holds the folder.
    """
    target = _make(Path(directory))
    with _held(target):
        yield prepare_output_folder(target, overwrite=overwrite, resume=resume)


def prepare_output_folder(directory: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Make the folder, or refuse it, before any work is done.

    Args:
        directory: the folder.
        overwrite: remove what an earlier training left there; files that this script does not write stay.
        resume: what is there is to be continued; it wins over ``overwrite``.

    Raises:
        SegZooError: it is a file, cannot be made, or holds something and neither ``overwrite`` nor ``resume`` is asked for.
    """
    target = _make(Path(directory))
    if any(file.name != _LOCK for file in target.iterdir()):
        if not (resume or overwrite):
            raise SegZooError(
                f"--output_dir {target}: is not empty; choose another folder, or pass --overwrite_output_dir to start anew "
                "there or --resume_from_checkpoint latest to go on"
            )
        try:
            _clear(target, everything=not resume)
        except OSError as error:
            raise SegZooError(
                f"--output_dir {target}: {error.filename} cannot be removed ({error.strerror})"
            ) from error
    return target


def publish_model(model, processor, directory: str | os.PathLike, card: str) -> Path:
    """Save model, processor and card into the output folder, beside checkpoints and figures.

    They are written and synced in a hidden folder first, then moved, the config last: a folder with a config is whole.

    Raises:
        SegZooError: it cannot be written.
    """
    target = Path(directory)
    staging = target / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    save_model_folder(model, processor, staging, card=card)
    try:
        (target / "config.json").unlink(missing_ok=True)
        for old in target.glob("*.safetensors*"):
            if not (staging / old.name).exists():
                old.unlink()  # shards of an earlier, larger model
        for file in sorted(staging.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, target / file.name)
        staging.rmdir()
    except OSError as error:
        raise SegZooError(f"{target}: the model could not be moved into place ({error.strerror})") from error
    return target


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; numbers that are not finite become null.

    Raises:
        SegZooError: it cannot be written.
    """
    _write(path, json_text(values))


def write_log(path: str | os.PathLike, history: list[dict]) -> None:
    """Write the history of a training, one JSON object a line, whole or not at all.

    Raises:
        SegZooError: it cannot be written.
    """
    _write(path, "".join(json_text(entry, indent=None) for entry in history))


def _write(path: str | os.PathLike, text: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # somebody may have removed it in the meantime
        write_whole(path, text)
    except OSError as error:
        raise SegZooError(
            f"{path}: could not be written ({error.strerror}); make room or choose another folder"
        ) from error


def _make(target: Path) -> Path:
    if target.exists() and not target.is_dir():
        raise SegZooError(f"--output_dir {target}: is a file; choose a folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise SegZooError(f"--output_dir {target}: cannot be made or written to ({error.strerror})") from error
    return target


def _clear(target: Path, *, everything: bool) -> None:
    """Remove what a killed training left half-written or, with ``everything``, all that the script writes."""
    remove_leftovers(target)
    remove_abandoned(target / _STAGING)
    shutil.rmtree(target / _STAGING, ignore_errors=True)
    for file in target.glob(".*.partial"):
        if file.is_file():
            file.unlink()
    if everything:
        for checkpoint in (*list_checkpoints(target), *list_left_checkpoints(target)):
            shutil.rmtree(checkpoint)
        for pattern in (*_MODEL_FILES, RESULTS, LOG, f"{FIGURES}/*.png"):
            for file in target.glob(pattern):
                file.unlink()


@contextlib.contextmanager
def _held(target: Path) -> Iterator[None]:
    """Hold a lock file in the folder. The lock is this process's alone: processes that it starts do not inherit it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = target / _LOCK
    with contextlib.ExitStack() as stack:
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, file)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise SegZooError(
                    f"--output_dir {target}: another training is writing there (process {os.read(file, 99).decode()}); wait "
                    "for its end, stop it, or choose another folder"
                ) from error
            except OSError:  # a file system without locks
                break
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                break  # otherwise the one before has just removed it
        with contextlib.suppress(OSError):  # only what the message above says
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

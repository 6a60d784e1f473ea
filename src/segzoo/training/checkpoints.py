"""Checkpoints that are whole or not there, and training that goes on from the last whole one.

A checkpoint is a folder ``step_<n>`` that `accelerate` fills (model, optimizer, schedule, random numbers of every
process), with a ``checkpoint.json``: the step, what the caller wants to remember, and size and SHA-256 of every file.
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError
from segzoo.hub import replacing_folder

RECORD = "checkpoint.json"
_PREFIX = "step_"


def save_checkpoint(accelerator, directory: str | os.PathLike, step: int, memory: Mapping[str, Any]) -> Path:
    """Write ``directory/step_<step>``; every process calls this.

    The folder is written under a hidden name, synced to the disk and renamed. What was there before stays whole when the
    disk is full or the process is killed.

    Args:
        accelerator: everything to save has been prepared by it or registered with it.
        directory: where the checkpoints lie; made if need be.
        step: optimizer steps done.
        memory: anything else to remember, ready for JSON.

    Raises:
        SegZooError: the folder cannot be written.
    """
    from accelerate.utils import broadcast_object_list

    target = Path(directory) / f"{_PREFIX}{step}"
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and target.exists():
        shutil.rmtree(target)  # from a run that went on differently
    with contextlib.ExitStack() as stack:
        shared: list[Any] = [None]
        if accelerator.is_main_process:
            shared[0] = str(stack.enter_context(replacing_folder(target)))
        partial = Path(broadcast_object_list(shared)[0])
        try:
            accelerator.save_state(str(partial))
        except RuntimeError as error:  # how torch.save reports a full disk
            if "PytorchStreamWriter" not in str(error) and "write" not in str(error):
                raise
            raise SegZooError(f"{target}: could not be written ({error}); earlier checkpoints are whole") from error
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files = {
                file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
                for file in sorted(partial.rglob("*"))
                if file.is_file()
            }
            record = {"step": step, "memory": dict(memory), "files": files}
            (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
    accelerator.wait_for_everyone()
    return target


def load_checkpoint(accelerator, checkpoint: str | os.PathLike) -> tuple[int, dict[str, Any]]:
    """Put everything back as it was; every process calls this, after preparing the same objects.

    Returns:
        The step, and what ``memory`` held.

    Raises:
        SegZooError: the folder is no whole checkpoint, or belongs to another model or optimizer.
    """
    record = read_record(checkpoint)
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()
        raise SegZooError(
            f"{checkpoint}: does not fit this model and optimizer ({'; '.join(line.strip() for line in first[:3])}); "
            "resume with the settings it was written with"
        ) from error
    return record["step"], record["memory"]


def read_record(checkpoint: str | os.PathLike) -> dict[str, Any]:
    """The content of ``checkpoint.json``, after every file has been compared with it.

    Raises:
        SegZooError: the folder or a file is missing, or a file has another size or hash than when it was written.
    """
    folder = Path(checkpoint)
    if not (folder / RECORD).is_file():
        raise SegZooError(f"{folder}: is no checkpoint of this script (it has no {RECORD})")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = record["files"].items()
    except (ValueError, KeyError, AttributeError) as error:
        raise SegZooError(f"{folder / RECORD}: is damaged ({error}); resume from an earlier checkpoint") from error
    for name, expected in files:
        file = folder / name
        if not file.is_file():
            raise SegZooError(f"{file}: is missing from the checkpoint; resume from an earlier one")
        if file.stat().st_size != expected["bytes"]:
            raise SegZooError(
                f"{file}: has {file.stat().st_size} bytes instead of {expected['bytes']}; resume from an earlier checkpoint"
            )
        if (actual := _sha256(file)) != expected["sha256"]:
            raise SegZooError(
                f"{file}: has changed since it was written (SHA-256 {actual[:12]}... instead of "
                f"{expected['sha256'][:12]}...); resume from an earlier checkpoint"
            )
    return record


def list_checkpoints(directory: str | os.PathLike) -> list[Path]:
    """Folders ``step_<n>`` in a directory, the earliest first, whole or not."""
    found = []
    for folder in Path(directory).glob(f"{_PREFIX}*"):
        number = folder.name.removeprefix(_PREFIX)
        if number.isdigit() and folder.is_dir():
            found.append((int(number), folder))
    return [folder for _, folder in sorted(found)]


def find_checkpoint(directory: str | os.PathLike, wanted: str) -> Path | None:
    """Which checkpoint to go on from.

    Args:
        directory: where the checkpoints lie.
        wanted: ``"latest"``, or the path of a checkpoint, or its name in ``directory``.

    Returns:
        The folder. For ``"latest"`` the last whole one: damaged ones are skipped with a warning; None without any.

    Raises:
        SegZooError: the one that was named is not there or damaged, or all are damaged.
    """
    if wanted != "latest":
        folder = Path(wanted) if Path(wanted).is_dir() else Path(directory) / wanted
        if not folder.is_dir():
            raise SegZooError(f"there is no checkpoint {wanted}, also not in {directory}")
        read_record(folder)
        return folder
    candidates = list_checkpoints(directory)
    for folder in reversed(candidates):
        try:
            read_record(folder)
            return folder
        except SegZooError as error:
            warnings.warn(f"skipped a damaged checkpoint: {error}", stacklevel=2)
    if candidates:
        raise SegZooError(f"none of the {len(candidates)} checkpoints in {directory} is whole; start anew")
    return None


def remove_old_checkpoints(directory: str | os.PathLike, keep: int | None) -> None:
    """Remove all but the last ``keep`` checkpoints; None keeps all."""
    if keep is not None:
        candidates = list_checkpoints(directory)
        for folder in candidates[: max(0, len(candidates) - keep)]:
            shutil.rmtree(folder, ignore_errors=True)


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Checkpoints that exist whole or not at all, and training that goes on from the last whole one.

A checkpoint is a folder ``step_<n>``: the files of `accelerate` (model, optimizer, gradient scaler, registered objects
such as schedule and weight average, random numbers of every process), ``memory.json`` with anything else that the
caller wants to keep, and ``checkpoint.json`` with the size and hash of each of these files. What is known only later,
such as scores, is in ``scores.json``; a checkpoint without it is whole.

The hash is XXH3 (128 bits): it finds every accident and is ten times as fast as SHA-256, so that its time is
negligible compared with writing. It does not protect against attackers; files are therefore unpickled with
``weights_only``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import xxhash
from safetensors import SafetensorError

from segzoo.errors import SegZooError
from segzoo.files import remove_folder, whole_folder, write_errors_of, write_whole
from segzoo.training.processes import run_together

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORD, MEMORY, _LATER = "checkpoint.json", "memory.json", "scores.json"
_PREFIX = "step_"


class Resumed(NamedTuple):
    """Where a training goes on: the checkpoint's folder, its number of steps, and its ``memory``."""

    folder: Path
    step: int
    memory: dict[str, Any]


def save_checkpoint(
    accelerator: Accelerator, directory: str | os.PathLike, step: int, memory: Mapping[str, Any]
) -> Path:
    """Write ``directory/step_<step>``; every process calls this, and all succeed or all fail.

    The folder is written under a hidden name, synced to the disk and renamed. Earlier checkpoints stay whole if the
    disk is full or the process is killed; one of the same step is replaced only by the renaming.

    Args:
        accelerator: everything to save has been prepared by it or registered with it.
        directory: folder of the checkpoints, shared by all processes; created if necessary.
        step: number of optimizer steps done.
        memory: anything else to keep, as JSON values.

    Raises:
        SegZooError: the checkpoint cannot be written; no part of it is left.
    """
    target = Path(directory) / f"{_PREFIX}{step}"
    with contextlib.ExitStack() as stack:

        def begin() -> str:
            return str(stack.enter_context(whole_folder(target, replace=True)))

        def save() -> None:
            with _write_errors_of(target, partial):
                accelerator.save_state(str(partial))

        def finish() -> None:
            with _write_errors_of(target, partial):
                _write_record(partial, step, memory, accelerator)
            stack.close()  # here the folder gets its name

        partial = Path(run_together(accelerator, begin, main_only=True))
        run_together(accelerator, save)
        run_together(accelerator, finish, main_only=True)
    return target


def add_to_memory(checkpoint: str | os.PathLike, changes: Mapping[str, Any]) -> None:
    """Replace parts of a checkpoint's memory without writing its weights again; the main process calls this.

    Args:
        checkpoint: the folder.
        changes: the new values by name, as JSON values; they replace those of an earlier call.

    Raises:
        SegZooError: the file cannot be written; the checkpoint is whole, and its memory as it was.
    """
    path = Path(checkpoint) / _LATER
    with write_errors_of(path):
        write_whole(path, json.dumps(dict(changes)))


def load_checkpoint(accelerator: Accelerator, checkpoint: str | os.PathLike) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint into everything that `accelerate` prepared; every process calls this after preparing the same
    objects.

    Returns:
        The step, and the ``memory`` of `save_checkpoint`.

    Raises:
        SegZooError: the folder is not a whole checkpoint, or belongs to another model or optimizer.
    """
    folder = Path(checkpoint)
    run_together(accelerator, lambda: read_record(folder), main_only=True)
    return _load_whole(accelerator, folder)


def resume_checkpoint(
    accelerator: Accelerator,
    directory: str | os.PathLike,
    wanted: str,
    *,
    total_steps: int | None = None,
    overwrite: bool = False,
) -> Resumed | None:
    """Find the checkpoint to go on from and load it; every process calls this, after preparing the same objects.

    Only the main process looks for it and compares the hashes. Whole checkpoints of later steps than the chosen one
    belong to another course of the training: once this one goes on, they must not be mistaken for its own.

    Args:
        accelerator: the accelerator of the training.
        directory, wanted: as in `find_checkpoint`.
        total_steps: number of steps of the training that goes on; None: any.
        overwrite: remove whole checkpoints of later steps, with a warning for each.

    Returns:
        The loaded checkpoint; None for ``"latest"`` if there is no checkpoint yet.

    Raises:
        SegZooError: see `find_checkpoint` and `load_checkpoint`; or the checkpoint lies after ``total_steps``; or there is a
            whole checkpoint of a later step and ``overwrite`` is False.
    """
    folder = run_together(accelerator, lambda: _find_within(directory, wanted, total_steps), main_only=True)
    if folder is None:
        return None
    step, memory = _load_whole(accelerator, folder)
    run_together(accelerator, lambda: _give_up_later(Path(directory), step, overwrite=overwrite), main_only=True)
    return Resumed(folder, step, memory)


def read_record(checkpoint: str | os.PathLike, *, contents: bool = True) -> dict[str, Any]:
    """The content of ``checkpoint.json``, after comparing every file with it.

    Args:
        checkpoint: the folder.
        contents: compare hashes as well; otherwise only check that the files exist with the right size.

    Raises:
        SegZooError: the folder or a file is missing or cannot be read, or a file has another size or hash than when it
            was written.
    """
    folder = Path(checkpoint)
    advice = "resume from an earlier checkpoint"
    if not (folder / RECORD).is_file():
        raise SegZooError(f"{folder}: is no whole checkpoint of this script (it has no {RECORD}); {advice}")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {name: (int(facts["bytes"]), str(facts["xxh3_128"])) for name, facts in record["files"].items()}
        step = int(record["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegZooError(f"{folder / RECORD}: is damaged ({error}); {advice}") from error
    number = folder.name.removeprefix(_PREFIX)
    if MEMORY not in files or (number.isdigit() and int(number) != step):
        raise SegZooError(f"{folder / RECORD}: is damaged (it is about step {step}); {advice}")
    try:
        for name, (size, _) in files.items():
            if not (folder / name).is_file():
                raise SegZooError(f"{folder / name}: is missing from the checkpoint; {advice}")
            if (actual := (folder / name).stat().st_size) != size:
                raise SegZooError(f"{folder / name}: has {actual} bytes instead of {size}; {advice}")
        if contents:
            for (name, (_, expected)), actual in zip(files.items(), _hashes(folder, files), strict=True):
                if actual != expected:
                    raise SegZooError(
                        f"{folder / name}: has changed since it was written (hash {actual[:12]}... instead of "
                        f"{expected[:12]}...); {advice}"
                    )
    except OSError as error:
        raise SegZooError(f"{folder}: cannot be read ({error.strerror or error}); {advice}") from error
    return record


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from the settings in a checkpoint, each with its value then and now, shortened.

    The recipe's source is left out: it is words about the other fields.

    Args:
        before: the settings by name, as JSON values; those of an earlier version may lack some.
        now: those of the training that goes on.
    """

    def shown(value: Any) -> str:
        return textwrap.shorten(str(value), 60, placeholder="...")

    return [
        f"{name} ({shown(old)}, now {shown(now.get(name))})"
        for name, old in before.items()
        if name != "source" and now.get(name) != old
    ]


def list_checkpoints(directory: str | os.PathLike) -> list[Path]:
    """The folders ``step_<n>`` in a directory by ascending step, whether whole or not."""
    folders = Path(directory).glob(f"{_PREFIX}*")
    found = [folder for folder in folders if folder.name.removeprefix(_PREFIX).isdigit() and folder.is_dir()]
    return sorted(found, key=_step_of)


def find_checkpoint(directory: str | os.PathLike, wanted: str) -> Path | None:
    """The checkpoint to go on from.

    Args:
        directory: folder of the checkpoints.
        wanted: ``"latest"``, or the path of a checkpoint, or its name in ``directory``.

    Returns:
        The folder of the checkpoint. ``"latest"`` is the last whole one: damaged ones are skipped with a warning; None
        if there are no checkpoints.

    Raises:
        SegZooError: the named checkpoint does not exist or is damaged, or all checkpoints are damaged.
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


def _find_within(directory: str | os.PathLike, wanted: str, total_steps: int | None) -> Path | None:
    """The checkpoint to go on from, which must not lie after the end of the training."""
    folder = find_checkpoint(directory, wanted)
    if folder is None or total_steps is None:
        return folder
    step = json.loads((folder / RECORD).read_text(encoding="utf-8"))["step"]
    if step > total_steps:
        raise SegZooError(
            f"{folder}: holds the weights after step {step}, and this training has {total_steps} steps; for more raise "
            "--max_train_steps or --num_train_epochs, for fewer go on from an earlier checkpoint with "
            "--overwrite_output_dir, or begin anew in another --output_dir"
        )
    return folder


def kept_settings(directory: str | os.PathLike, wanted: str) -> dict[str, Any]:
    """The settings in the checkpoint that `find_checkpoint` would choose, whose files are not compared; {} if there is none."""
    folders = list_checkpoints(directory)
    if wanted != "latest":
        folders = [Path(wanted) if Path(wanted).is_dir() else Path(directory) / wanted]
    for folder in reversed(folders):
        if _is_whole(folder, contents=False):
            return json.loads((folder / MEMORY).read_text(encoding="utf-8")).get("settings", {})
    return {}


def remove_old_checkpoints(directory: str | os.PathLike, keep: int | None, best_step: int | None = None) -> None:
    """Remove all but the last ``keep`` checkpoints; the main process calls this.

    Damaged checkpoints do not count towards ``keep``, and one that is whole, by its hashes, stays in any event:
    nothing older is removed until it is found. The best checkpoint is kept in addition.

    Args:
        directory: folder of the checkpoints.
        keep: how many to keep, at least 1; None keeps all.
        best_step: step of the best checkpoint, if there is one.

    Raises:
        SegZooError: ``keep`` is below 1.
    """
    if keep is None:
        return
    if keep < 1:
        raise SegZooError(f"--save_total_limit is {keep}; it must be 1 or more, or the last checkpoint would go")
    newest_first = list_checkpoints(directory)[::-1]
    kept, found_whole = 0, False
    for position, folder in enumerate(newest_first):
        if kept >= keep and found_whole:
            doomed = [old for old in newest_first[position:] if old.name != f"{_PREFIX}{best_step}"]
            break
        # The hashes of one checkpoint make sure that a whole one stays; for the others, sizes suffice.
        if _is_whole(folder, contents=not found_whole):
            kept, found_whole = kept + 1, True
    else:
        return
    for folder in doomed:
        try:
            remove_folder(folder)
        except OSError as error:
            warnings.warn(f"{folder}: the old checkpoint could not be removed ({error.strerror})", stacklevel=2)


def _load_whole(accelerator: Accelerator, folder: Path) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint whose files have already been compared with its record; returns its step and memory."""
    from accelerate.utils import load

    def read() -> tuple[int, dict[str, Any], int]:
        try:
            # accelerate unpickles registered objects without restrictions; files that load with weights_only are
            # harmless.
            for file in folder.glob("custom_checkpoint_*.pkl"):
                load(file, map_location="cpu", mmap=True, weights_only=True)
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            _refuse_other_optimizers(accelerator, record.get("optimizers"))
            needed = _group_options(accelerator)
            accelerator.load_state(str(folder))
            if not all(own <= loaded for own, loaded in zip(needed, _group_options(accelerator), strict=True)):
                raise ValueError(f"its optimizer is another one than {' and '.join(_optimizers(accelerator))}")
            return record["step"], _memory(folder), record["processes"]
        except (
            RuntimeError,
            ValueError,
            KeyError,
            TypeError,
            OSError,
            pickle.UnpicklingError,
            SafetensorError,
        ) as error:
            lines = [line.strip() for line in str(error).strip().splitlines()[:3]]
            raise SegZooError(
                f"{folder}: does not fit this model and optimizer ({'; '.join(lines)}); "
                "resume with the settings it was written with"
            ) from error

    step, memory, processes = run_together(accelerator, read)
    if processes != accelerator.num_processes:
        if accelerator.is_main_process:
            warnings.warn(
                f"{folder}: was written by {processes} process(es) and is read by {accelerator.num_processes}; the training "
                "goes on, but with other random numbers",
                stacklevel=3,
            )
    elif not _random_numbers_are_back(folder, accelerator.process_index):
        warnings.warn(f"{folder}: the random numbers could not be restored; losses will differ a little", stacklevel=3)
    return step, memory


def _memory(folder: Path) -> dict[str, Any]:
    """A checkpoint's memory with what was added later, unless a damaged disk has spoilt that."""
    memory = json.loads((folder / MEMORY).read_text(encoding="utf-8"))
    try:
        later = json.loads((folder / _LATER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return memory
    return memory | later if isinstance(later, dict) else memory


def _optimizers(accelerator: Accelerator) -> list[str]:
    """The kinds of the optimizers, such as ``"AdamW"``."""
    return [type(optimizer.optimizer).__name__ for optimizer in accelerator._optimizers]


def _refuse_other_optimizers(accelerator: Accelerator, saved: list[str] | None) -> None:
    """Raise a ValueError if a checkpoint is of other optimizers; earlier versions did not note them (None).

    PyTorch loads the state of any optimizer with as many parameters, and fails at the next step, or calculates
    something else.
    """
    own = _optimizers(accelerator)
    if saved is not None and saved != own:
        raise ValueError(f"it holds the state of {' and '.join(saved)}, and this training has {' and '.join(own)}")


def _group_options(accelerator: Accelerator) -> list[set[str]]:
    """The names of the options of each parameter group, in which kinds of optimizers differ."""
    return [set(group) for optimizer in accelerator._optimizers for group in optimizer.param_groups]


def _random_numbers_are_back(folder: Path, process_index: int) -> bool:
    """Whether `accelerate`, which does not report it, restored the random numbers; the last ones are checked."""
    from accelerate.utils import load

    states = load(folder / f"random_states_{process_index}.pkl")
    if torch.cuda.is_available():
        saved, now = states.get("torch_cuda_manual_seed", []), torch.cuda.get_rng_state_all()
        return len(saved) == len(now) and all(map(torch.equal, saved, now))
    return torch.equal(torch.get_rng_state(), states["torch_manual_seed"])


def _write_record(folder: Path, step: int, memory: Mapping[str, Any], accelerator: Accelerator) -> None:
    processes = accelerator.num_processes
    for index in range(processes):
        if not (folder / f"random_states_{index}.pkl").is_file():
            raise SegZooError(
                f"{folder.parent}: process {index} does not see the folder that the main process writes; choose an "
                "--output_dir that all machines share"
            )
    (folder / MEMORY).write_text(json.dumps(dict(memory)), encoding="utf-8")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    files = {
        name: {"bytes": (folder / name).stat().st_size, "xxh3_128": digest}
        for name, digest in zip(names, _hashes(folder, names, sync=True), strict=True)
    }
    record = {"step": step, "processes": processes, "optimizers": _optimizers(accelerator), "files": files}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _hashes(folder: Path, names: Iterable[str], *, sync: bool = False) -> list[str]:
    """XXH3 hashes of files, four at a time; with ``sync`` each file is also synced to the disk."""

    def digest(name: str) -> str:
        with open(folder / name, "rb") as stream:
            result = hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
            if sync:
                os.fsync(stream.fileno())
        return result

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(digest, names))


@contextlib.contextmanager
def _write_errors_of(target: Path, partial: Path) -> Iterator[None]:
    """Turn the errors of a full or broken disk into one line about the checkpoint that is being written in
    ``partial``.

    torch.save raises a RuntimeError that names neither file nor cause; then a trial write finds the cause.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError):
            reason = _why_not_writable(partial)
            if reason is None:
                raise
        else:
            reason = getattr(error, "strerror", None) or str(error).strip()
        raise SegZooError(
            f"{target}: could not be written ({reason}); nothing of it was left behind and earlier checkpoints are whole: "
            "make room, then go on with --resume_from_checkpoint latest"
        ) from error


def _why_not_writable(folder: Path) -> str | None:
    """The operating system's reason why a trial write to the folder fails; None if it succeeds."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror
    return None


def _give_up_later(directory: Path, step: int, *, overwrite: bool) -> None:
    """Remove whole checkpoints of steps after ``step``, or raise an error if there are any; damaged ones may stay."""
    for folder in reversed(list_checkpoints(directory)):
        if _step_of(folder) <= step or not _is_whole(folder, contents=True):
            continue
        if not overwrite:
            raise SegZooError(
                f"{folder}: lies after step {step}, from which the training is to go on, and belongs to another course then; "
                "pass --resume_from_checkpoint latest, or choose another --output_dir and name the checkpoint with its path, or "
                f"pass --overwrite_output_dir to remove what lies after step {step}"
            )
        try:
            remove_folder(folder)
        except OSError as error:
            raise SegZooError(f"{folder}: could not be removed ({error.strerror})") from error
        warnings.warn(f"{folder}: lay after step {step}, from which the training goes on; removed", stacklevel=4)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def _is_whole(folder: Path, *, contents: bool) -> bool:
    try:
        read_record(folder, contents=contents)
    except SegZooError:
        return False
    return True

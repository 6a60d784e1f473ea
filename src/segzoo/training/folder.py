"""The output folder of a training: checked and locked when the training starts, a whole model folder when it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegZooError
from segzoo.files import LOCK, FolderInUse, json_text, lock, moved_together, remove_abandoned, write_whole
from segzoo.hub import write_model_files
from segzoo.training.checkpoints import list_checkpoints

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

RESULTS, LOG, FIGURES, TRAIN_FILES = "all_results.json", "training_log.jsonl", "figures", "train_files.txt"
COUNTS = "class_counts.npz"  # of the training masks
CARD, REPORT = "README.md", "report.html"
_WEIGHTS = "*.safetensors*"  # weights, and the index of their shards
_MODEL_FILES = (_WEIGHTS, "*config.json", "modeling_segzoo.py", CARD)


@contextlib.contextmanager
def claim_output_folder(
    directory: str | os.PathLike, *, overwrite: bool = False, resume: bool = False
) -> Iterator[Path]:
    """Create and lock the output folder before any work is done; no other training can use it until the block ends.

    Only the main process enters it. Files that a killed training left half-written are removed.

    Args:
        directory: the folder.
        overwrite: remove the files of an earlier training; files that a training does not write stay.
        resume: the training goes on from what is there, even with ``overwrite``.

    Raises:
        SegZooError: the path is a file, the folder cannot be created or written to, it is not empty and neither
            ``overwrite`` nor ``resume`` is given, or another process holds it.
    """
    target = _make(Path(directory))
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock(target))
        except FolderInUse as error:
            raise SegZooError(
                f"--output_dir {target}: another training is writing there (process {error.holder}); wait for its end, stop it, "
                "or choose another folder"
            ) from error
        except OSError as error:
            raise SegZooError(f"--output_dir {target}: cannot be written to ({error.strerror})") from error
        if any(file.name != LOCK for file in target.iterdir()):
            if not (resume or overwrite):
                raise SegZooError(
                    f"--output_dir {target}: is not empty; choose another folder, or pass --overwrite_output_dir to start anew "
                    "there or --resume_from_checkpoint latest to go on"
                )
            try:
                remove_abandoned(target)
                if not resume:
                    _clear(target)
            except OSError as error:
                raise SegZooError(
                    f"--output_dir {target}: {error.filename} cannot be removed ({error.strerror})"
                ) from error
        yield target


def publish_model(
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    directory: str | os.PathLike,
    card: str | None = None,
    *,
    state: dict[str, Any] | None = None,
) -> Path:
    """Save model and processor, and the card if there is one, into the output folder, next to checkpoints and figures.

    They replace the files of an earlier model together, the config last: a folder with a config is a whole model. The
    card, the scores and the report of an earlier model go with it.

    Args:
        model, processor, card: as in `segzoo.hub.save_model_folder`.
        directory: the output folder.
        state: the weights to write, whole; None: the model's.

    Raises:
        SegZooError: a file cannot be written; an earlier model is unchanged.
    """
    target = Path(directory)
    # An earlier, larger model may have left more shards.
    stale = [*target.glob(_WEIGHTS), target / CARD, target / RESULTS, target / REPORT]
    with moved_together(target / "config.json", stale=stale) as folder:
        write_model_files(model, processor, folder, card=card, state=state)
    return target


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all, creating its folder if necessary; numbers that are not finite become
    null.

    Raises:
        SegZooError: the file cannot be written.
    """
    write_text(path, json_text(values))


def write_log(path: str | os.PathLike, history: list[dict]) -> None:
    """Write the history of a training, one JSON object per line, whole or not at all.

    Raises:
        SegZooError: the file cannot be written.
    """
    write_text(path, "".join(json_text(entry, indent=None) for entry in history))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text as UTF-8, whole or not at all, creating its folder if necessary.

    Raises:
        SegZooError: the file cannot be written.
    """
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


def _clear(target: Path) -> None:
    """Remove everything that a training writes."""
    for checkpoint in list_checkpoints(target):
        shutil.rmtree(checkpoint)
    for pattern in (*_MODEL_FILES, RESULTS, LOG, REPORT, TRAIN_FILES, COUNTS, f"{FIGURES}/*.png"):
        for file in target.glob(pattern):
            file.unlink()

"""The output folder of a training: free when it starts, a whole model folder when it ends."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.errors import SegZooError
from segzoo.hub import save_model_folder
from segzoo.training.checkpoints import list_checkpoints

RESULTS, LOG, FIGURES = "all_results.json", "training_log.jsonl", "figures"
_STAGING = ".model"
_MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*config.json", "modeling_segzoo.py", "README.md")


def prepare_output_folder(directory: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Make the folder, or refuse it, before any work is done.

    Args:
        directory: the folder.
        overwrite: remove what an earlier training left there; files that this script does not write stay.
        resume: what is there is to be continued.

    Raises:
        SegZooError: it is a file, cannot be made, or holds something and neither ``overwrite`` nor ``resume`` is asked for.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise SegZooError(f"--output_dir {target}: is a file; choose a folder")
    if target.is_dir() and any(target.iterdir()) and not resume:
        if not overwrite:
            raise SegZooError(
                f"--output_dir {target}: is not empty; choose another folder, or pass --overwrite_output_dir to start anew "
                "there or --resume_from_checkpoint latest to go on"
            )
        for checkpoint in list_checkpoints(target):
            shutil.rmtree(checkpoint)
        for file in _written_files(target):
            file.unlink()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise SegZooError(f"--output_dir {target}: cannot be made or written to ({error.strerror})") from error
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
    """Write a JSON file aside and rename it; numbers that are not finite become null."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(_finite(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def write_log(path: str | os.PathLike, history: list[dict]) -> None:
    """Write the history of a training, one JSON object a line."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text("".join(json.dumps(_finite(entry)) + "\n" for entry in history), encoding="utf-8")
    os.replace(aside, path)


def _finite(value):
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _written_files(target: Path):
    for pattern in (*_MODEL_FILES, RESULTS, LOG, f"{FIGURES}/*.png"):
        yield from target.glob(pattern)

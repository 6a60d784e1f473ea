"""Experiment trackers: they write into the output folder, and errors at their start become single lines."""

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from segzoo.errors import SegZooError, one_line

PROJECT = "semantic_segmentation"
TRACKER_FILES = ("wandb", "wandb/*")
"""Patterns of the files that trackers write into the output folder and that are not uploaded to the Hub."""

_FIXES = {"wandb": "run `wandb login`, or set WANDB_MODE=offline"}


def start_trackers(accelerator: Accelerator, output_dir: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Start the trackers that an accelerator was made with, and give them the settings; every process calls this.

    Files of TensorBoard and Weights & Biases go into the output folder; trackio has a folder of its own
    (``TRACKIO_DIR``).

    Args:
        accelerator: made with ``log_with`` and ``project_dir``.
        output_dir: the output folder.
        settings: settings of the training, by name; values other than numbers and booleans are passed as text.

    Raises:
        SegZooError: a tracker does not start, for example because nobody is logged in.
    """
    values = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()}
    try:
        accelerator.init_trackers(PROJECT, values, init_kwargs={"wandb": {"dir": os.fspath(output_dir)}})
    except Exception as error:
        problem = tracker_problem(error)
        if problem is None:
            raise
        raise problem from error


def tracker_problem(error: BaseException) -> SegZooError | None:
    """One line for an error that a tracker raised; None for any other error."""
    name = type(error).__module__.partition(".")[0]
    if name not in ("wandb", "trackio", "comet_ml", "clearml"):
        return None
    said = one_line(error) or type(error).__name__
    fix = _FIXES.get(name, f"see that {name} can be used here")
    return SegZooError(f"--report_to {name}: {said} To mend it, {fix}, or choose another tracker.")

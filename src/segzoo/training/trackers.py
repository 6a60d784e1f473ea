"""Experiment trackers: what they write stands in the output folder, and what keeps them from starting is said in one line."""

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from segzoo.errors import SegZooError

PROJECT = "semantic_segmentation"
TRACKER_FILES = ("wandb", "wandb/*")
"""Patterns of what trackers write into the output folder and what nobody wants on the Hub."""

_FIXES = {"wandb": "run `wandb login`, or set WANDB_MODE=offline"}


def start_trackers(accelerator: Accelerator, output_dir: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Start the trackers that an accelerator was made with; they note the settings.

    Files of TensorBoard and Weights & Biases go into the output folder; trackio keeps its own (``TRACKIO_DIR``).

    Args:
        accelerator: made with ``log_with`` and ``project_dir``; every process calls this.
        output_dir: the output folder.
        settings: of the training, by name.

    Raises:
        SegZooError: a tracker does not start, for example since nobody is logged in there.
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
    said = " ".join(str(error).split()) or type(error).__name__
    fix = _FIXES.get(name, f"see that {name} can be used here")
    return SegZooError(f"--report_to {name}: {said} To mend it, {fix}, or choose another tracker.")

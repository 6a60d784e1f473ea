"""What a training has come to: all that a checkpoint keeps besides weights, optimizer and random numbers."""

import math
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from segzoo.training.mean_loss import MeanLoss
from segzoo.training.shown_classes import ShownClasses


class TrainingState:
    """The state of a training after a step.

    Args:
        accelerator: the accelerator of the training.

    Attributes:
        step: the number of steps taken.
        seconds: duration of the training up to the start of this run.
        history: the entries of the log.
        best: ``step`` and ``mean_iou`` (0 to 1) of the best evaluation; None before the first.
        mean_loss: of the steps since the last report.
        shown: the classes that the first epoch has shown; None after it.
        notes: sentences that a reader of the report must know.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.mean_loss = MeanLoss(accelerator)
        self.shown: ShownClasses | None = None
        self.notes: list[str] = []

    def gather(self, *, seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The state of all processes as plain data, for a checkpoint; every process calls this.

        Args:
            seconds: duration of the training up to now.
            settings: recipe, settings and data by name, with which a later run compares its own.
        """
        return {
            **self.course(seconds=seconds),
            "loss": self.mean_loss.gather(),
            "shown_classes": None if self.shown is None else self.shown.gather(),
            "settings": settings,
        }

    def course(self, *, seconds: float) -> dict[str, Any]:
        """The part of `gather` that an evaluation changes; the main process alone may ask for it."""
        return {"history": self.history, "seconds": seconds, "best": self.best, "notes": self.notes}

    def go_on_from(self, step: int, memory: Mapping[str, Any]) -> None:
        """Take over the state after a step of an earlier run, as `gather` returned it."""
        self.step, self.history, self.seconds = step, memory["history"], memory["seconds"]
        self.best, self.mean_loss = memory["best"], MeanLoss(self.accelerator, memory["loss"])
        self.notes = list(memory.get("notes", ()))  # older checkpoints have none
        if self.shown is not None:
            self.shown = self.shown.resumed(memory.get("shown_classes"))

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation; None before the first."""
        return None if self.best is None else self.best["step"]

    def is_best(self, mean_iou: float) -> bool:
        """Take the mean IoU (0 to 1) of the weights after this step; whether it is the best so far.

        Any number is better than NaN, the score of an evaluation of which no pixel counts.
        """
        if self.best is not None and not mean_iou > self.best["mean_iou"] and not math.isnan(self.best["mean_iou"]):
            return False
        self.best = {"step": self.step, "mean_iou": mean_iou}
        return True

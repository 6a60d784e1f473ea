"""When a training reports, evaluates and writes checkpoints."""

from dataclasses import dataclass

from segzoo.training.options import RunOptions

Interval = int | str | None
"""A number of steps or "epoch"; 0 and None stand for never, or for the last step alone."""


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """What is due after which step; the last step has a report, an evaluation and, if there are any, a checkpoint.

    A step may take its batches from two epochs, or from more; what is due every epoch is due after each step in which one
    ends.

    Args:
        total_steps: number of optimizer steps of the training.
        batches_an_epoch: number of batches in an epoch; 0 for a stream.
        accumulation: number of batches in a step.
        logging: interval of the reports.
        evaluation: interval of the evaluations; None: there are none, not even after the last step.
        checkpoints: interval of the checkpoints; None: the last step alone, 0: there are none.
    """

    total_steps: int
    batches_an_epoch: int
    accumulation: int
    logging: Interval
    evaluation: Interval
    checkpoints: Interval

    @classmethod
    def of(cls, options: RunOptions, *, total_steps: int, batches_an_epoch: int, accumulation: int) -> "Timetable":
        """The timetable that the options of a run ask for."""
        return cls(
            total_steps=total_steps,
            batches_an_epoch=batches_an_epoch,
            accumulation=accumulation,
            logging=options.logging_steps,
            evaluation=options.eval_steps if options.do_eval else None,
            checkpoints=options.checkpointing_steps,
        )

    def reports(self, step: int) -> bool:
        """Whether loss and speed are reported after a step."""
        return self._is_due(self.logging, step)

    def evaluates(self, step: int) -> bool:
        """Whether the weights after a step are scored."""
        return self.evaluation is not None and self._is_due(self.evaluation, step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint of a step is written, whatever else may ask for one."""
        return self.checkpoints != 0 and self._is_due(self.checkpoints, step)

    def checkpoints_after(self, step: int) -> int:
        """Number of checkpoints that are due after a step, from the next one to the last."""
        if self.checkpoints == 0 or step >= self.total_steps:
            return 0
        last = self._times(self.checkpoints, self.total_steps) == self._times(self.checkpoints, self.total_steps - 1)
        return self._times(self.checkpoints, self.total_steps) - self._times(self.checkpoints, step) + last

    def has_shown_an_epoch(self, step: int) -> bool:
        """Whether the first epoch has ended after a step, or will not, since the training ends less than a step before.

        A stream's epoch is the whole training.
        """
        left = self.batches_an_epoch - step * self.accumulation
        if step == self.total_steps:
            return self.batches_an_epoch == 0 or left < self.accumulation
        return self.batches_an_epoch > 0 and left <= 0

    def _is_due(self, interval: Interval, step: int) -> bool:
        return step == self.total_steps or self._times(interval, step) > self._times(interval, step - 1)

    def _times(self, interval: Interval, step: int) -> int:
        """Number of steps up to this one after which an interval ends."""
        if interval == "epoch":
            return min(step, step * self.accumulation // max(1, self.batches_an_epoch))
        return step // int(interval) if interval else 0

"""When a training reports, evaluates and writes checkpoints."""

from dataclasses import dataclass

from segzoo.training.options import RunOptions

Interval = int | str | None
"""A number of steps or "epoch"; 0 and None stand for never, or for the last step alone."""


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """What is due after which step; the last step has a report, an evaluation and, if there are any, a checkpoint.

    Args:
        total_steps: number of optimizer steps of the training.
        steps_an_epoch: number of optimizer steps in an epoch.
        logging: interval of the reports.
        evaluation: interval of the evaluations; None: there are none, not even after the last step.
        checkpoints: interval of the checkpoints; None: the last step alone, 0: there are none.
    """

    total_steps: int
    steps_an_epoch: int
    logging: Interval
    evaluation: Interval
    checkpoints: Interval

    @classmethod
    def of(cls, options: RunOptions, *, total_steps: int, steps_an_epoch: int) -> "Timetable":
        """The timetable that the options of a run ask for."""
        return cls(
            total_steps=total_steps,
            steps_an_epoch=steps_an_epoch,
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
        every = self._steps(self.checkpoints)
        if every == 0:
            return 1
        return self.total_steps // every - step // every + (self.total_steps % every > 0)

    def _is_due(self, interval: Interval, step: int) -> bool:
        every = self._steps(interval)
        return step == self.total_steps or (every > 0 and step % every == 0)

    def _steps(self, interval: Interval) -> int:
        return self.steps_an_epoch if interval == "epoch" else interval or 0

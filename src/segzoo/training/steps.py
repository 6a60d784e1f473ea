"""Optimizer steps: forward and backward through the batches of a step, the guards, and the update."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from segzoo.progress import Progress
from segzoo.training.guards import FiniteGuard, LabelGuard, gradient_norm
from segzoo.training.learner import Learner
from segzoo.training.state import TrainingState
from segzoo.training.surroundings import Surroundings


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """Numbers of a step: the largest learning rate, and the norm of all gradients."""

    learning_rate: float
    norm: float


class Steps:
    """Takes optimizer steps.

    Args:
        learner: what learns.
        here: the processes and their device.
        state: the state of the training; its step is that of the step that is taken.
        progress: told when the training waits for data.
        labels: ends the training where no pixel counts.
        max_bad_steps: this many steps in a row with a loss that is not finite end the training.
    """

    def __init__(
        self,
        learner: Learner,
        here: Surroundings,
        state: TrainingState,
        *,
        progress: Progress,
        labels: LabelGuard,
        max_bad_steps: int,
    ):
        self.learner, self.here, self.state, self.progress, self.labels = learner, here, state, progress, labels
        self.guard = FiniteGuard(max_bad_steps, here.accelerator, labels, learner.model)

    def take(self, batches: Iterator[dict[str, Any]]) -> StepFacts:
        """Take the step ``state.step``.

        Raises:
            SegZooError: too many steps in a row had a loss that is not finite, or no pixel that counts.
        """
        learner, step = self.learner, self.state.step
        self.guard.remember()
        loss, names = self._add_gradients(batches)
        self.labels.check(step)
        norm = gradient_norm(self.here.accelerator, learner.model, learner.max_norm)
        learning_rate = max(group["lr"] for group in learner.optimizer.param_groups)
        if self.guard.allows(step, loss, norm, names):
            learner.optimizer.step()
            if learner.average is not None:
                learner.average.update(self.here.accelerator.unwrap_model(learner.model))
        if not self.guard.in_a_row:  # a loss that is not finite would be all that is left of the mean
            self.state.mean_loss.add(loss)
        learner.schedule.step()
        learner.optimizer.zero_grad()
        return StepFacts(learning_rate=learning_rate, norm=float(norm))

    def _add_gradients(self, batches: Iterator[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        """Forward and backward through the batches of a step; returns loss (a scalar) and names of pictures."""
        learner, accelerator, names = self.learner, self.here.accelerator, []
        step_loss = torch.zeros((), device=accelerator.device)
        for part, (batch, weight) in enumerate(self._parts(batches)):
            names += batch["name"]
            counts = self.labels.add(self.state.step, batch["labels"])
            if self.state.shown is not None:
                self.state.shown.add(batch["labels"])
            pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
            pixel_values = pixel_values.contiguous(memory_format=self.here.memory_format)
            labels = batch["labels"].to(accelerator.device, non_blocking=True).long()
            last = part == learner.accumulation - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(learner.model):
                loss = learner.model(pixel_values=pixel_values, labels=labels).loss / learner.accumulation * weight
                accelerator.backward(loss)
            # A mean over no pixels, as transformers' models take it, is NaN, and its gradient is 0.
            step_loss += loss.detach() if counts else loss.detach().nan_to_num(nan=0.0)
        return step_loss, names

    def _parts(self, batches: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], torch.Tensor | float]]:
        """The batches of a step, each with the weight of its loss: 1, or on average 1 over all passes and processes.

        A mean over the pixels that count has the weight of these pixels, so that the parts of a batch learn as the whole does.
        """
        passes, accelerator = self.learner.accumulation, self.here.accelerator
        parts = passes * accelerator.num_processes
        if parts == 1 or not self.learner.averages_counted:
            for _ in range(passes):
                yield self._next(batches), 1.0
            return
        own = [self._next(batches) for _ in range(passes)]
        numbers = [int((batch["labels"] != self.labels.ignore_index).sum()) for batch in own]
        counted = torch.tensor(numbers, dtype=torch.float32, device=accelerator.device)
        every = accelerator.reduce(counted.sum(), reduction="sum")
        yield from zip(own, counted * parts / every.clamp(min=1), strict=True)

    def _next(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        with self.progress.waiting():
            return next(batches)

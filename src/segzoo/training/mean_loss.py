"""The loss that a training reports."""

from typing import Any

import torch
from accelerate import Accelerator


class MeanLoss:
    """The mean loss of the steps since the last report, over all processes.

    Args:
        accelerator: the accelerator of the training.
        stored: the result of `gather` in an earlier run, which may have had another number of processes.
    """

    def __init__(self, accelerator: Accelerator, stored: dict[str, Any] | None = None):
        sums = [0.0] if stored is None else stored["sums"]
        mine = sums[accelerator.process_index] if len(sums) == accelerator.num_processes else sum(sums) / len(sums)
        self.accelerator, self.steps = accelerator, 0 if stored is None else stored["steps"]
        self.sum = torch.tensor(mine, device=accelerator.device)

    def add(self, loss: torch.Tensor) -> None:
        """Count the loss of a step, a scalar of this process."""
        self.sum, self.steps = self.sum + loss, self.steps + 1

    def take(self) -> float:
        """Return the mean and start anew; every process calls this after at least one step."""
        mean = float(self.accelerator.reduce(self.sum, reduction="mean")) / self.steps
        self.sum, self.steps = torch.zeros_like(self.sum), 0
        return mean

    def gather(self) -> dict[str, Any]:
        """The state for a checkpoint, the sum of each process and the number of steps; every process calls this."""
        return {"sums": self.accelerator.gather(self.sum[None]).tolist(), "steps": self.steps}

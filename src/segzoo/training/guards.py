"""A guard against losses and gradients that are not finite: none is applied, several in a row end the training."""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.utils import get_total_norm

from segzoo.errors import SegZooError


class FiniteGuard:
    """Decides, equally in all processes, whether a step's gradients may be applied.

    `torch.distributed` averages gradients, so one that is not finite in one process is not finite in any: the norm of
    the gradients tells all processes without communication. Only if it is not finite do they compare their losses.
    With fp16, the gradient scaler lets gradients overflow on purpose; steps with finite losses are then left to the
    scaler.

    Args:
        limit: the number of bad steps in a row that ends the training; 1 ends it at the first one.
        accelerator: the accelerator of the training.

    Raises:
        SegZooError: ``limit`` is below 1.
    """

    def __init__(self, limit: int, accelerator: Accelerator):
        if limit < 1:
            raise SegZooError(f"--max_bad_steps is {limit}; it must be 1 or more")
        self.limit, self.accelerator = limit, accelerator
        self.in_a_row = self.total = 0
        self._names: list[str] = []

    def allows(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor, names: Sequence[str]) -> bool:
        """Whether to apply the gradients of a step; if not, the caller skips the optimizer's step.

        Args:
            step: number of the step, for the message.
            loss: loss of this process, a scalar.
            grad_norm: norm of all gradients, after averaging over the processes.
            names: files of this process's batch, for the message.

        Raises:
            SegZooError: ``limit`` steps in a row were bad; the message names loss, step and files.
        """
        if math.isfinite(float(grad_norm)):
            self.in_a_row, self._names = 0, []
            return True
        loss_is_bad = not math.isfinite(float(loss))
        count = torch.tensor([float(loss_is_bad)], device=self.accelerator.device)
        somewhere = float(self.accelerator.reduce(count, reduction="sum").item()) > 0
        if not somewhere and self.accelerator.scaler is not None:
            return True  # the scaler sees the overflow itself, skips the step and lowers its scale
        if loss_is_bad or not somewhere:
            self._names.extend(str(name) for name in names)
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row >= self.limit:
            what = f"the loss is {float(loss)}" if loss_is_bad else "the gradient is not finite"
            if somewhere and not loss_is_bad:
                what = "the loss of another process is not finite"
            steps = f"at step {step}" if self.in_a_row == 1 else f"in steps {step - self.in_a_row + 1} to {step}"
            files = f" The pictures of these steps: {', '.join(self._names)}." if self._names else ""
            raise SegZooError(
                f"{what} {steps}.{files} Lower --learning_rate, set --num_warmup_steps or --max_grad_norm 1, or take bf16 or "
                "no --mixed_precision instead of fp16; --max_bad_steps lets so many bad steps in a row be left out."
            )
        return self.accelerator.scaler is not None  # the scaler skips the step itself, and has to be told of it


def gradient_norm(accelerator: Accelerator, model: torch.nn.Module, max_norm: float | None) -> torch.Tensor:
    """Norm of all gradients (a scalar, without fp16's scale), which are clipped to a ``max_norm`` above 0."""
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if max_norm or sharded:
        norm = accelerator.clip_grad_norm_(model.parameters(), max_norm or math.inf)
        return torch.zeros(()) if norm is None else torch.as_tensor(norm).detach()  # DeepSpeed may return None
    accelerator.unscale_gradients()
    return get_total_norm(
        [p.grad for p in model.parameters() if p.grad is not None]
    )  # no pass over them to scale by 1

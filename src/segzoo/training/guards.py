"""Guards against steps from which nothing can be learned: several in a row end the training.

Gradients that are not finite are not applied; labels of which no pixel counts give none that mean anything.
"""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.utils import get_total_norm

from segzoo.errors import SegZooError


class LabelGuard:
    """Ends a training in which no pixel of any label counts for many steps in a row.

    It looks at labels on the CPU, at every 16th row and column first: where one pixel counts, as almost always, that is
    all. Processes ask each other only when the steps of which they know are as many as the limit.

    Args:
        limit: the number of steps in a row, over all processes, that ends the training.
        ignore_index: label of pixels that do not count.
        step: the number of steps already taken.
        accelerator: the accelerator of the training.
    """

    def __init__(self, limit: int, ignore_index: int, step: int, accelerator: Accelerator):
        self.limit, self.ignore_index, self.accelerator = limit, ignore_index, accelerator
        self._mine = self._known = step  # the last step with pixels that count: of this process, and known to all

    def add(self, step: int, labels: torch.Tensor) -> bool:
        """Look at a batch of labels (B, H, W) of this process, one of perhaps several of a step; returns whether any counts."""
        counts = any(bool((part != self.ignore_index).any()) for part in (labels[:, ::16, ::16], labels))
        if counts:
            self._mine = step
        return counts

    def empty_steps(self, step: int) -> int:
        """The number of steps up to this one in which no process had a pixel that counts; every process calls this."""
        mine = torch.tensor([self._mine], device=self.accelerator.device)
        self._known = int(self.accelerator.gather(mine).max()) if self.accelerator.num_processes > 1 else self._mine
        return step - self._known

    def check(self, step: int) -> None:
        """Check the steps up to this one; every process calls this after each step.

        Raises:
            SegZooError: no pixel counted in as many steps as the limit.
        """
        if step - self._known >= self.limit and (empty := self.empty_steps(step)) >= self.limit:
            raise SegZooError(
                f"no pixel of any label counts {_steps(empty, step)}: all are {self.ignore_index}, the label that is ignored, so that "
                "nothing is learned. Look at the masks (`segzoo data check`), the split, --do_reduce_labels and --ignore_index; "
                "--max_empty_steps lets so many such steps in a row pass."
            )


def _steps(in_a_row: int, last: int) -> str:
    return f"at step {last}" if in_a_row == 1 else f"in steps {last - in_a_row + 1} to {last}"


class FiniteGuard:
    """Decides, equally in all processes, whether a step's gradients may be applied.

    `torch.distributed` averages gradients, so one that is not finite in one process is not finite in any: the norm of
    the gradients tells all processes without communication. Only if it is not finite do they compare their losses.
    With fp16, the gradient scaler lets gradients overflow on purpose; steps with finite losses are then left to the
    scaler.

    A forward pass with numbers that are not finite also spoils the running statistics of norms, for good: no later step
    makes them finite again. So a bad step leaves them as they were before it.

    Args:
        limit: the number of bad steps in a row that ends the training; 1 ends it at the first one.
        accelerator: the accelerator of the training.
        labels: the guard that knows whether the steps had pixels that count, for the message.
        model: the model, whose buffers a bad step leaves as `remember` found them; None: they are not looked after.

    Attributes:
        in_a_row: number of bad steps up to the last one, 0 if that was good.
        total: number of all bad steps.

    Raises:
        SegZooError: ``limit`` is below 1.
    """

    def __init__(
        self,
        limit: int,
        accelerator: Accelerator,
        labels: LabelGuard | None = None,
        model: torch.nn.Module | None = None,
    ):
        if limit < 1:
            raise SegZooError(f"--max_bad_steps is {limit}; it must be 1 or more")
        self.limit, self.accelerator, self.labels = limit, accelerator, labels
        self.model = model
        self.in_a_row = self.total = 0
        self._names: list[str] = []
        self._buffers: dict[str, torch.Tensor] = {}

    def remember(self) -> None:
        """Keep the model's buffers; call this before the forward passes of a step."""
        if self.model is None or self.limit == 1:
            return
        self._buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def _restore(self) -> None:
        for name, buffer in self.model.named_buffers() if self.model is not None else ():
            kept = self._buffers.get(name)
            if kept is not None and kept.shape == buffer.shape:  # a table of positions may have been made anew
                buffer.copy_(kept)

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
        self._restore()
        if self.in_a_row >= self.limit:
            what = f"the loss is {float(loss)}" if loss_is_bad else "the gradient is not finite"
            if somewhere and not loss_is_bad:
                what = "the loss of another process is not finite"
            steps = _steps(self.in_a_row, step)
            if self.labels is not None and self.labels.empty_steps(step) >= self.in_a_row:
                steps += ", in which no pixel of any label counts: look at the masks (`segzoo data check`)"
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
        norm = torch.zeros(()) if norm is None else torch.as_tensor(norm).detach()  # DeepSpeed may return None
        if accelerator.distributed_type != DistributedType.FSDP:
            return norm
        from torch.distributed.tensor import DTensor

        return norm.full_tensor() if isinstance(norm, DTensor) else norm
    accelerator.unscale_gradients()
    return get_total_norm(
        [p.grad for p in model.parameters() if p.grad is not None]
    )  # no pass over them to scale by 1

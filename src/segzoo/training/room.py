"""The room on the disk that a training needs, compared with what is free before the first step."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from segzoo.errors import SegZooError
from segzoo.training.checkpoints import list_checkpoints
from segzoo.training.options import RunOptions


@dataclass(frozen=True)
class Sizes:
    """What a training writes, in bytes; small files are left out.

    Args:
        model: the finished model: its weights.
        checkpoint: a checkpoint: weights, optimizer state and weight average.
    """

    model: int
    checkpoint: int

    @classmethod
    def of(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, *, averaged: bool, left_out: str | None = None
    ) -> "Sizes":
        """The sizes for a model, as far as they can be known before the first step.

        Args:
            model: the model, before accelerate divides it over processes.
            optimizer: AdamW and Adam keep two numbers for each trained parameter, SGD with momentum one.
            averaged: whether there is a weight average, as large as the weights.
            left_out: beginning of the names of weights that checkpoints leave out; None: they have all.
        """
        state = model.state_dict()
        weights = _bytes_of(state.values())
        saved = _bytes_of(x for name, x in state.items() if left_out is None or not name.startswith(left_out))
        trained = _bytes_of(chain.from_iterable(group["params"] for group in optimizer.param_groups))
        numbers = 2
        if isinstance(optimizer, torch.optim.SGD):
            numbers = int(any(group["momentum"] for group in optimizer.param_groups))
        return cls(weights, saved * (2 if averaged else 1) + trained * numbers)


def checkpoints_at_once(due: int, *, present: int = 0, limit: int | None = None, best: bool = False) -> int:
    """How many checkpoints more than now there will be at some moment.

    Args:
        due: number of checkpoints that are still to be written.
        present: number of those in the folder.
        limit: number of those that are kept; None: all.
        best: whether the best one is kept beside them.

    Returns:
        The number, with the one that is written before an older one is removed; 0 if none is written.
    """
    if due == 0 and not best:
        return 0
    kept = present + due if limit is None else min(present + due, limit)
    return max(0, kept - present) + int(best) + 1


def check_room(options: RunOptions, sizes: Sizes, *, due: int, free: int | None = None) -> None:
    """Check that the output folder can take what a training writes from now on.

    Args:
        options: options of the run; the folder exists.
        sizes: sizes of model and checkpoints.
        due: number of checkpoints that are still to be written.
        free: the bytes that are free there; None: measured. A file system that does not tell its size is not judged.

    Raises:
        SegZooError: there is too little room.
    """
    best = options.load_best_model_at_end
    present = len(list_checkpoints(options.output_dir))
    number = checkpoints_at_once(due, present=present, limit=options.save_total_limit, best=best)
    models = 2 if best else 1  # the best model is written before that of the last step goes
    needed = models * sizes.model + number * sizes.checkpoint
    if free is None:
        usage = shutil.disk_usage(options.output_dir)
        free = usage.free if usage.total else needed
    if free >= needed:
        return
    what, advice = f"the model has {_amount(sizes.model)}", "make room or choose another folder"
    if number:
        what += f", and up to {number} more checkpoint{'s' * (number != 1)} of {_amount(sizes.checkpoint)} lie there"
        advice += ", or write fewer checkpoints: --save_total_limit 1, or --checkpointing_steps 0 for none"
    raise SegZooError(
        f"--output_dir {options.output_dir}: the training needs {needed} bytes ({_amount(needed)}) there, because {what}; "
        f"{free} bytes ({_amount(free)}) are free: {advice}"
    )


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors in a file; those that share their memory count once."""
    different = {(tensor.data_ptr(), tensor.numel()): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in different.values())


def _amount(count: int) -> str:
    """Bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"

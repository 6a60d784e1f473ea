"""An exponential moving average of the weights, as `torch.optim.swa_utils` computes it, for training with `accelerate`."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segzoo.errors import SegZooError


class WeightAverage:
    """Keeps ``average = decay * average + (1 - decay) * weights`` after every optimizer step; buffers are copied.

    It has ``state_dict`` and ``load_state_dict``, so that ``accelerator.register_for_checkpointing`` takes it.

    Args:
        model: the bare model (not the one that `accelerate` wrapped), on its device; a copy of it is held.
        decay: share of the old average that stays in each step, in 0..1.

    Raises:
        SegZooError: ``decay`` is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise SegZooError(f"--ema_decay is {decay}; it must lie between 0 and 1, such as 0.999")
        self.decay = decay
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        """Take the weights of one more step in."""
        self.averaged.update_parameters(model)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards it has its own again."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(own)

    def copy_to(self, model: nn.Module) -> None:
        """Give the model the averaged weights for good."""
        model.load_state_dict(self.averaged.module.state_dict())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average and the number of steps in it."""
        return copy.copy(self.averaged.state_dict())

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from ``state_dict``'s result."""
        self.averaged.load_state_dict(state)

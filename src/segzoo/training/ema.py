"""An exponential moving average of the weights, computed by `torch.optim.swa_utils`, for use with `accelerate`."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segzoo.errors import SegZooError


class WeightAverage:
    """Keeps ``average = decay * average + (1 - decay) * weights`` after every optimizer step; buffers are copied.

    It has ``state_dict`` and ``load_state_dict``, so that it can be passed to
    ``accelerator.register_for_checkpointing``.

    Args:
        model: the unwrapped model (not the one that `accelerate` wrapped), on its device; it is copied.
        decay: share of the old average that remains in each step, between 0 and 1, both excluded.
        left_out: beginning of the names of frozen weights, which ``state_dict`` leaves out; None: it has all.

    Raises:
        SegZooError: ``decay`` is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float, *, left_out: str | None = None):
        if not 0 < decay < 1:
            raise SegZooError(f"--ema_decay is {decay}; it must lie between 0 and 1, such as 0.999")
        self.decay, self.left_out = decay, None if left_out is None else f"module.{left_out}"
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        """Add the weights of one more step to the average; ``model`` is unwrapped."""
        self.averaged.update_parameters(model)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """A context in which the model has the averaged weights; afterwards it has its own again."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(own)

    def copy_to(self, model: nn.Module) -> None:
        """Replace the model's weights and buffers by the averaged ones."""
        model.load_state_dict(self.averaged.module.state_dict())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights and buffers, and the number of steps in them."""
        state = copy.copy(self.averaged.state_dict())
        return {name: x for name, x in state.items() if self.left_out is None or not name.startswith(self.left_out)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a result of ``state_dict``."""
        own = self.averaged.state_dict()
        frozen = {name: x for name, x in own.items() if self.left_out is not None and name.startswith(self.left_out)}
        self.averaged.load_state_dict(frozen | state)

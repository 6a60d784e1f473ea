"""Optimizer, parameter groups and learning-rate schedule."""

from collections.abc import Callable

import torch
from torch import nn

from segzoo.errors import SegZooError

_WARMUP_START = 1e-6  # share of the learning rate at the first step, as in mmsegmentation's recipes


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: weights with decay, and without it what has one dimension at most (biases, norms, scales) and norms.

    Args:
        model: any module; frozen parameters are left out.
        weight_decay: of the first group.

    Returns:
        Groups for `torch.optim`, empty ones left out. Every trainable parameter is in exactly one of them.

    Raises:
        SegZooError: nothing is trainable.
    """
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
    in_norms = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    with_decay, without_decay = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            bare = parameter.ndim <= 1 or id(parameter) in in_norms
            (without_decay if bare else with_decay).append(parameter)
    groups = [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise SegZooError("the model has no trainable parameter; unfreeze some (requires_grad)")
    return groups


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`.

    Args:
        model: what to train.
        name: ``"adamw"`` or ``"sgd"``.
        learning_rate, weight_decay: as in `torch.optim`.
        momentum: of SGD.
        betas: of AdamW.

    Raises:
        SegZooError: another name, or nothing to train.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        fused = {p.device.type for group in groups for p in group["params"]} <= {"cpu", "cuda"}
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    raise SegZooError(f"there is no optimizer {name!r}; choose adamw or sgd")


def poly_factor(total_steps: int, warmup_steps: int = 0, power: float = 1.0) -> Callable[[int], float]:
    """Factor on the learning rate at a step: (1 - step / total) ** power, times a linear warm-up from 1e-6.

    mmsegmentation's ``poly`` policy with ``warmup="linear"`` and ``min_lr=0``.
    """

    def factor(step: int) -> float:
        value = max(0.0, 1.0 - step / max(1, total_steps)) ** power
        if step < warmup_steps:
            value *= _WARMUP_START + (1.0 - _WARMUP_START) * step / warmup_steps
        return value

    return factor


def build_schedule(
    optimizer: torch.optim.Optimizer,
    name: str = "poly",
    *,
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
):
    """A schedule that is stepped once after every optimizer step.

    Args:
        optimizer: its learning rates are the largest ones.
        name: ``"poly"`` (`poly_factor`), or a name that `transformers.get_scheduler` knows.
        total_steps: optimizer steps of the whole training.
        warmup_steps: steps of linear warm-up among them.
        power: of ``"poly"``.

    Raises:
        SegZooError: a warm-up as long as the training or longer, a power that is not positive, an unknown name.
    """
    if not 0 <= warmup_steps < max(1, total_steps):
        raise SegZooError(
            f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps of training; "
            "lower --num_warmup_steps or train longer"
        )
    if name == "poly":
        if power <= 0:
            raise SegZooError(f"the power of the poly schedule is {power}; it must be positive")
        return torch.optim.lr_scheduler.LambdaLR(optimizer, poly_factor(total_steps, warmup_steps, power))
    from transformers import get_scheduler

    try:
        return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    except (ValueError, TypeError) as error:
        raise SegZooError(f"the schedule {name!r} cannot be used: {error}") from error

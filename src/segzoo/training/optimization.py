"""Optimizer, parameter groups and learning-rate schedule."""

from collections.abc import Callable

import torch
from torch import nn

from segzoo.errors import SegZooError

_HEADS = ("decode_head", "auxiliary_head")  # how segzoo, and most of transformers, name them
_WARMUP_START = 1e-6  # share of the learning rate at the first step, as in mmsegmentation's recipes


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    learning_rate: float | None = None,
    head_lr_multiplier: float = 1.0,
    decay_norms: bool = False,
) -> list[dict]:
    """Groups for `torch.optim`: weights with decay; without it biases, norms and scales (one dimension at most).

    Args:
        model: any module; frozen parameters are left out.
        weight_decay: of what decays.
        learning_rate: written into each group; needed for a multiplier other than 1.
        head_lr_multiplier: factor on the learning rate of decode and auxiliary heads, which get groups of their own.
        decay_norms: biases and norms decay as well.

    Returns:
        The groups, empty ones left out, the heads' last. Every trainable parameter is in exactly one of them.

    Raises:
        SegZooError: nothing is trainable, a multiplier that is not positive, or a model without heads to multiply.
    """
    if head_lr_multiplier <= 0 or (head_lr_multiplier != 1 and learning_rate is None):
        raise SegZooError(
            f"the heads' learning-rate multiplier is {head_lr_multiplier}; it must be above 0, with a learning rate"
        )
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
    in_norms = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    sorted_parameters: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_head = head_lr_multiplier != 1 and name.startswith(_HEADS)
            bare = not decay_norms and (parameter.ndim <= 1 or id(parameter) in in_norms)
            sorted_parameters.setdefault((in_head, bare), []).append(parameter)
    if not sorted_parameters:
        raise SegZooError("the model has no trainable parameter; unfreeze some (requires_grad)")
    if head_lr_multiplier != 1 and not any(in_head for in_head, _ in sorted_parameters):
        raise SegZooError(
            f"{type(model).__name__} has no parameters named {' or '.join(_HEADS)}..., so the learning rate of its head "
            "cannot be multiplied; leave --head_lr_multiplier at 1"
        )
    groups = []
    for (in_head, bare), parameters in sorted(sorted_parameters.items(), key=lambda item: item[0]):
        group: dict = {"params": parameters, "weight_decay": 0.0 if bare else weight_decay}
        if learning_rate is not None:
            group["lr"] = learning_rate * (head_lr_multiplier if in_head else 1.0)
        groups.append(group)
    return groups


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    head_lr_multiplier: float = 1.0,
    decay_norms: bool = False,
) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`.

    Args:
        model: what to train.
        name: ``"adamw"`` or ``"sgd"``.
        learning_rate, weight_decay: as in `torch.optim`.
        momentum: of SGD.
        betas, epsilon: of AdamW.
        head_lr_multiplier, decay_norms: as in `parameter_groups`.

    Raises:
        SegZooError: another name, or nothing to train.
    """
    groups = parameter_groups(
        model,
        weight_decay,
        learning_rate=learning_rate,
        head_lr_multiplier=head_lr_multiplier,
        decay_norms=decay_norms,
    )
    if name == "adamw":
        fused = {p.device.type for group in groups for p in group["params"]} <= {"cpu", "cuda"}
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=fused)
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

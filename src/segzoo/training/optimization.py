"""Optimizer, parameter groups and learning-rate schedule."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from segzoo.errors import SegZooError
from segzoo.training.layer_depths import HEADS, layer_depths
from segzoo.training.recipes.groups import KINDS, OptimizerOptions, ScheduleOptions, check_rules

_NORM_CLASS = re.compile(r".*Norm(1d|2d|3d)?$")
_POSITION = re.compile(
    r"(^|[._])(pos_embed|pos_embedding|position_embeddings?|positional_embedding|relative_position_bias_table"
    r"|cls_token|class_token|mask_token|dist_token|distillation_token|register_tokens)s?($|\.)"
)


def kinds_of_parameters(model: nn.Module) -> dict[str, set[str]]:
    """The kinds that each parameter belongs to, by the parameter's name.

    - norms: weights and biases of normalisation layers; layer_norms: the same without batch norms.
    - biases: parameters whose name ends in "bias".
    - vectors: parameters with at most one dimension: biases, most norms, learned scales.
    - positions: position embeddings, tables of relative positions, class and mask tokens.
    - offsets: the layers of multi-scale deformable attention that predict sampling offsets.
    """
    found: dict[str, set[str]] = {}
    for prefix, module in model.named_modules():
        is_norm = _NORM_CLASS.match(type(module).__name__) is not None
        is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for own_name, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own_name}" if prefix else own_name
            tests = {
                "norms": is_norm,
                "layer_norms": is_norm and not is_batch_norm,
                "biases": name.endswith("bias"),
                "vectors": parameter.ndim <= 1,
                "positions": _POSITION.search(name) is not None,
                "offsets": "sampling_offsets" in name,
            }
            found[name] = {kind for kind, holds in tests.items() if holds}
    return found


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = ("norms", "vectors"),
    layer_decay: float | None = None,
    head_lr_multiplier: float = 1.0,
    parameter_rules: Sequence[Mapping[str, Any]] = (),
) -> list[dict]:
    """Parameter groups for `torch.optim`, one for each combination of learning rate and weight decay.

    With layer-wise decay, a parameter at depth d of n (`segzoo.training.layer_depths`) has the learning rate times
    ``layer_decay ** (n - d)``, so the heads have the full rate.

    Args:
        model: any module; frozen parameters are left out.
        learning_rate: the largest learning rate, before ``head_lr_multiplier``.
        weight_decay: weight decay of the parameters that decay.
        no_decay: kinds of parameters without weight decay, see `kinds_of_parameters`.
        layer_decay: in (0, 1]; None: the backbone trains at one rate.
        head_lr_multiplier: factor on the learning rate of decode and auxiliary heads.
        parameter_rules: mappings with ``match``, a regular expression, and optionally ``lr_multiplier`` and
            ``decay_multiplier``, both 1 by default. For each parameter, the first rule that is found in its name
            replaces ``no_decay`` and ``head_lr_multiplier``. mmcv's ``custom_keys`` are such rules, the longest key
            first.

    Returns:
        Dicts with ``params``, ``lr`` and ``weight_decay``, ordered by their first parameter in the model. No group is
        empty, and every trainable parameter is in exactly one of them.

    Raises:
        SegZooError: nothing is trainable, a number is out of range, a kind is unknown, a rule is wrong, the model has
            no heads to multiply, or the layers of its backbone are not known.
    """
    check_rules(parameter_rules)
    if head_lr_multiplier <= 0:
        raise SegZooError(f"the heads' learning-rate multiplier is {head_lr_multiplier}; it must be above 0")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise SegZooError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1")
    if unknown := set(no_decay) - set(KINDS):
        raise SegZooError(f"no_decay: there is no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    kinds = kinds_of_parameters(model)
    scales: dict[str, float] = {}
    if layer_decay is not None:
        depths, count = layer_depths(model)
        scales = {name: layer_decay ** (count - depth) for name, depth in depths.items()}
    groups: dict[tuple[float, float], dict] = {}
    heads = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = name.startswith(HEADS)
        heads += in_head
        rule = next((rule for rule in parameter_rules if re.search(rule["match"], name)), None)
        if rule is not None:
            factor, decay = rule.get("lr_multiplier", 1.0), rule.get("decay_multiplier", 1.0)
        else:
            factor = head_lr_multiplier if in_head else 1.0
            decay = 0.0 if kinds[name].intersection(no_decay) else 1.0
        scale = scales.get(name, 1.0) * factor
        group = groups.setdefault(
            (scale, decay), {"params": [], "lr": learning_rate * scale, "weight_decay": weight_decay * decay}
        )
        group["params"].append(parameter)
    if not groups:
        raise SegZooError("the model has no trainable parameter; unfreeze some (requires_grad)")
    if head_lr_multiplier != 1 and not heads:
        raise SegZooError(
            f"{type(model).__name__} has no trainable parameters named {' or '.join(HEADS)}..., so the learning rate of its "
            "head cannot be multiplied; leave --head_lr_multiplier at 1"
        )
    return list(groups.values())


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over `parameter_groups`.

    Args:
        model: the model to train; its frozen parameters are left out.
        options: the optimizer's options, such as ``Recipe.optimizer_options``.

    Raises:
        SegZooError: see `parameter_groups`.
    """
    groups = parameter_groups(
        model,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        layer_decay=options.layer_decay,
        head_lr_multiplier=options.head_lr_multiplier,
        parameter_rules=options.parameter_rules,
    )
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    betas = (options.adam_beta1, options.adam_beta2)
    fused = {p.device.type for group in groups for p in group["params"]} <= {"cpu", "cuda"}
    return kind(groups, lr=options.learning_rate, betas=betas, eps=options.adam_epsilon, fused=fused)


def poly_factor(
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
    *,
    end: float = 0.0,
    warmup_start: float = 1e-6,
) -> Callable[[int], float]:
    """Factor on the learning rate at a step: mmsegmentation's ``poly`` policy with linear warm-up.

    Args:
        total_steps: number of steps of the training, at whose end the factor is ``end``.
        warmup_steps: number of first steps in which the factor is also multiplied by a line from ``warmup_start`` to
            1.
        power: exponent of ``(1 - step / total_steps)``.
        end: the factor at the end of the training.
        warmup_start: the warm-up's factor at step 0.

    Returns:
        A function from step to factor.
    """

    def factor(step: int) -> float:
        value = (1.0 - end) * max(0.0, 1.0 - step / max(1, total_steps)) ** power + end
        return value * _warmup(step, warmup_steps, warmup_start)

    return factor


def multistep_factor(
    steps: Iterable[int], factor: float = 0.1, *, warmup_steps: int = 0, warmup_start: float = 1e-6
) -> Callable[[int], float]:
    """Factor on the learning rate at a step: ``factor`` for each of ``steps`` reached, with linear warm-up."""
    steps = tuple(steps)

    def value(step: int) -> float:
        return factor ** sum(step >= mark for mark in steps) * _warmup(step, warmup_steps, warmup_start)

    return value


def _warmup(step: int, steps: int, start: float) -> float:
    return 1.0 if step >= steps else start + (1.0 - start) * step / steps


def build_schedule(
    optimizer: torch.optim.Optimizer, options: ScheduleOptions, *, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A learning-rate schedule, to be stepped once after every optimizer step.

    ``lr_power`` applies to "poly" and to transformers' "polynomial". ``min_learning_rate`` is where every group ends
    under "poly". Under transformers' "polynomial", "cosine_with_min_lr" and "cosine_warmup_with_min_lr" it is where
    ``learning_rate`` ends, and groups with other rates end at the same share of theirs. The warm-ups of transformers'
    schedules start at 0.

    Args:
        optimizer: its learning rates are the largest ones of the schedule.
        options: the schedule's options, such as ``Recipe.schedule_options``.
        total_steps: optimizer steps of the whole training.

    Raises:
        SegZooError: the warm-up is as long as the training or longer, or transformers does not accept the options.
    """
    warmup = {"warmup_steps": options.num_warmup_steps, "warmup_start": options.warmup_start}
    if not 0 <= options.num_warmup_steps < max(1, total_steps):
        raise SegZooError(
            f"a warm-up of {options.num_warmup_steps} steps does not fit into {total_steps} steps of training; "
            "lower --num_warmup_steps or train longer"
        )
    if options.lr_scheduler_type == "poly":
        # A group whose rate is 0 keeps it, whatever the factor.
        ends = [options.min_learning_rate / group["lr"] if group["lr"] else 1.0 for group in optimizer.param_groups]
        factors = [poly_factor(total_steps, power=options.lr_power, end=end, **warmup) for end in ends]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    if options.lr_scheduler_type == "multistep":
        factor = multistep_factor(options.lr_steps, options.lr_step_factor, **warmup)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    from transformers import get_scheduler

    specific: dict[str, float] = {}
    if options.lr_scheduler_type == "polynomial":
        end = options.min_learning_rate
        specific = {"power": options.lr_power} | ({"lr_end": end} if end else {})
    elif options.lr_scheduler_type in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        specific = {"min_lr": options.min_learning_rate}
    try:
        return get_scheduler(
            options.lr_scheduler_type,
            optimizer,
            num_warmup_steps=options.num_warmup_steps,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=specific,
        )
    except (ValueError, TypeError) as error:
        raise SegZooError(f"the schedule {options.lr_scheduler_type!r} cannot be used: {error}") from error

"""Length and learning rates of an original training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.conversion.options import Options, type_name
from segzoo.training.recipes.original.findings import Findings, part_of

_MOST_STEPS = 1000
_NAMED_BATCH = r"(?<![0-9])(\d{1,2})xb(\d{1,2})(?![0-9])"  # GPUs and pictures on each, as configs of 1.x are called
_NAMED = _NAMED_BATCH.replace("xb", "xb?")


def length_fields(config: Mapping[str, Any], passes: int, findings: Findings) -> None:
    """Take the number of steps or epochs; a step is ``passes`` iterations of the original."""
    loop, runner = part_of(config, "train_cfg") or {}, part_of(config, "runner") or {}
    for place, value in (
        ("train_cfg.max_iters", loop.get("max_iters")),
        ("runner.max_iters", runner.get("max_iters")),
        ("total_iters", config.get("total_iters")),
    ):
        if value is not None:
            findings.take(place, max_train_steps=int(value) // passes)
            return
    for place, value in (
        ("train_cfg.max_epochs", loop.get("max_epochs")),
        ("runner.max_epochs", runner.get("max_epochs")),
        ("total_epochs", config.get("total_epochs")),
    ):
        if value is not None:
            findings.take(place, num_train_epochs=float(value))
            return
    findings.leave("runner", "the config does not say how long it trains; 3 epochs, or --max_train_steps")


def schedule_fields(config: Mapping[str, Any], passes: int, findings: Findings) -> None:
    """Take the learning-rate schedule."""
    if (policy := part_of(config, "lr_config")) is not None:
        _policy(Options(policy, "lr_config"), policy.get("policy"), passes, findings)
        return
    schedulers = config.get("param_scheduler")
    findings.take("no schedule", lr_scheduler_type="constant")
    if schedulers is None:
        return
    for number, scheduler in enumerate(schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]):
        place = f"param_scheduler[{number}]"
        with findings.reading(place):
            _scheduler(Options(scheduler, place), type_name(scheduler, place), passes, findings)


def _policy(options: Options, policy: Any, passes: int, findings: Findings) -> None:
    """0.x."""
    options.ignore("policy", "target_lr")
    by_epoch = options.take("by_epoch", True)
    if policy == "poly":
        findings.take("lr_config.policy", lr_scheduler_type="poly", lr_power=options.take("power", 1.0))
        findings.take("lr_config.min_lr", min_learning_rate=options.take("min_lr", 0.0))
    elif policy == "step":
        steps = options.take("step")
        if isinstance(steps, int):
            last = findings.fields.get("max_train_steps", 0) * passes
            steps = list(range(steps, last, steps)[:_MOST_STEPS])
        if by_epoch:
            findings.leave(
                "lr_config.step", "it counts epochs, whose steps depend on the data; give --lr_steps yourself"
            )
            findings.take("lr_config.policy", lr_scheduler_type="constant")
        else:
            findings.take(
                "lr_config.step", lr_scheduler_type="multistep", lr_steps=[int(step) // passes for step in steps]
            )
        findings.take("lr_config.gamma", lr_step_factor=options.take("gamma", 0.1))
    elif policy == "CosineAnnealing":
        ratio = options.take("min_lr_ratio", None)
        low = options.take("min_lr", 0.0) if ratio is None else ratio * findings.fields["learning_rate"]
        _cosine("lr_config", low or 0.0, findings)
    elif policy == "fixed":
        findings.take("lr_config.policy", lr_scheduler_type="constant")
    else:
        findings.leave("lr_config.policy", f"{policy!r} is not available; poly of power 1 stands in its place")
        findings.take("lr_config.policy", lr_scheduler_type="poly", lr_power=1.0)
    warmup, count = options.take("warmup", None), options.take("warmup_iters", 0)
    start, in_epochs = options.take("warmup_ratio", 0.1), options.take("warmup_by_epoch", False)
    if warmup is not None and count:
        if in_epochs:
            findings.leave("lr_config.warmup_iters", "it counts epochs; give --num_warmup_steps yourself")
        else:
            _warmup("lr_config.warmup_iters", count // passes, start, findings)
        if warmup != "linear":
            findings.leave("lr_config.warmup", f"{warmup!r} is not available; the warm-up is linear")
    findings.leave_rest(options)


def _warmup(place: str, steps: int, start: float, findings: Findings) -> None:
    findings.take(place, num_warmup_steps=steps, warmup_start=max(start, 1e-12))
    if findings.fields.get("lr_scheduler_type") == "constant":
        findings.take(place, lr_scheduler_type="constant_with_warmup")


def _cosine(place: str, low: float, findings: Findings) -> None:
    if low:
        _take_schedule(place, findings, lr_scheduler_type="cosine_with_min_lr", min_learning_rate=low)
    else:
        _take_schedule(place, findings, lr_scheduler_type="cosine")


def _take_schedule(place: str, findings: Findings, **fields: Any) -> None:
    """Take the one schedule that a recipe has, in place of an earlier one."""
    if findings.fields.get("lr_scheduler_type", "constant") not in ("constant", "constant_with_warmup"):
        findings.leave(findings.places["lr_scheduler_type"], f"a recipe has one schedule; {place} stands in its place")
        for name in ("lr_power", "lr_steps", "lr_step_factor", "min_learning_rate"):
            findings.fields.pop(name, None)
            findings.places.pop(name, None)
    findings.take(place, **fields)


def _scheduler(options: Options, kind: str, passes: int, findings: Findings) -> None:
    """One of 1.x."""
    place = options.where
    begin, end = options.take("begin", 0), options.take("end", None)
    by_epoch = options.take("by_epoch", True)
    length = findings.fields.get("num_train_epochs" if by_epoch else "max_train_steps")
    warms_up = kind in ("LinearLR", "ConstantLR") and begin == 0 and bool(end)
    decays = kind in ("PolyLR", "CosineAnnealingLR")
    if not (warms_up or decays or kind == "MultiStepLR"):
        findings.leave(place, f"{kind} is not available; what no other scheduler sets is constant")
        return
    if by_epoch and not (decays and length):
        flag = "--num_warmup_steps" if warms_up else "--lr_scheduler_type"
        findings.leave(place, f"{kind} counts epochs, whose steps depend on the data; give {flag} yourself")
        return
    if warms_up:
        start = options.take("start_factor", options.take("factor", 1 / 3))
        _warmup(place, end // passes, start, findings)
        if kind == "ConstantLR":
            findings.leave(place, "its warm-up is constant, and a recipe's rises")
        elif (factor := options.take("end_factor", 1.0)) != 1:
            findings.leave(f"{place}.end_factor", f"{factor:g}: a recipe's warm-up ends at the learning rate")
    elif decays:
        low, ratio = options.take("eta_min", 0.0), options.take("eta_min_ratio", None)
        low = low if ratio is None else ratio * findings.fields["learning_rate"]
        options.ignore("convert_to_iter_based")
        if kind == "PolyLR":
            power = options.take("power", 1.0)
            _take_schedule(place, findings, lr_scheduler_type="poly", lr_power=power, min_learning_rate=low)
        else:
            _cosine(place, low, findings)
        unit, passes = ("epoch", 1) if by_epoch else ("step", passes)
        if begin:
            findings.leave(
                f"{place}.begin", f"{kind} begins at {unit} {begin} there, and at {unit} 0 here, below the warm-up"
            )
        if end and end // passes != length:
            findings.leave(f"{place}.end", f"{kind} ends at {unit} {end} there, and with the training here")
        whole = (end or (length or 0) * passes) - begin
        if (period := options.take("T_max", None) or whole) != whole:
            findings.leave(f"{place}.T_max", f"{kind} falls for {period} {unit}s there, and to the end here")
    else:
        # The original counts the milestones from where the scheduler begins.
        steps = [begin + int(step) for step in options.take("milestones")]
        steps = [step // passes for step in steps if end is None or step < end]
        factor = options.take("gamma", 0.1)
        if steps:
            _take_schedule(place, findings, lr_scheduler_type="multistep", lr_steps=steps, lr_step_factor=factor)
    findings.leave_rest(options)


def batch_fields(
    config: Mapping[str, Any], *, passes: int, gpus: int | None, names: Sequence[str], findings: Findings
) -> None:
    """Take the number of pictures of a step.

    Args:
        config: the whole config.
        passes: passes whose gradients make a step.
        gpus: how many GPUs it was made for; None: as the names say, or as many as the resolved config lists, or 4.
        names: names that may say it, such as the file's.
        findings: what is found is added to it.
    """
    loader, data = part_of(config, "train_dataloader") or {}, part_of(config, "data") or {}
    inner = part_of(data, "train_dataloader") or {}
    found = [
        ("train_dataloader.batch_size", loader.get("batch_size")),
        ("data.train_dataloader.samples_per_gpu", inner.get("samples_per_gpu")),
        ("data.samples_per_gpu", data.get("samples_per_gpu")),
    ]
    place, samples = next(((place, value) for place, value in found if value is not None), ("", None))
    named = next((found for name in names if (found := re.search(_NAMED_BATCH, name))), None)
    if samples is None and named is not None:
        place, samples = f"the name {names[0]},", int(named[2])
    if samples is None:
        findings.leave("data", "the config does not say how many pictures a GPU takes; give --total_train_batch_size")
        return
    if gpus is None:
        gpus, source = _gpus(config, names, samples)
        if source is None:
            gpus = 4
            source = "not in the config: 4 are assumed, as mmsegmentation has them; --gpus N of segzoo recipe says otherwise"
        findings.leave("number of GPUs", source)
    findings.take(f"{place} of {samples} on {gpus} GPUs", total_train_batch_size=samples * gpus * passes)


def _gpus(config: Mapping[str, Any], names: Sequence[str], samples: int) -> tuple[int, str | None]:

    for name in names:
        for count, batch in re.findall(_NAMED, name):
            if int(batch) == samples:
                return int(count), f"{count}, as the name {name} says"
    listed = config.get("gpu_ids")
    if isinstance(listed, (list, tuple, range)) and len(listed) > 1:
        return len(listed), f"{len(listed)}, as gpu_ids of the resolved config lists them"
    return 0, None

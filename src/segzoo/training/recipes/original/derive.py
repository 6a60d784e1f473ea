"""A recipe out of a training config of mmsegmentation 0.x or 1.x, or of a repository built on one, which is read and never executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segzoo.conversion.bases import zoo_base
from segzoo.conversion.options import Options
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.reading.configs import read_config_file
from segzoo.conversion.translate import translate_config
from segzoo.conversion.translation import Translation
from segzoo.data.facts import facts_for_original_type
from segzoo.errors import SegZooError
from segzoo.text import shorten
from segzoo.training.recipes.original.findings import Findings
from segzoo.training.recipes.original.model import model_fields, model_flags
from segzoo.training.recipes.original.optimizer import optimizer_fields
from segzoo.training.recipes.original.pictures import test_fields, train_fields
from segzoo.training.recipes.original.schedule import batch_fields, length_fields, schedule_fields
from segzoo.training.recipes.recipe import Recipe

_ELSEWHERE = {
    "evaluation": "how often it is evaluated: --eval_steps",
    "checkpoint_config": "how often it is saved: --checkpointing_steps",
    "default_hooks": "how often it is saved and logged: --checkpointing_steps, --logging_steps",
    "log_config": "how often it is logged: --logging_steps, --report_to",
    "visualizer": "trackers: --report_to",
    "load_from": "weights to begin with: segzoo convert the file, and give --model_name_or_path the folder",
    "resume_from": "going on: --resume_from_checkpoint",
    "seed": "the seed: --seed",
    "randomness": "the seed: --seed",
    "auto_scale_lr": "learning rates are not scaled by themselves",
    "find_unused_parameters": "found by itself",
}
_SCHEDULE = re.compile(r"mmseg(?:mentation)?::(?:.*/)?_base_/schedules/schedule_(\d+)k(?:\.py)?$")


@dataclass(frozen=True)
class DerivedRecipe:
    """What a config says about a training.

    Args:
        recipe: the recipe.
        places: where in the config each field that it says comes from.
        left_out: (place, why) of what the recipe does not hold.
        flags: the options of ``segzoo train`` besides the recipe, as words.
    """

    recipe: Recipe
    places: dict[str, str]
    left_out: list[tuple[str, str]]
    flags: list[str] = field(default_factory=list)


def read_training_config(path: str | Path) -> dict[str, Any]:
    """Read a config with its base files, as literals; those of the package mmsegmentation are known without it.

    Raises:
        ConfigReadError: the file does not exist, is no config, or asks for more work than any config needs.
    """
    return read_config_file(path, base_loader=_base)


def _base(reference: str) -> dict[str, Any] | None:
    """A base file of mmsegmentation 1.x: a schedule, or what the zoo has."""
    found = _SCHEDULE.match(reference)
    if found is None:
        return zoo_base(reference)
    steps = 1000 * int(found[1])
    optimizer = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}
    poly = {"type": "PolyLR", "eta_min": 1e-4, "power": 0.9, "begin": 0, "end": steps, "by_epoch": False}
    return {
        "optimizer": optimizer,
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": optimizer, "clip_grad": None},
        "param_scheduler": [poly],
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": steps},
    }


def derive_recipe(config: Mapping[str, Any], *, name: str, gpus: int | None = None) -> DerivedRecipe:
    """Make a recipe of a training config.

    Args:
        config: the whole config, as `read_training_config` gives it.
        name: what the config is called, which may say for how many GPUs it is made, such as
            "fcn_r50-d8_4xb2-40k_cityscapes-512x1024".
        gpus: for how many GPUs it is made; None: as its name or ``gpu_ids`` says, or 4.

    Raises:
        SegZooError: the config has no optimizer, or settings that fit no recipe.
    """
    findings = Findings()
    translation = _translation(config, findings)
    passes = optimizer_fields(config, translation, findings)
    with findings.reading("runner"):
        length_fields(config, passes, findings)
    with findings.reading("lr_config" if "lr_config" in config else "param_scheduler"):
        schedule_fields(config, passes, findings)
    with findings.reading("data"):
        batch_fields(config, passes=passes, gpus=gpus, names=[name], findings=findings)
    with findings.reading("train_pipeline"):
        train_fields(config, findings)
    flags = ["--backbone", "BACKBONE", "--head", "HEAD"]
    if translation is not None:
        with findings.reading("test_pipeline"):
            test_fields(config, translation, findings)
        with findings.reading("model"):
            model_fields(config, translation, findings)
            flags = model_flags(translation, findings)
    with findings.reading("custom_hooks"):
        _hooks(config.get("custom_hooks") or (), passes, findings)
    for key, why in _ELSEWHERE.items():
        if key in config and config[key] is not None:
            findings.leave(key, why)
    data = ["--dataset_name", "DATA"]
    with findings.reading("data"):
        data += _class_flags(config, translation, findings)
    recipe = Recipe(name=name, source=f"derived from the training config {name}", **findings.fields)
    return DerivedRecipe(recipe, findings.places, findings.left_out, [*data, *flags])


def _translation(config: Mapping[str, Any], findings: Findings) -> Translation | None:
    try:
        return translate_config(config)
    except SegZooError as error:
        findings.leave("model", f"{shorten(str(error), 300)}: choose --backbone and --head yourself")
        return None


def _class_flags(config: Mapping[str, Any], translation: Translation | None, findings: Findings) -> list[str]:
    dataset = OriginalConfig.parse(config).dataset
    num_labels = None if translation is None else translation.config.num_labels
    facts = facts_for_original_type(dataset.type, num_labels=num_labels) if dataset.type else None
    if facts is not None and facts.name != "custom":
        flags = ["--classes", facts.name]
        if dataset.reduce_labels is not None and dataset.reduce_labels != facts.reduce_labels:
            flags += ["--do_reduce_labels", str(dataset.reduce_labels).lower()]
        return flags
    findings.leave(
        dataset.where or "data",
        "its classes are in no list here: --classes FILE.json with their names by id, or --num_labels",
    )
    flags = ["--num_labels", str(num_labels)] if num_labels else []
    return flags + (["--do_reduce_labels"] if dataset.reduce_labels else [])


def _hooks(hooks: Any, passes: int, findings: Findings) -> None:
    for number, hook in enumerate(hooks):
        place = f"custom_hooks[{number}]"
        kind = str(hook.get("type")).rpartition(".")[2]
        if kind == "EMAHook":
            with findings.reading(place):
                _average(Options(hook, place), passes, findings)
        else:
            findings.leave(place, f"the hook {kind} is not available")


def _average(options: Options, passes: int, findings: Findings) -> None:
    """The moving average of the weights, which the original updates after iterations, ``passes`` of which are a step."""
    place, usual = options.where, "ExponentialMovingAverage"
    kind = str(options.take("ema_type", usual)).rpartition(".")[2]
    if kind != usual and "momentum" not in options:
        findings.leave(place, f"the average {kind} is not available")
        return
    if kind != usual:
        findings.leave(f"{place}.ema_type", f"{kind} becomes {usual}, with one share in all steps")
    # 0.x and 1.x have the share of the new weights, and 0.x warms it up.
    share, interval = float(options.take("momentum", 0.0002)), options.take("interval", 1)
    if passes % interval:
        findings.leave(
            f"{place}.interval", f"{interval} becomes 1, with a share that forgets as much in {interval} iterations"
        )
    findings.take(f"{place}.momentum", ema_decay=(1 - share) ** (passes / interval))
    options.ignore("priority", "strict_load", "device")
    findings.leave_rest(options)

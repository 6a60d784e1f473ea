"""The command line of ``segzoo train``.

It has the flags of transformers' run_semantic_segmentation_no_trainer.py, the common flags of its Trainer script, and
one flag for every field of a `Recipe`; flags override the recipe.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segzoo.data.augmentation import REPLACED
from segzoo.errors import SegZooError
from segzoo.options import Options
from segzoo.training.flags import add_flag, add_flags, explain_unknown_flags
from segzoo.training.options import (
    DEFAULTS,
    UPSTREAM_MODEL,
    BatchOptions,
    DataOptions,
    ModelSource,
    RunningOptions,
    RunOptions,
)
from segzoo.training.recipes.recipe import Recipe, resolve_recipe
from segzoo.training.trainer_names import WITHOUT_EFFECT, TrainerNames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``segzoo train`` to a parser; its help explains every option."""
    parser.usage = "%(prog)s --output_dir DIR [--flag VALUE ...]; --help explains all flags"
    explain_unknown_flags(parser)
    add_flags(parser.add_argument_group("model"), ModelSource)
    add_flags(parser.add_argument_group("data"), DataOptions)
    recipe = parser.add_argument_group("recipe")
    add_flags(recipe, BatchOptions)
    add_flags(recipe, Recipe)
    add_flags(parser.add_argument_group("running"), RunningOptions)
    others = parser.add_argument_group("other names", "flags of the Trainer script, and what they mean here")
    add_flags(others, TrainerNames)
    for name, reason in WITHOUT_EFFECT.items():
        help = f"taken, but of no effect: {reason}"
        add_flag(others.add_argument, (name,), nargs="?", const=True, default=argparse.SUPPRESS, help=help)


def parse_arguments(argv: Sequence[str]) -> tuple[RunOptions, Recipe]:
    """The options and the recipe of a command line.

    Raises:
        SegZooError: a wrong value; the message names the option.
        SystemExit: wrong usage, through argparse, with status 2.
    """
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return read_arguments(vars(parser.parse_args(argv)))


def option_names() -> dict[str, str]:
    """Every name of an option of ``segzoo train``, without dashes, with the name that `read_arguments` knows it by."""
    names = {name: name for name in WITHOUT_EFFECT}
    for cls in (TrainerNames, RunOptions, Recipe):
        for entry in dataclasses.fields(cls):
            flag = entry.metadata["flag"]
            if flag is not None:
                names |= dict.fromkeys((entry.name, *flag.aliases), entry.name)
    return names


def read_arguments(values: Mapping[str, Any], *, start: Recipe | None = None) -> tuple[RunOptions, Recipe]:
    """The options of the run and the recipe, from the values of flags.

    The recipe starts from the defaults or ``recipe``, then takes the fields of ``recipe_file``, then those of single
    flags.

    Args:
        values: values of the flags that were given, as text or converted, by name without dashes; other entries are
            ignored.
        start: the recipe to start from where ``values`` name none; None: the defaults.

    Raises:
        SegZooError: a wrong value; the message names the option.
    """
    run, fields, names = (_of(cls, values) for cls in (RunOptions, Recipe, TrainerNames))
    others = TrainerNames(**names)
    run |= others.run_fields(run)
    run |= _parts_asked_for(run)
    run["without_effect"] = tuple(name for name in WITHOUT_EFFECT if values.get(name) is not None)
    fields = others.recipe_fields(fields) | fields
    if run.get("warmup_ratio") is not None:
        fields.setdefault("num_warmup_steps", 0)  # the share takes its place, also where it would not fit
    name, file = run.get("recipe"), run.get("recipe_file")
    run["crop_by_model"] = start is None and name is None and file is None and "crop_size" not in fields
    transforms = run.get("augmentation")
    if run.get("resume_from_checkpoint") is None or Path(transforms or "").is_file():  # else the checkpoint has them
        fields |= pipeline_fields(transforms, fields)
    recipe = resolve_recipe(name, file, fields, defaults=start or DEFAULTS)
    options = RunOptions(**run)
    options.check_recipe(recipe)
    return options, recipe


def pipeline_fields(file: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The field of a recipe that ``--augmentation FILE`` sets; ``given`` are those that other flags set.

    Raises:
        SegZooError: the file cannot be used, or a flag is given that it takes the place of.
    """
    if file is None:
        return {}
    from segzoo.data.pipelines import read_pipeline

    replaced = next((name for name in (*REPLACED, "reduced_decoding") if name in given), None)
    if replaced is not None:
        raise SegZooError(f"--augmentation takes the place of --{replaced}; leave one out")
    return {"pipeline": read_pipeline(file)}


def _of(cls: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that belong to a flag of ``cls``."""
    names = [entry.name for entry in dataclasses.fields(cls) if entry.metadata["flag"] is not None]
    return {name: values[name] for name in names if name in values}


def _parts_asked_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the run that follow from which flags are there and which are missing."""
    run: dict[str, Any] = {}
    if "do_train" in given or "do_eval" in given:
        # One that is asked for switches the other off, and one that is switched off leaves the other on. Who says when to
        # evaluate wants it done.
        run["do_train"] = given.get("do_train", not given.get("do_eval"))
        run["do_eval"] = given.get("do_eval", not given.get("do_train") or str(given.get("eval_steps", 0)) != "0")
    if "with_tracking" not in given:
        run["with_tracking"] = "report_to" in given
    if not any(given.get(name) for name in ("model_name_or_path", "config_name", "backbone")):
        run["model_name_or_path"] = UPSTREAM_MODEL
    return run

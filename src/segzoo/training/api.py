"""`segzoo.train`: a training in a line of Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from transformers import AutoConfig

from segzoo import zoo
from segzoo.errors import SegZooError
from segzoo.inference.loading import is_backbone
from segzoo.options import nearest
from segzoo.training.arguments import option_names, read_arguments
from segzoo.training.backbones import is_backbone_name
from segzoo.training.options import DEFAULTS, RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.run import run_training

if TYPE_CHECKING:
    from segzoo.training.keywords import TrainKeywords


@overload
def train(model: RunOptions, recipe: Recipe = ...) -> dict[str, Any]: ...


@overload
def train(
    model: str | os.PathLike[str] | None = ...,
    recipe: Recipe | str | os.PathLike[str] | None = ...,
    **options: Unpack[TrainKeywords],
) -> dict[str, Any]: ...


def train(
    model: RunOptions | str | os.PathLike[str] | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, evaluate and save a model, as ``segzoo train`` does; several processes call this together.

    Args:
        model: folder or Hub name of a model to fine-tune; or name, folder or Hub name of a backbone, for a new model.
            Or all options as one object, to which no others are added.
        recipe: name or file of a recipe, or the recipe itself, which ``options`` change; None: the defaults.
        options: the options of ``segzoo train``, by the same names: ``dataset_name`` and ``output_dir``, fields of the
            recipe, the names of the Trainer script; ``segzoo train --help`` explains them.

    Returns:
        The contents of all_results.json: scores as fractions, such as ``eval_mean_iou``.

    Raises:
        SegZooError: an option that does not exist, or settings, data or files that cannot be used; most are found
            before the first step.
        StoppedBySignal: SIGTERM, SIGUSR1 or SIGHUP arrived, or the launcher has ended; a checkpoint of the last step
            has been written.
        KeyboardInterrupt: Ctrl-C was pressed; once steps are taken, a checkpoint of the last one has been written.

    Example:
        ```python
        segzoo.train("resnet50", dataset_name="my_data", recipe="quick", output_dir="my_model", max_train_steps=400)
        ```
    """
    if isinstance(model, RunOptions):
        if options:
            raise SegZooError(
                f"{next(iter(options))}: give it to RunOptions or to the recipe; train has both as objects"
            )
        if recipe is not None and not isinstance(recipe, Recipe):
            raise SegZooError(
                f"recipe {recipe}: with RunOptions it is an object; resolve_recipe({str(recipe)!r}) makes it"
            )
        return run_training(model, DEFAULTS if recipe is None else recipe)
    names = option_names()
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in names:
            raise SegZooError(
                f"train has no option {name!r}{nearest(name, names) or '; segzoo train --help has them all'}"
            )
        values[names[name]] = value
    if recipe is not None and not isinstance(recipe, Recipe):
        values["recipe"] = recipe
    if model is not None:
        given = next((name for name in ("model_name_or_path", "backbone") if values.get(name) is not None), None)
        if given is not None:
            raise SegZooError(f"train has a model, {os.fspath(model)}, and {given}; leave one out")
        values["model_name_or_path"] = model
    run, resolved = read_arguments(values, start=recipe if isinstance(recipe, Recipe) else None)
    if model is not None and _stands_for_backbone(run.model_name_or_path, run.hub_options):
        run = replace(run, model_name_or_path=None, backbone=run.model_name_or_path)
    return run_training(run, resolved)


def _stands_for_backbone(name: str, hub_options: Mapping[str, Any]) -> bool:
    """Whether a name is that of a backbone, not of a whole model.

    Raises:
        SegZooError: it is a released checkpoint.
    """
    if is_backbone_name(name):
        return True
    if Path(name).exists() or "/" in name:
        try:
            return is_backbone(AutoConfig.from_pretrained(name, **hub_options))
        except Exception:  # what is wrong is told where the model is loaded
            return False
    if zoo.lookup(name) is not None:
        raise SegZooError(
            f"{name} is a released checkpoint; make a model folder of it first, with `segzoo convert {name} --output DIR`"
        )
    return True  # the error about it names similar ones

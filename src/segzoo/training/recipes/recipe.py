"""Training recipes as data: everything that decides a training besides the model and the pictures.

``recipes.json`` has one row for each recipe; a row of the zoo names the recipe that its checkpoint was trained with. A
recipe is resolved from four layers: the caller's defaults, a row, a YAML or JSON file, and the command line.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from segzoo import zoo
from segzoo.data.augmentation import Augmentation
from segzoo.errors import SegZooError, one_line
from segzoo.options import MAX_FACTOR, nearest, option
from segzoo.sizes import MAX_SIZE
from segzoo.training.recipes.groups import ModelOptions, OptimizerOptions, ScheduleOptions

PRECISIONS = ("no", "fp16", "bf16", "auto")
_LABELS = ("name", "source")
_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, kw_only=True)
class Recipe(ModelOptions, Augmentation, ScheduleOptions, OptimizerOptions):
    """How to train, and how to test the result.

    Every field but ``name`` and ``source`` is an option of ``segzoo train`` of the same name. Sizes are (height,
    width) in pixels.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    prefix = "recipe: "

    name: str = option("custom", "what the recipe is called", flag=None)
    source: str = option("", "where it comes from", flag=None)

    max_grad_norm: float | None = option(
        None, "largest norm of the gradient; 0 or none: no limit", at_least=0, at_most=MAX_FACTOR
    )
    max_train_steps: int | None = option(
        None, "optimizer steps; instead of num_train_epochs", at_least=1, at_most=MAX_FACTOR
    )
    num_train_epochs: float = option(3.0, "passes over the training pictures", above=0, at_most=MAX_FACTOR)
    total_train_batch_size: int | None = option(
        None, "pictures per optimizer step, over all processes and accumulated passes", at_least=1, at_most=MAX_FACTOR
    )
    train_fraction: float | None = option(
        None,
        "train on this share of the pictures only, such as 0.0625 of a few-shot protocol; the run's train_files.txt lists them",
        above=0,
        at_most=1,
    )
    sampling: str = option(
        "all",
        "all: every picture once an epoch; balanced: pictures of rare classes more often, as many as there are in an epoch, "
        "and crops that show them",
        choices=("all", "balanced"),
    )
    sampling_temperature: float = option(
        0.01, "with balanced sampling: the smaller, the rarer the classes", above=0, at_most=MAX_FACTOR
    )
    freeze_backbone: bool = option(False, "train neck and heads only")
    mixed_precision: str | None = option(
        None,
        "none: as accelerate is configured; auto: bf16 where the processor computes in it, else no",
        choices=PRECISIONS,
    )
    ema_decay: float | None = option(
        None,
        "keep a moving average of the weights; this share of the old average stays in each step",
        above=0,
        below=1,
    )
    eval_scale_size: tuple[int, ...] | None = option(
        None, "as scale_size, for tests; none: scale_size", at_least=1, at_most=MAX_SIZE, lengths=(1, 2)
    )
    eval_scales: tuple[float, ...] = option(
        (1.0,), "factors on the size of tested pictures, averaged over", above=0, at_most=100
    )
    eval_flip: bool = option(False, "average over mirrored pictures too")

    def check(self) -> None:
        """Check the groups, and that steps, rates and scales fit each other."""
        super().check()
        if not self.eval_scales:
            self.refuse("eval_scales needs at least one factor; 1.0 tests pictures at their size")
        if self.min_learning_rate > self.learning_rate:
            self.refuse(f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}")
        if self.max_train_steps is not None and self.num_warmup_steps >= self.max_train_steps:
            self.refuse(
                f"num_warmup_steps {self.num_warmup_steps} does not fit into max_train_steps {self.max_train_steps}; "
                "lower the one or raise the other"
            )

    @property
    def optimizer_options(self) -> OptimizerOptions:
        """The options that `segzoo.training.build_optimizer` takes."""
        return self.part(OptimizerOptions)

    @property
    def schedule_options(self) -> ScheduleOptions:
        """The options that `segzoo.training.build_schedule` takes."""
        return self.part(ScheduleOptions)

    @property
    def augmentation(self) -> Augmentation:
        """The options that `segzoo.training.training_transform` and `segzoo.data.build_train_transform` take."""
        return self.part(Augmentation)

    @property
    def model_options(self) -> ModelOptions:
        """The options that `segzoo.training.build_model` takes."""
        return self.part(ModelOptions)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, name and source first; tuples become lists, as in JSON."""
        return {"name": self.name, "source": self.source} | super().to_dict()

    def write_recipe(self, path: str | os.PathLike) -> None:
        """Write all fields to a JSON file that ``--recipe_file`` can read.

        Raises:
            SegZooError: the file cannot be written.
        """
        from segzoo.training.folder import write_json

        write_json(path, self.to_dict())


@cache
def _rows() -> dict[str, Recipe]:
    table = {}
    for row in json.loads(
        resources.files("segzoo.training.recipes").joinpath("recipes.json").read_text(encoding="utf-8")
    ):
        recipe = Recipe(**row)
        table[recipe.name] = recipe
    return table


def list_recipes() -> list[Recipe]:
    """All published recipes, in the order of ``recipes.json``."""
    return list(_rows().values())


def load_recipe(name: str) -> Recipe:
    """The recipe with this name, or the one that the zoo checkpoint with this name was trained with.

    Raises:
        SegZooError: there is no such recipe or checkpoint (the message suggests similar names), or the zoo does not
            know how the checkpoint was trained.
    """
    if name in _rows():
        return _rows()[name]
    checkpoint = zoo.lookup(name)
    if checkpoint is None:
        known = [*_rows(), *zoo.rows()]
        hint = nearest(name, known) or _containing(name, known) or "; list_recipes() of segzoo.training names them all"
        raise SegZooError(f"there is no recipe named {name!r}{hint}")
    if checkpoint.recipe is None:
        raise SegZooError(f"how {name} was trained is not known: the zoo row names no recipe")
    return _rows()[checkpoint.recipe]


def _containing(name: str, known: list[str]) -> str:
    near = [entry for entry in known if name.lower() in entry.lower()][:3]
    return f"; names with it are {', '.join(near)}" if near else ""


def resolve_recipe(
    name: str | None = None,
    file: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    defaults: Recipe | None = None,
) -> Recipe:
    """The recipe of a training: the defaults, or a published recipe instead, then the file's fields, then the
    overrides.

    A published recipe is complete: fields that its row does not name have the values of ``Recipe()``, not those of
    ``defaults``. A layer that gives num_train_epochs without max_train_steps replaces the steps of the layers before
    it.

    Args:
        name: name of a recipe or zoo checkpoint; or, without a ``file``, such a file.
        file: YAML or JSON file with fields of a recipe; its entry ``recipe`` names the recipe to start from if
            ``name`` is None. A file from ``Recipe.write_recipe`` gives the same recipe again.
        overrides: the fields to change, by name.
        defaults: the recipe to start from if neither ``name`` nor the file names one; None: ``Recipe()``.

    Raises:
        SegZooError: an unknown recipe or field (the message suggests similar names), a file that cannot be read, a
            wrong value.
    """
    if name is not None and Path(name).suffix in _FILES:
        if file is not None:
            raise SegZooError(f"{name} and {file} are two recipe files; give one of them")
        name, file = None, name
    settings = {} if file is None else _read_file(Path(file))
    extends = settings.pop("recipe", None)
    if extends is not None and not isinstance(extends, str):
        raise SegZooError(f"{file}: recipe is {extends!r:.60}; it must be the name of a recipe")
    row = name or extends
    recipe = load_recipe(row) if row is not None else defaults or Recipe()
    try:
        labels = {"name": settings.pop("name", recipe.name), "source": settings.pop("source", recipe.source)}
        before, recipe = recipe, _changed(recipe, settings)
        if labels == {"name": before.name, "source": before.source}:
            labels["source"] = _noted(before, recipe)
        recipe = replace(recipe, **labels)
    except SegZooError as error:
        if file is None:
            raise
        raise SegZooError(f"{file}: {error}") from error
    return changed_recipe(recipe, **(overrides or {}))


def changed_recipe(recipe: Recipe, **settings: Any) -> Recipe:
    """A recipe with other fields, which are named in its source.

    Raises:
        SegZooError: an unknown field, or a wrong value.
    """
    changed = _changed(recipe, settings)
    return replace(changed, source=_noted(recipe, changed))


def _changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    known = [entry.name for entry in fields(Recipe)]
    for key in settings:
        if key not in known:
            raise SegZooError(
                f"a recipe has no field {key!r}{nearest(str(key), known) or '; it has ' + ', '.join(known)}"
            )
    settings = dict(settings)
    if settings.get("num_train_epochs") is not None:
        settings.setdefault("max_train_steps", None)
    return replace(recipe, **settings)


def _noted(before: Recipe, after: Recipe) -> str:
    """The source of a recipe, followed by the names of the fields that were changed."""
    changed = [
        entry.name
        for entry in fields(Recipe)
        if entry.name not in _LABELS and getattr(before, entry.name) != getattr(after, entry.name)
    ]
    if not changed or not before.source:
        return before.source
    return f"{before.source}; changed: {', '.join(changed)}"


def _read_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SegZooError(f"{path}: the recipe cannot be read ({reason})") from error
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise SegZooError(f"{path}: is no {kind}: {one_line(error)[:200]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SegZooError(f"{path}: a recipe is a mapping of field and value, such as learning_rate: 1e-4")
    return loaded

"""Training recipes as data: everything that decides a training besides the model and the pictures.

``recipes.json`` has one row for each recipe; a row of the zoo names the recipe that its checkpoint was trained with. A recipe is
resolved from four layers: the caller's defaults, a row, a YAML or JSON file, and what the command line says.
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
from segzoo.errors import SegZooError
from segzoo.options import nearest, option
from segzoo.training.recipes.groups import ModelOptions, OptimizerOptions, ScheduleOptions
from segzoo.training.recipes.text import describe_recipe

PRECISIONS = ("no", "fp16", "bf16")
_LABELS = ("name", "source")


@dataclass(frozen=True, kw_only=True)
class Recipe(ModelOptions, Augmentation, ScheduleOptions, OptimizerOptions):
    """How to train, and how the result is tested.

    Every field but ``name`` and ``source`` is an option of ``segzoo train`` of the same name. Sizes are (height, width) in pixels.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    prefix = "recipe: "

    name: str = option("custom", "what the recipe is called", flag=None)
    source: str = option("", "where it comes from", flag=None)

    max_grad_norm: float | None = option(None, "largest norm of the gradient; 0 or none: no limit", at_least=0)
    max_train_steps: int | None = option(None, "optimizer steps; instead of num_train_epochs", at_least=1)
    num_train_epochs: float = option(3.0, "passes over the training pictures", above=0)
    total_train_batch_size: int | None = option(
        None, "pictures an optimizer step, over all processes and accumulated passes", at_least=1
    )
    freeze_backbone: bool = option(False, "train neck and heads only")
    mixed_precision: str | None = option(None, "none: as accelerate is configured", choices=PRECISIONS)
    ema_decay: float | None = option(
        None, "keep a moving average of the weights, of which each step is this share the old one", above=0, below=1
    )
    eval_scale_size: tuple[int, ...] | None = option(
        None, "as scale_size, for tests; none: scale_size", at_least=1, lengths=(1, 2)
    )
    eval_scales: tuple[float, ...] = option((1.0,), "factors on the size of tested pictures, averaged over", above=0)
    eval_flip: bool = option(False, "average over mirrored pictures too")

    def check(self) -> None:
        """Refuse what its groups refuse, and steps and rates that do not fit each other."""
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
        """For `segzoo.training.build_optimizer`."""
        return self.part(OptimizerOptions)

    @property
    def schedule_options(self) -> ScheduleOptions:
        """For `segzoo.training.build_schedule`."""
        return self.part(ScheduleOptions)

    @property
    def augmentation(self) -> Augmentation:
        """For `segzoo.training.training_transform` and `segzoo.data.build_train_transform`."""
        return self.part(Augmentation)

    @property
    def model_options(self) -> ModelOptions:
        """For `segzoo.training.build_model`."""
        return self.part(ModelOptions)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as JSON has them; name and source come first."""
        return {"name": self.name, "source": self.source} | super().to_dict()

    def write_recipe(self, path: str | os.PathLike) -> None:
        """Write all fields to a JSON file, which ``--recipe_file`` reads again.

        Raises:
            SegZooError: the file cannot be written.
        """
        from segzoo.training.folder import write_json

        write_json(path, self.to_dict())

    def describe(self) -> str:
        """A short table (Markdown) of what the recipe sets, for cards and logs."""
        return describe_recipe(self)


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
    """All rows, in the order of the file."""
    return list(_rows().values())


def load_recipe(name: str) -> Recipe:
    """The recipe of this name, or the one that the zoo checkpoint of this name was trained with.

    Raises:
        SegZooError: there is none; the message names the nearest.
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
    """The recipe of a training: the defaults, or a row instead of them, then the file's fields, then the overrides.

    A row is a whole recipe: what it does not name has the values of ``Recipe()``, not those of ``defaults``. A layer that
    gives num_train_epochs without max_train_steps replaces the steps of the layers before it.

    Args:
        name: of a recipe or zoo checkpoint.
        file: YAML or JSON with fields of a recipe; its ``recipe`` names the row to start from where ``name`` is None. A file of
            ``Recipe.write_recipe`` gives the same recipe again.
        overrides: fields by name; only those that are given.
        defaults: what to start from without a row; ``Recipe()`` by default.

    Raises:
        SegZooError: an unknown recipe or field (the message names the nearest), a file that cannot be read, a wrong value.
    """
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
    before, recipe = recipe, _changed(recipe, overrides or {})
    return replace(recipe, source=_noted(before, recipe))


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
    """The source of a recipe, with the fields that were changed since."""
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
        text = path.read_text(encoding="utf-8")
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SegZooError(f"{path}: the recipe cannot be read ({reason})") from error
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise SegZooError(f"{path}: is no {'JSON' if path.suffix == '.json' else 'YAML'}: {said}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SegZooError(f"{path}: a recipe is a mapping of field and value, such as learning_rate: 1e-4")
    return loaded

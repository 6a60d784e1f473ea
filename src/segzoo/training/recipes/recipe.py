"""Training recipes as data: everything that decides a training besides the model and the pictures.

``recipes.json`` has one row for each recipe; a row of the zoo names the recipe that its checkpoint was trained with. A recipe is
resolved from four layers: the caller's defaults, a row, a YAML or JSON file, and what the command line says.
"""

import json
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from segzoo import zoo
from segzoo.errors import SegZooError
from segzoo.training.optimization import KINDS, NEED_A_METRIC, check_rules
from segzoo.training.recipes.text import describe_recipe
from segzoo.training.recipes.values import convert, nearest, option, plain

OPTIMIZERS = ("adamw", "adam", "sgd")
PRECISIONS = ("no", "fp16", "bf16")
OWN_SCHEDULES = ("poly", "multistep")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, and how the result is tested.

    Every field but ``name`` and ``source`` is an option of the training script of the same name; its ``metadata["help"]`` says
    what it is. Sizes are (height, width) in pixels. The fields are converted to their types and checked when a recipe is made.

    Raises:
        SegZooError: a value of the wrong type or range, or values that do not fit each other.
    """

    name: str = field(default="custom", metadata={"help": "what the recipe is called"})
    source: str = field(default="", metadata={"help": "where it comes from"})

    optimizer: str = option("adamw", "which optimizer", choices=OPTIMIZERS)
    learning_rate: float = option(5e-5, "the largest learning rate", above=0)
    weight_decay: float = option(0.01, "decoupled for adamw, else added to the gradient", at_least=0)
    momentum: float = option(0.9, "of sgd", at_least=0, below=1)
    adam_beta1: float = option(0.9, "of adamw and adam", at_least=0, below=1)
    adam_beta2: float = option(0.999, "of adamw and adam", at_least=0, below=1)
    adam_epsilon: float = option(1e-8, "of adamw and adam", above=0)
    no_decay: tuple[str, ...] = option(
        ("norms", "vectors"), "kinds of parameters without weight decay; none: all parameters decay", choices=KINDS
    )
    layer_decay: float | None = option(
        None, "factor on the learning rate from each layer of the backbone to the one before it", above=0, at_most=1
    )
    head_lr_multiplier: float = option(1.0, "learning rate of the heads over that of the backbone", above=0)
    parameter_rules: tuple[dict[str, Any], ...] = option(
        (),
        'exceptions by name, the first match decides, such as [{"match": "level_embed", "lr_multiplier": 1, '
        '"decay_multiplier": 0}]; in place of no_decay and head_lr_multiplier',
    )
    max_grad_norm: float | None = option(None, "largest norm of the gradient; 0 or none: no limit", at_least=0)

    lr_scheduler_type: str = option(
        "poly", "poly, multistep, or a name of transformers.get_scheduler such as linear or cosine"
    )
    lr_power: float = option(1.0, "of poly", above=0)
    min_learning_rate: float = option(0.0, "what poly ends at", at_least=0)
    lr_steps: tuple[int, ...] = option((), "steps after which multistep lowers the learning rate", at_least=1)
    lr_step_factor: float = option(0.1, "what multistep multiplies it by", above=0, below=1)
    num_warmup_steps: int = option(0, "steps in which the learning rate rises to its value", at_least=0)
    warmup_start: float = option(1e-6, "factor on the learning rate at the first of them", above=0, at_most=1)

    max_train_steps: int | None = option(None, "optimizer steps; instead of num_train_epochs", at_least=1)
    num_train_epochs: float = option(3.0, "passes over the training pictures", above=0)
    total_train_batch_size: int | None = option(
        None, "pictures an optimizer step, over all processes and accumulated passes", at_least=1
    )

    crop_size: tuple[int, ...] | None = option(
        (512, 512), "height and width of training crops; none: whole pictures", at_least=1, lengths=(2,)
    )
    scale_size: tuple[int, ...] | None = option(
        None,
        "short edge, and limit of the long edge, that pictures are resized to; without keep_ratio height and width; none: "
        "as the model's image processor does",
        at_least=1,
        lengths=(1, 2),
    )
    scale_edges: tuple[int, ...] = option(
        (), "short edges to choose from at random in training, instead of the one of scale_size", at_least=1
    )
    scale_range: tuple[float, ...] = option(
        (0.5, 2.0), "random factor on the scale of training pictures", above=0, lengths=(2,)
    )
    keep_ratio: bool = option(True, "resizing keeps a picture's shape")
    size_divisor: int | None = option(
        None, "whole pictures, tested or trained on without a crop, are stretched to multiples of it", at_least=1
    )
    cat_max_ratio: float = option(0.75, "largest share of one class in a crop, if it can be had", above=0, at_most=1)
    flip_probability: float = option(0.5, "chance that a training picture is mirrored", at_least=0, at_most=1)
    photometric_distortion: bool = option(True, "vary brightness, contrast, saturation and hue of training pictures")

    losses: tuple[dict[str, Any], ...] | None = option(
        None, 'losses of the decode heads, such as [{"type": "dice", "weight": 3}]; none: the model\'s own'
    )
    auxiliary_losses: tuple[dict[str, Any], ...] | None = option(
        None, "losses of the auxiliary heads; none: the model's own"
    )
    class_weights: tuple[float, ...] | None = option(None, "a factor on the loss for each class", at_least=0)
    drop_path_rate: float | None = option(
        None,
        "largest chance that a residual branch of the backbone is skipped; none: the model's own",
        at_least=0,
        below=1,
    )
    norm_momentum: float | None = option(
        None,
        "share of the new batch in the running statistics of batch norms; none: the model's own, usually 0.1",
        above=0,
        at_most=1,
    )
    freeze_backbone: bool = option(False, "train neck and heads only")
    mixed_precision: str | None = option(None, "none: as accelerate is configured", choices=PRECISIONS)
    ema_decay: float | None = option(
        None, "keep a moving average of the weights, of which each step is this share the old one", above=0, below=1
    )

    window_size: tuple[int, ...] | None = option(
        None, "height and width of sliding windows in tests; none: the model's own", at_least=1, lengths=(2,)
    )
    window_stride: tuple[int, ...] | None = option(
        None, "vertical and horizontal step between windows", at_least=1, lengths=(2,)
    )
    eval_scale_size: tuple[int, ...] | None = option(
        None, "as scale_size, for tests; none: scale_size", at_least=1, lengths=(1, 2)
    )
    eval_scales: tuple[float, ...] = option((1.0,), "factors on the size of tested pictures, averaged over", above=0)
    eval_flip: bool = option(False, "average over mirrored pictures too")

    def __post_init__(self):
        hints = _hints()
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in _LABELS:
                if not isinstance(value, str):
                    raise SegZooError(f"recipe: {entry.name} is {value!r:.60}; it must be text")
                continue
            object.__setattr__(self, entry.name, convert(entry, hints[entry.name], value))
        for name in ("losses", "auxiliary_losses"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _plain_losses(name, getattr(self, name)))
        self._check()

    def _check(self) -> None:
        def refuse(text: str) -> None:
            raise SegZooError(f"recipe: {text}")

        check_rules(self.parameter_rules)
        low, high = self.scale_range
        if low > high:
            refuse(f"scale_range is {low:g} to {high:g}; the first number is the smaller one")
        if not self.keep_ratio and (self.scale_size is None or len(self.scale_size) != 2):
            refuse("without keep_ratio, scale_size is the height and width to resize to")
        if self.keep_ratio and self.scale_size is not None and list(self.scale_size) != sorted(self.scale_size):
            refuse(
                f"scale_size is {self.scale_size}; with keep_ratio the short edge comes first, then the long edge's limit"
            )
        if self.scale_edges and not self.keep_ratio:
            refuse("scale_edges choose a short edge, which needs keep_ratio")
        if self.window_stride is not None:
            if self.window_size is None:
                refuse("window_stride needs a window_size")
            if any(step > side for step, side in zip(self.window_stride, self.window_size, strict=True)):
                refuse(f"window_stride {self.window_stride} leaves gaps between windows of {self.window_size}")
        if not self.eval_scales:
            refuse("eval_scales needs at least one factor; 1.0 tests pictures at their size")
        if self.min_learning_rate > self.learning_rate:
            refuse(f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}")
        if self.max_train_steps is not None and self.num_warmup_steps >= self.max_train_steps:
            refuse(
                f"num_warmup_steps {self.num_warmup_steps} does not fit into max_train_steps {self.max_train_steps}; "
                "lower the one or raise the other"
            )
        if (self.lr_scheduler_type == "multistep") != bool(self.lr_steps):
            refuse("lr_steps and lr_scheduler_type multistep need each other")
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            refuse(f"lr_steps {self.lr_steps} must rise")
        if self.lr_scheduler_type not in OWN_SCHEDULES:
            from transformers.trainer_utils import SchedulerType

            known = [*OWN_SCHEDULES, *(kind.value for kind in SchedulerType if kind.value not in NEED_A_METRIC)]
            if self.lr_scheduler_type not in known:
                refuse(
                    f"lr_scheduler_type is {self.lr_scheduler_type!r}; it is one of {', '.join(known)}"
                    f"{nearest(self.lr_scheduler_type, known)}"
                )

    def optimizer_options(self) -> dict[str, Any]:
        """Keyword arguments of `segzoo.training.build_optimizer`."""
        return self._chosen(
            "optimizer learning_rate weight_decay momentum adam_beta1 adam_beta2 adam_epsilon no_decay layer_decay "
            "head_lr_multiplier parameter_rules"
        )

    def schedule_options(self) -> dict[str, Any]:
        """Keyword arguments of `segzoo.training.build_schedule`."""
        return self._chosen(
            "lr_scheduler_type num_warmup_steps lr_power min_learning_rate warmup_start lr_steps lr_step_factor"
        )

    def augmentation_options(self) -> dict[str, Any]:
        """Keyword arguments of `segzoo.training.training_transform`."""
        names = (
            "crop_size scale_size scale_edges scale_range keep_ratio size_divisor cat_max_ratio flip_probability "
            "photometric_distortion"
        )
        return self._chosen(names)

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of `segzoo.training.build_model`."""
        return self._chosen(
            "losses auxiliary_losses class_weights drop_path_rate norm_momentum window_size window_stride"
        )

    def _chosen(self, names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names.split()}

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}

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


_LABELS = ("name", "source")


@cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)


def _plain_losses(name: str, losses: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    from segzoo.losses import build_loss

    if not losses:
        raise SegZooError(f"recipe: {name} is empty; leave it at none for the model's own")
    try:
        return tuple(build_loss(loss).to_dict() for loss in losses)
    except SegZooError as error:
        raise SegZooError(f"recipe: {name}: {error}") from error


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
        raise SegZooError(
            f"{path}: is no {'JSON' if path.suffix == '.json' else 'YAML'}: {_one_line(error)}"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SegZooError(f"{path}: a recipe is a mapping of field and value, such as learning_rate: 1e-4")
    return loaded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""Options of a recipe that are passed on together: those of the optimizer, of its schedule, and of the model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segzoo.errors import SegZooError
from segzoo.options import MAX_FACTOR, Options, nearest, option
from segzoo.sizes import MAX_SIZE

OPTIMIZERS = ("adamw", "adam", "sgd")
OWN_SCHEDULES = ("poly", "multistep")

NEED_MORE = ("reduce_lr_on_plateau", "greedy", "warmup_stable_decay")
"""Schedules of transformers that need more than a step count and what `ScheduleOptions` hold."""

WEIGHT_RULES = ("inverse_sqrt", "effective_number", "median_frequency")
"""The rules of `segzoo.training.class_weights.class_weights`; the first one is the default."""

KINDS = ("norms", "layer_norms", "biases", "vectors", "positions", "offsets")
"""The kinds that ``no_decay`` may name; see `segzoo.training.optimization.kinds_of_parameters`."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """The optimizer that `segzoo.training.build_optimizer` makes, and its parameter groups."""

    prefix = "optimizer: "

    optimizer: str = option("adamw", "which optimizer", choices=OPTIMIZERS)
    learning_rate: float = option(5e-5, "the largest learning rate", above=0)
    weight_decay: float = option(
        0.01, "decoupled for adamw, else added to the gradient", at_least=0, at_most=MAX_FACTOR
    )
    momentum: float = option(0.9, "momentum of sgd", at_least=0, below=1)
    adam_beta1: float = option(0.9, "first beta of adamw and adam", at_least=0, below=1)
    adam_beta2: float = option(0.999, "second beta of adamw and adam", at_least=0, below=1)
    adam_epsilon: float = option(1e-8, "epsilon of adamw and adam", above=0, at_most=MAX_FACTOR)
    no_decay: tuple[str, ...] = option(
        ("norms", "vectors"), "kinds of parameters without weight decay; none: all parameters decay", choices=KINDS
    )
    layer_decay: float | None = option(
        None, "factor on the learning rate from each layer of the backbone to the one before it", above=0, at_most=1
    )
    head_lr_multiplier: float = option(
        1.0, "learning rate of the heads over that of the backbone", above=0, at_most=MAX_FACTOR
    )
    parameter_rules: tuple[dict[str, Any], ...] = option(
        (),
        'exceptions by name, the first match decides, such as [{"match": "level_embed", "lr_multiplier": 1, '
        '"decay_multiplier": 0}]; in place of no_decay and head_lr_multiplier',
    )

    def check(self) -> None:
        """Check ``parameter_rules`` with `check_rules`."""
        super().check()
        check_rules(self.parameter_rules)


def check_rules(rules: Sequence[Mapping[str, Any]]) -> None:
    """Check ``parameter_rules`` of `segzoo.training.parameter_groups`; a SegZooError names the first mistake."""
    for rule in rules:
        if not isinstance(rule.get("match"), str) or not rule["match"]:
            raise SegZooError(f"parameter_rules: {dict(rule)} has no match, a regular expression on parameters' names")
        try:
            re.compile(rule["match"])
        except re.error as error:
            raise SegZooError(f"parameter_rules: match {rule['match']!r} is no regular expression: {error}") from None
        if unknown := set(rule) - {"match", "lr_multiplier", "decay_multiplier"}:
            raise SegZooError(
                f"parameter_rules: there is no {', '.join(sorted(unknown))} in {dict(rule)}; there are match, "
                "lr_multiplier and decay_multiplier"
            )
        for key in ("lr_multiplier", "decay_multiplier"):
            value = rule.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_FACTOR:
                raise SegZooError(
                    f"parameter_rules: {key} is {value!r:.60}; it must be a number of at least 0 and at most {MAX_FACTOR:g}"
                )


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """The learning-rate schedule that `segzoo.training.build_schedule` makes."""

    prefix = "schedule: "

    lr_scheduler_type: str = option(
        "poly", "poly, multistep, or a name of transformers.get_scheduler such as linear or cosine"
    )
    lr_power: float = option(1.0, "power of poly and polynomial", above=0, at_most=100)
    min_learning_rate: float = option(
        0.0,
        "learning rate at the end: of all parameters with poly; with polynomial and cosine_with_min_lr of those at learning_rate, "
        "others keep their ratio to it",
        at_least=0,
    )
    lr_steps: tuple[int, ...] = option((), "steps after which multistep lowers the learning rate", at_least=1)
    lr_step_factor: float = option(0.1, "what multistep multiplies it by", above=0, below=1)
    num_warmup_steps: int = option(0, "steps in which the learning rate rises to its value", at_least=0)
    warmup_start: float = option(1e-6, "factor on the learning rate at the first of them", above=0, at_most=1)

    def check(self) -> None:
        """Check that the schedule is known, and that ``lr_steps`` rise and are given for "multistep" only."""
        super().check()
        if (self.lr_scheduler_type == "multistep") != bool(self.lr_steps):
            self.refuse("lr_steps and lr_scheduler_type multistep need each other")
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            self.refuse(f"lr_steps {self.lr_steps} must rise")
        if self.lr_scheduler_type not in OWN_SCHEDULES:
            from transformers.trainer_utils import SchedulerType

            known = [*OWN_SCHEDULES, *(kind.value for kind in SchedulerType if kind.value not in NEED_MORE)]
            if self.lr_scheduler_type not in known:
                self.refuse(
                    f"lr_scheduler_type is {self.lr_scheduler_type!r}; it is one of {', '.join(known)}"
                    f"{nearest(self.lr_scheduler_type, known)}"
                )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """What a recipe changes about a model, for `segzoo.training.build_model`; None keeps the model's own setting."""

    prefix = "model: "

    losses: tuple[dict[str, Any], ...] | None = option(
        None, 'losses of the decode heads, such as [{"type": "dice", "weight": 3}]; none: the model\'s own'
    )
    auxiliary_losses: tuple[dict[str, Any], ...] | None = option(
        None, "losses of the auxiliary heads; none: the model's own"
    )
    class_weights: tuple[float | str, ...] | None = option(
        None,
        "a factor on the loss for each class; or a rule that makes them of the classes' frequencies in the training masks: "
        f"{', '.join(WEIGHT_RULES)}, or auto, which is {WEIGHT_RULES[0]}",
        words=("auto", *WEIGHT_RULES),
        at_least=0,
        at_most=MAX_FACTOR,
    )
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
    window_size: tuple[int, ...] | None = option(
        None,
        "height and width of sliding windows in tests; none: the model's own",
        at_least=1,
        at_most=MAX_SIZE,
        lengths=(2,),
    )
    window_stride: tuple[int, ...] | None = option(
        None, "vertical and horizontal step between windows", at_least=1, at_most=MAX_SIZE, lengths=(2,)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("losses", "auxiliary_losses"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._built(name))

    def _built(self, name: str) -> tuple[dict[str, Any], ...]:
        """The losses as `segzoo.losses` writes them: every option checked and named."""
        from segzoo.losses import build_loss

        if not getattr(self, name):
            self.refuse(f"{name} is empty; leave it at none for the model's own")
        try:
            return tuple(build_loss(loss).to_dict() for loss in getattr(self, name))
        except SegZooError as error:
            raise SegZooError(f"{self.prefix}{name}: {error}") from error

    def check(self) -> None:
        """Check that a rule for class weights stands alone, and that ``window_stride`` comes with a ``window_size`` and leaves no gaps between windows."""
        super().check()
        if self.class_weights is not None and len(self.class_weights) > 1 and self.weights_rule is not None:
            self.refuse(
                f"class_weights: {self.weights_rule} is a rule for all classes; give it alone, or numbers only"
            )
        if self.window_stride is None:
            return
        if self.window_size is None:
            self.refuse("window_stride needs a window_size")
        if any(step > side for step, side in zip(self.window_stride, self.window_size, strict=True)):
            self.refuse(f"window_stride {self.window_stride} leaves gaps between windows of {self.window_size}")

    @property
    def weights_rule(self) -> str | None:
        """The rule by which class weights are still to be computed; None if there are numbers, or no weights."""
        return next((value for value in self.class_weights or () if isinstance(value, str)), None)

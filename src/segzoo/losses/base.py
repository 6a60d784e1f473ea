"""What all losses share: a weight, factors for the classes, and a form as plain data for configs and recipes."""

import sys
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from segzoo.errors import SegZooError
from segzoo.layers.resize import resize
from segzoo.options import MAX_FACTOR


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """Base of the losses: ``loss(logits, labels)`` is a scalar that already includes the weight.

    Args:
        weight: factor on the loss, 0 at least.
        class_weights: a factor for each class, or None for no factors; each loss documents what it multiplies.

    Raises:
        SegZooError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str]
    """The ``type`` of the loss in dicts, and its key among a model's losses."""
    per_class: ClassVar[tuple[str, ...]] = ("class_weights",)
    """Names of the options that may hold a value for each class."""
    reads_queries: ClassVar[bool] = False
    """Whether the loss reads a head's queries and their masks instead of dense logits."""

    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        self._set("weight", factor(self.weight, f"{self.name}: weight"))
        if self.class_weights is not None:
            weights = numbers(self.class_weights, f"{self.name}: class_weights", at_least=0.0, at_most=MAX_FACTOR)
            self._set("class_weights", weights)

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def __call__(
        self, logits: Tensor, labels: Tensor, ignore_index: int = 255, *, align_corners: bool = False
    ) -> Tensor:
        """The loss of one batch, computed in float32 at least.

        Args:
            logits: scores (B, C, h, w) before softmax or sigmoid, of any size.
            labels: class ids (B, H, W), int64, each in 0..C-1 or ``ignore_index``.
            ignore_index: label of the pixels that do not count; a batch of nothing else gives 0 with finite gradients.
            align_corners: whether logits of another size than the labels, which are resized to it (bilinear), keep the
                centres of the corner pixels in place.

        Returns:
            a scalar that includes ``weight``.

        Raises:
            SegZooError: an option with a value for each class does not have as many as the logits have channels.
        """
        self.check_num_labels(logits.shape[1])
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # before it is resized, which would otherwise round its result to half precision
        if logits.shape[-2:] == labels.shape[-2:]:
            return self.weight * self.compute(logits, labels, ignore_index)
        return self.weight * self.compute_resized(logits, labels, ignore_index, align_corners)

    def compute_resized(self, logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> Tensor:
        """As `compute`, of logits (B, C, h, w) of another size than the labels."""
        return self.compute(resize(logits, labels.shape[-2:], align_corners=align_corners), labels, ignore_index)

    @abstractmethod
    def compute(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """The loss without ``weight``, a scalar.

        Args:
            logits: scores (B, C, H, W) before softmax or sigmoid, in float32 or float64.
            labels: class ids (B, H, W), int64.
            ignore_index: label of the pixels that do not count.
        """

    def check_num_labels(self, num_labels: int) -> None:
        """Options with a value for each class have ``num_labels`` values.

        Raises:
            SegZooError: an option has another number of values.
        """
        for option in self.per_class:
            values = getattr(self, option)
            if isinstance(values, tuple) and len(values) != num_labels:
                raise SegZooError(
                    f"{self.name}: {option} has {len(values)} entries for {num_labels} classes; give one for each class"
                )

    def for_classes(self, num_labels: int) -> "Loss":
        """The loss for ``num_labels`` classes: if its lists do not fit them, all return to their defaults."""
        try:
            self.check_num_labels(num_labels)
        except SegZooError:
            lists = [field for field in fields(self) if isinstance(getattr(self, field.name), tuple)]
            return replace(self, **{field.name: field.default for field in lists})
        return self

    def to_dict(self) -> dict[str, Any]:
        """The loss as plain data: its ``type``, and every option that differs from its default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name for field in fields(self) if values[field.name] != field.default}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"type": self.name, **{name: value for name, value in plain.items() if name in changed}}


def number(value: Any, what: str, *, at_least: float | None = None, at_most: float | None = None) -> float:
    """Check a finite number, and return it as a float.

    Args:
        value: the number; a bool is not one.
        what: name of the option, with which the error message begins.
        at_least, at_most: bounds, both inclusive; None for no bound.

    Raises:
        SegZooError: ``value`` is not a finite number, or is out of range.
    """
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not usable or (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        limits = [f"at least {at_least:g}"] * (at_least is not None) + [f"at most {at_most:.10g}"] * (
            at_most is not None
        )
        bounds = f" of {' and '.join(limits)}" if limits else ""
        raise SegZooError(f"{what}={value!r:.60} must be a finite number{bounds}")
    return float(value)


def factor(value: Any, what: str) -> float:
    """Check a factor, a number of at least 0 that lets no loss overflow; see `number`."""
    return number(value, what, at_least=0.0, at_most=MAX_FACTOR)


def count(value: Any, what: str, *, at_most: int) -> int:
    """Check a whole number of at least 1, and return it.

    Raises:
        SegZooError: ``value`` is something else, or above ``at_most``.
    """
    if type(value) is not int or not 1 <= value <= at_most:
        raise SegZooError(f"{what}={value!r:.60} must be a whole number of at least 1 and at most {at_most}")
    return value


def numbers(
    value: Any, what: str, *, at_least: float | None = None, at_most: float | None = None
) -> tuple[float, ...]:
    """Check a list of at least one finite number, and return it as a tuple of floats; see `number`."""
    if not isinstance(value, (list, tuple)) or not value:
        raise SegZooError(f"{what}={value!r:.60} must be a list of numbers, one for each class")
    return tuple(number(item, f"{what}[{i}]", at_least=at_least, at_most=at_most) for i, item in enumerate(value))


def flag(value: Any, what: str) -> bool:
    """Check a bool, and return it.

    Raises:
        SegZooError: ``value`` is something else, such as 0 or "false".
    """
    if not isinstance(value, bool):
        raise SegZooError(f"{what}={value!r:.60} must be true or false")
    return value

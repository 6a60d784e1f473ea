"""Class weights from the frequencies of the classes in the training pictures, by a named rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segzoo.data.checks.class_counts import ClassCounts
from segzoo.errors import SegZooError
from segzoo.training.recipes.groups import WEIGHT_RULES

DEFAULT_RULE = "inverse_sqrt"
"""What ``auto`` stands for: it favours rare classes without letting a few pixels of one dominate the loss."""


def class_weights(counts: ClassCounts, rule: str = "auto") -> tuple[float, ...]:
    """A factor on the loss for each class, (num_labels,), rounded to four digits; 1 for classes that do not occur.

    ``inverse_sqrt`` is one over the square root of the class's share of the pixels. ``effective_number`` is one over
    (1 - b**n) / (1 - b), where n is the number of pictures in which the class occurs and b = 1 - 1 / (number of all
    pictures) (Cui et al. 2019, https://arxiv.org/abs/1901.05555). Both are divided by their mean over the classes that
    occur. ``median_frequency`` is that of `ClassCounts.median_frequency_weights`. ``auto`` is ``inverse_sqrt``.

    Raises:
        SegZooError: there is no such rule, or no pixel of any class.
    """
    rule = DEFAULT_RULE if rule == "auto" else rule
    if rule not in WEIGHT_RULES:
        raise SegZooError(f"--class_weights {rule}: the rules are {', '.join(WEIGHT_RULES)}")
    occurs = counts.pixels > 0
    if not occurs.any():
        raise SegZooError(f"--class_weights {rule}: no pixel of the training pictures belongs to a class")
    if rule == "median_frequency":
        weights = counts.median_frequency_weights()[occurs]
    else:
        if rule == "inverse_sqrt":
            weights = 1 / np.sqrt(counts.share[occurs])
        else:
            beta = 1 - 1 / max(2, counts.num_images)
            weights = (1 - beta) / (1 - beta ** counts.images[occurs].astype(np.float64))
        weights = weights / weights.mean()
    result = np.ones(len(counts.pixels))
    result[occurs] = weights
    return tuple(float(f"{weight:.4g}") for weight in result)


def weights_in_words(weights: Sequence[float], names: Sequence[str], rule: str, counts: ClassCounts) -> str:
    """One line for the user: the rule, the smallest and the largest weights, and the classes that do not occur."""
    order = sorted(np.flatnonzero(counts.pixels), key=lambda index: weights[index])
    shown = [f"{names[index]} {weights[index]:g}" for index in order]
    if len(shown) > 6:
        shown = [*shown[:3], "...", *shown[-3:]]
    absent = len(names) - len(order)
    others = f"; {absent} that do not occur have 1" if absent else ""
    rule = DEFAULT_RULE if rule == "auto" else rule
    return f"class weights ({rule}, from {counts.num_images} masks): {', '.join(shown)}{others}"

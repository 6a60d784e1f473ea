"""How often each class occurs, and the class weights that follow from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from segzoo.data.checks.findings import ERROR
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.probing import PairFacts


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs in one split.

    Attributes:
        pixels: pixels of each class, int64 array (num_labels,).
        images: number of masks in which each class occurs, int64 array (num_labels,).
        pixels_beside: pixels that count in the masks in which each class occurs, int64 array (num_labels,).
        ignored: number of pixels that do not count.
        ignored_images: number of masks with such pixels.
        num_images: number of masks that were counted.
    """

    pixels: np.ndarray
    images: np.ndarray
    pixels_beside: np.ndarray
    ignored: int
    ignored_images: int
    num_images: int

    @property
    def share(self) -> np.ndarray:
        """Share of each class in the pixels that count, 0..1; zeros if no pixel counts."""
        return self.pixels / max(1, int(self.pixels.sum()))

    def median_frequency_weights(self) -> np.ndarray:
        """Class weights by median-frequency balancing; NaN for classes that do not occur.

        A class's frequency is its share of the pixels that count in the pictures where it occurs; its weight is the
        median of all frequencies divided by its own (Eigen and Fergus 2015, https://arxiv.org/abs/1411.4734, section
        6.3.2).
        """
        frequency = np.divide(
            self.pixels, self.pixels_beside, out=np.full(len(self.pixels), np.nan), where=self.pixels_beside > 0
        )
        frequency[self.pixels == 0] = np.nan
        if np.isnan(frequency).all():
            return frequency
        return np.nanmedian(frequency) / frequency


@dataclass
class ClassTally:
    """Adds up the ids of one split.

    Pixels and pictures are counted by class, over the pairs whose files a training can use.

    Args:
        rule: what the ids in masks mean.
    """

    rule: LabelRule
    pixels: Counter = field(default_factory=Counter)
    images: Counter = field(default_factory=Counter)
    pixels_beside: Counter = field(default_factory=Counter)
    ignored: int = 0
    ignored_images: int = 0
    num_images: int = 0
    seen: set[int] = field(default_factory=set)

    def add(self, facts: PairFacts) -> None:
        """Count the ids of one pair, unless its mask cannot be read or its files have errors."""
        if facts.ids is None:
            return
        self.seen.update(facts.ids)
        if any(case.severity == ERROR and case.kind != "ids_out_of_range" for case in facts.cases):
            return
        self.num_images += 1
        outside = self.rule.outside(facts.ids)
        inside = {label: pixels for label, pixels in facts.ids.items() if label not in outside}
        classes = {found: n for label, n in inside.items() if (found := self.rule.class_of(label)) is not None}
        total = sum(classes.values())
        ignored = sum(inside.values()) - total
        self.ignored += ignored
        self.ignored_images += ignored > 0
        for index, pixels in classes.items():
            self.pixels[index] += pixels
            self.images[index] += 1
            self.pixels_beside[index] += total

    def counts(self, num_labels: int) -> ClassCounts:
        """The counts of the classes 0..num_labels-1; ids outside this range are left out."""
        columns = (
            np.array([counter[index] for index in range(num_labels)], dtype=np.int64)
            for counter in (self.pixels, self.images, self.pixels_beside)
        )
        return ClassCounts(*columns, self.ignored, self.ignored_images, self.num_images)

"""Rounds in which the ways of a benchmark take turns."""

import math
import time
from collections.abc import Iterator


def rounds(most: int, minutes: float = math.inf, *, warm_up: int = 1, least: int = 1) -> Iterator[bool]:
    """Go through rounds, until they are made or their time is over.

    Args:
        most: rounds that count.
        minutes: for all rounds. None begins that would end after them if it took as long as the one before.
        warm_up: rounds before those that count.
        least: rounds that count whatever time they take.

    Yields:
        For each round whether it counts.
    """
    start = begun = time.perf_counter()
    for number in range(warm_up + most):
        now = time.perf_counter()
        if number >= warm_up + least and 2 * now - begun - start > 60 * minutes:
            return
        begun = now
        yield number >= warm_up

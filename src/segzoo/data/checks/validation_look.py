"""The look at all validation pairs that comes before, and goes on beside, the first steps of a training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from segzoo.data.checks.first_batch import refuse_errors
from segzoo.data.checks.inspection import Probes, spread
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.probing import PairFacts
from segzoo.data.workers import outlive_stop_signals
from segzoo.errors import SegZooError

FIRST_PAIRS, FIRST_SECONDS = 200, 10.0
"""So many pairs, or so many seconds, are the look that the first step waits for."""


class ValidationLook:
    """Looks at every pair that an evaluation will read, as `segzoo data check` does, before an evaluation needs it.

    `first` looks at some pairs that are spread over the table. The object is a context: inside, a process of low
    priority looks at the others, and `problem` tells what it found. An error means that the evaluation would fail.

    Args:
        rows: table of undecoded rows (`segzoo.data.rows.undecoded`).
        rule: what the ids in masks mean.
        num_channels: number of channels that the model takes.
        max_corrupt: up to this number of pairs with a corrupt or missing file are no error.
        enabled: whether to look at all; of several processes only one should.
    """

    def __init__(
        self, rows: Any, rule: LabelRule, *, num_channels: int = 3, max_corrupt: int = 0, enabled: bool = True
    ):
        order = spread(len(rows), FIRST_PAIRS) if enabled else []
        early = set(order)
        if enabled:
            order += [index for index in range(len(rows)) if index not in early]
        self.probes = Probes(rows, order, rule, {}, num_channels)
        self.max_corrupt = max_corrupt
        self.done = 0  # pairs that this process has looked at
        self._bad: list[PairFacts] = []
        self._problem: str | None = None
        self._process: multiprocessing.Process | None = None
        self._receiver: Connection | None = None

    def first(self, pairs: int = FIRST_PAIRS, seconds: float = FIRST_SECONDS) -> list[str]:
        """Look at the first pairs in this process.

        Args:
            pairs: largest number of pairs to look at.
            seconds: no further pair is begun after this time.

        Returns:
            A line for the user about the pairs that are left, if there are any.

        Raises:
            SegZooError: an evaluation cannot use a file. The message names the first such file, the problem, the
                likely fix, and how many more of the pairs have errors.
        """
        deadline = time.monotonic() + seconds
        while self.done < min(pairs, len(self.probes)) and time.monotonic() < deadline:
            facts = self.probes[self.done]
            self.done += 1
            if not facts.usable:
                self._bad.append(facts)
        refuse_errors(self._bad, self.max_corrupt, f"the {self.done} validation pairs that were looked at")
        if self.done == len(self.probes):
            return []
        return [f"{self.done} of {len(self.probes)} validation pairs are looked at; the others follow during training"]

    def __enter__(self) -> ValidationLook:
        if self.done == len(self.probes) or multiprocessing.current_process().daemon:  # these have no children
            return self
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(
            target=_look_on, args=(self.probes, self.done, self._bad, self.max_corrupt, sender), daemon=True
        )
        with contextlib.suppress(OSError):  # no more processes: the evaluation finds out
            process.start()
            self._process = process
        sender.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def problem(self) -> str | None:
        """What the process has found, as an error's message; None if there is nothing so far. It does not wait."""
        if self._receiver is not None and self._receiver.poll():
            with contextlib.suppress(EOFError, OSError):  # the process was killed: the evaluation finds out
                self._problem = self._receiver.recv()
            self.close()
        return self._problem

    def close(self) -> None:
        """End the process, for example because an evaluation reads everything itself now."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._receiver is not None:
            self._receiver.close()
        self._process = self._receiver = None


def _look_on(probes: Probes, first: int, bad: list[PairFacts], max_corrupt: int, sender: Connection) -> None:
    """Look at the pairs from position ``first`` on; send the first error's message, or None after the last pair."""
    outlive_stop_signals()  # the training decides when this process ends
    if sys.platform != "win32":
        os.nice(10)
    training = multiprocessing.parent_process()
    found = None
    try:
        for position in range(first, len(probes)):
            if not training.is_alive():
                return
            facts = probes[position]
            if not facts.usable:
                bad.append(facts)
                refuse_errors(bad, max_corrupt, f"the {position + 1} validation pairs that were looked at")
    except SegZooError as error:
        found = str(error)
    except Exception:  # this look is a service; whatever keeps it from reading, the evaluation finds out
        pass
    with contextlib.suppress(OSError):
        sender.send(found)

"""Lines on the terminal that never end a run, and the progress line of a training."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from segzoo.text import terminal_text


def print_text(text: object = "", *, stream: TextIO | None = None, start: str = "", end: str = "\n") -> None:
    """Print a text at once, as `segzoo.text.terminal_text` makes it; this is how commands print.

    Args:
        text: the text; names in it that must not begin a new line go through `segzoo.text.line_text` first.
        stream: where to write; standard output by default.
        start, end: what stands before and after the text, as it is.

    Raises:
        OSError: the stream has no reader, or is full.
    """
    stream = sys.stdout if stream is None else stream
    text = start + terminal_text(text)
    try:
        print(text, end=end, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), end=end, file=stream, flush=True)


def say(text: object = "", *, stream: TextIO | None = None, start: str = "", end: str = "\n") -> None:
    """Write a text as `print_text` does, and go on if that fails.

    Hours of work must not end because of a line: characters that the stream's encoding lacks become question marks,
    and a stream that is closed or full (a terminal that hung up, a pipe without reader, a full disk) gets nothing.

    Args:
        text, stream, start, end: as in `print_text`.
    """
    with suppress(OSError, ValueError):  # a closed stream raises ValueError
        print_text(text, stream=stream, start=start, end=end)


class Progress:
    """Counts time and images, and writes a line with step, loss, learning rate, images per second and time left.

    On a terminal each report overwrites the line before it; elsewhere every report is a new line.

    Args:
        total_steps: steps of the whole training.
        enabled: whether anything is written; of several processes only one should write.
        stream: where to write; standard output by default.
    """

    def __init__(self, total_steps: int, *, enabled: bool = True, stream: TextIO | None = None):
        self.total_steps = total_steps
        self.enabled = enabled
        self.stream = sys.stdout if stream is None else stream
        self.in_place = self.stream.isatty()
        self._length = 0
        self._seconds_per_step: float | None = None
        self._since_report, self._waited, self._images, self._steps = 0.0, 0.0, 0, 0
        self._mark = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def restart_clock(self) -> None:
        """Leave out the time since the last step: evaluation and checkpoints do not count as training."""
        self._mark = time.perf_counter()

    def step(self, images: int) -> None:
        """Note one finished step; ``images`` are those of all processes together."""
        now = time.perf_counter()
        self._since_report += now - self._mark
        self._mark = now
        self._images += images
        self._steps += 1

    def report(
        self, step: int, loss: float, learning_rate: float, *, grad_norm: float | None = None
    ) -> dict[str, float]:
        """Write the line.

        Args:
            step: the step just finished, counted from 1.
            loss: mean loss since the last report.
            learning_rate: the largest learning rate of this step.
            grad_norm: norm of the gradient, for the returned entry only.

        Returns:
            ``step``, ``loss``, ``learning_rate``, ``grad_norm`` if given, and for the time since the last report
            ``images_per_second`` and ``waiting_for_data``, the share (0..1) of the time spent waiting for batches.
        """
        speed = self._images / self._since_report if self._since_report > 0 else 0.0
        recent = self._since_report / max(1, self._steps)
        # The first steps are slow, and other programs come and go: recent steps count for more.
        before = recent if self._seconds_per_step is None else self._seconds_per_step
        self._seconds_per_step = 0.7 * before + 0.3 * recent
        left = (self.total_steps - step) * self._seconds_per_step
        waiting = self._waited / self._since_report if self._since_report > 0 else 0.0
        shown = f"  {waiting:.0%} waiting for data" if waiting >= 0.1 else ""
        line = (
            f"step {step}/{self.total_steps}  loss {loss:.4f}  lr {learning_rate:.2e}  "
            f"{speed:.1f} images/s  {duration(left)} left{shown}"
        )
        self._since_report, self._waited, self._images, self._steps = 0.0, 0.0, 0, 0
        self._write(line)
        entry = {"step": step, "loss": loss, "learning_rate": learning_rate}
        if grad_norm is not None:
            entry["grad_norm"] = grad_norm
        return {**entry, "images_per_second": round(speed, 3), "waiting_for_data": round(waiting, 4)}

    def message(self, text: str) -> None:
        """Write a text on its own line or lines, after ending a progress line that stays in place."""
        if self.enabled:
            self.finish_line()
            say(text, stream=self.stream)

    def finish_line(self) -> None:
        """End a progress line that stays in place, so that the next text starts on a new line."""
        if self.enabled and self._length:
            say(stream=self.stream)
        self._length = 0

    def _write(self, line: str) -> None:
        if not self.enabled:
            return
        if self.in_place:
            say(line.ljust(self._length), start="\r", end="", stream=self.stream)
            self._length = len(line)
        else:
            say(line, stream=self.stream)


def duration(seconds: float) -> str:
    """Seconds for people: ``45s``, ``12m05s``, ``3h07m``, ``2d04h``."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"

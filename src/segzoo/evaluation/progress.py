"""The progress line of an evaluation."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from segzoo.progress import Progress, duration


class EvaluationProgress(Progress):
    """Counts images, and regularly writes a line with images scored, images per second and time left.

    On a terminal each line overwrites the one before it; elsewhere every report is a new line. The writing process
    counts its own images and assumes that the others are as fast.

    Args:
        num_images: number of images in the data set.
        num_done: how many of them earlier runs have scored.
        num_processes: how many processes share the rest.
        enabled: whether anything is written.
        stream: where to write; standard error by default.
        seconds: least time between two lines; None: 0.2 on a terminal, else 10.
    """

    def __init__(
        self,
        num_images: int,
        *,
        num_done: int = 0,
        num_processes: int = 1,
        enabled: bool = True,
        stream: TextIO | None = None,
        seconds: float | None = None,
    ):
        super().__init__(num_images, enabled=enabled, stream=sys.stderr if stream is None else stream)
        self.num_images = num_images
        self.num_done = num_done
        self.num_processes = num_processes
        self.seconds = seconds if seconds is not None else (0.2 if self.in_place else 10.0)
        self._own = 0
        self._start = self._last_line = self._first_image = time.perf_counter()

    def image(self) -> None:
        """Note one more image of this process."""
        self._own += 1
        now = time.perf_counter()
        if self._own == 1:
            self._first_image = now
        if now - self._last_line >= self.seconds:
            self._last_line = now
            done = min(self.num_images, self.num_done + self._own * self.num_processes)
            speed = self.images_per_second(now)
            left = duration((self.num_images - done) / speed) if speed > 0 else "?"
            self._write(f"{done}/{self.num_images} images  {speed:.2f} images/s  {left} left")

    def images_per_second(self, now: float | None = None) -> float:
        """Speed of all processes together; the slow first image counts only until there is a second one.

        Args:
            now: a time of ``time.perf_counter``; None: the present one.
        """
        now = time.perf_counter() if now is None else now
        own, since = (self._own - 1, self._first_image) if self._own > 1 else (self._own, self._start)
        return own * self.num_processes / (now - since) if now > since else 0.0

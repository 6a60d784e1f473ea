"""Which classes the first epoch of a training shows, counted while it runs: crops and all, at no extra reading."""

from collections.abc import Sequence
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor


class ShownClasses:
    """Counts the pixels of each class that a training has seen, over all processes.

    Args:
        names: names of the classes, by id.
        ignore_index: label that does not count.
        accelerator: the accelerator of the training.
    """

    def __init__(self, names: Sequence[str], ignore_index: int, accelerator: Accelerator):
        self.names, self.ignore_index, self.accelerator = names, ignore_index, accelerator
        self.pixels = torch.zeros(len(names), dtype=torch.int64)

    def add(self, labels: Tensor) -> None:
        """Count a batch of labels of this process, class ids on the CPU."""
        inside = (labels >= 0) & (labels < len(self.names)) & (labels != self.ignore_index)
        self.pixels += torch.bincount(labels[inside], minlength=len(self.names))

    def gather(self) -> list[int]:
        """The pixels of each class in all processes, for checkpoints; every process calls this."""
        return self.accelerator.reduce(self.pixels.to(self.accelerator.device)).tolist()

    def resumed(self, pixels: Sequence[int] | None) -> Self | None:
        """The counts of an earlier run to go on with; None where it has reported them, or did not count."""
        if pixels is None:
            return None
        # One process takes what all had counted, for `gather` adds up.
        if self.accelerator.is_main_process:
            self.pixels = torch.tensor(pixels, dtype=torch.int64)
        return self

    def warning(self) -> str | None:
        """A sentence about classes that never came, with the share of every class; None if all came."""
        pixels = self.gather()
        missing = [
            name
            for index, (name, n) in enumerate(zip(self.names, pixels, strict=True))
            if n == 0 and index != self.ignore_index
        ]
        if not missing:
            return None
        total = max(1, sum(pixels))
        shares = sorted(zip(pixels, self.names, strict=True), key=lambda pair: -pair[0])
        listed = ", ".join(f"{name} {100 * n / total:.2g} %" for n, name in shares)
        return (
            f"the training never showed {', '.join(missing)} in its first epoch, so that the model cannot learn "
            f"{'it' if len(missing) == 1 else 'them'}: check the split and the label rule (`segzoo data check` counts whole "
            f"masks). Shares of the pixels that counted: {listed}"
        )

"""The precision that accelerate keeps for a whole process, given back when a call of ours ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextlib.contextmanager
def own_precision() -> Iterator[None]:
    """A context after which another precision can be chosen, as in a notebook that evaluates in float32 and trains in bf16.

    Accelerate keeps what the first ``Accelerator`` of a process was given, and refuses other precisions to all later
    ones. One that was made before this context, by the caller, is left as it is.
    """
    from accelerate.state import AcceleratorState

    is_first = not AcceleratorState._shared_state  # there is no public way to ask, nor to end it
    try:
        yield
    finally:
        if is_first:
            AcceleratorState._reset_state()


def refuse_ignored_precision(accelerator: Accelerator) -> None:
    """Refuse fp16 on a CPU, where accelerate takes it and computes in float32 all the same.

    Raises:
        ValueError: the accelerator is such a one.
    """
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("fp16 needs a GPU")

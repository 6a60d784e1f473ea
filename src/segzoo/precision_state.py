"""The precision that accelerate keeps for a whole process, given back when a call of ours ends."""

import contextlib
from collections.abc import Iterator


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

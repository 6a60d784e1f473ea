"""Processes that load data for another one, and end when it does."""

import os
import signal
import threading
from types import FrameType

_GRACE = 20  # seconds


def outlive_stop_signals(worker_id: int = 0) -> None:
    """``worker_init_fn`` of a `DataLoader`: what a scheduler sends to every process of a job is for the training to answer.

    A loading process that ended at once would take the training with it before it has saved. So it ends when the training
    tells it to, and only then; where the sender of a signal cannot be told (macOS), a SIGTERM gives it 20 more seconds.
    """
    if not hasattr(signal, "SIGALRM"):  # Windows
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for all threads; one waits for it
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, _end_later)


def _end_with_the_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.alarm(_GRACE)

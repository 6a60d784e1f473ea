"""Loading processes that outlive the signals of schedulers and terminals, and end when their training tells them to."""

import os
import signal
import threading
from types import FrameType

_GRACE = 20  # seconds


def outlive_stop_signals(worker_id: int = 0) -> None:
    """Keep a loading process alive when a scheduler or a terminal signals all processes of a job; a ``worker_init_fn``.

    A loading process that ended at once would take the training with it before it has saved. So it ends only when the
    training process sends it SIGTERM; where the sender of a signal is not known (macOS), it ends 20 seconds after a
    SIGTERM.

    Args:
        worker_id: ignored; `DataLoader` passes it.
    """
    if not hasattr(signal, "SIGALRM"):  # Windows
        return
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
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

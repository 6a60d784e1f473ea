"""Stopping on request of a scheduler or a person: the training saves a checkpoint and ends with an exit status of its
own.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from accelerate import Accelerator

from segzoo.evaluation.scoring import any_process
from segzoo.training.processes import launcher_process

EXIT_STOPPED = 75
"""Exit status after such a stop (``EX_TEMPFAIL``): repeat the command with ``--resume_from_checkpoint latest``."""

_HINT = b"\nCtrl-C: the training saves a checkpoint after this step and ends; once more ends it at once\n"


class StopRequest:
    """A context that notes signals, and the end of a launcher, so that the training can save before it ends.

    These are SIGTERM and SIGUSR1, which Slurm and Kubernetes send before they kill a process, and SIGHUP of a terminal
    that is closed, unless it is ignored as under nohup. Ctrl-C is noted inside `deferring_interrupts`; elsewhere it
    raises `KeyboardInterrupt` as usual, and again after the step if it arrived where Python can only ignore the
    exception, such as in a destructor.

    A second SIGTERM or Ctrl-C ends the process at once; inside `saving`, the third one does. A launcher passes on what
    it receives: where every process of a job is signalled, each gets the signal twice, and one more is needed.

    Outside the main thread, where Python lets nobody handle signals, only the end of a launcher is noted.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupted = self._deferring = self._saving = False
        self._repeated = 0  # SIGTERM and Ctrl-C after the first signal
        self._launcher = launcher_process()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # no handler is set, so none is given back
        for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has neither SIGUSR1 nor SIGHUP
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue
            self._before[number] = signal.signal(number, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def deferring_interrupts(self) -> Iterator[None]:
        """A context in which the first Ctrl-C is only noted: there is something to save.

        Raises:
            KeyboardInterrupt: at the end, if Ctrl-C was pressed.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self._raise_interrupt()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A context in which a file is written that a second signal must not break.

        Raises:
            KeyboardInterrupt: at the end, if Ctrl-C was pressed and nothing defers it.
        """
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
        if not self._deferring:
            self._raise_interrupt()

    def ask(self, reason: str) -> None:
        """Ask for a stop after this step, as a signal does, unless one has been asked for; ``reason`` is its name."""
        if self.received is None:
            self.received = reason

    def _raise_interrupt(self) -> None:
        if self.received == "SIGINT":
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
        elif number == signal.SIGTERM and self._is_too_much():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.received is None and (self._deferring or self._saving):
            self.received = "SIGINT"
            with contextlib.suppress(OSError):
                if os.isatty(2):
                    os.write(2, _HINT)  # print is not for signal handlers
        elif not (self._deferring or self._saving) or self._is_too_much():
            self._interrupted = True
            raise KeyboardInterrupt

    def _is_too_much(self) -> bool:
        """Count one more SIGTERM or Ctrl-C; returns whether it has to end the process at once."""
        self._repeated += 1
        return self._repeated > self._saving + (self._launcher is not None)

    def is_asked_for(self) -> bool:
        """Whether this process has been asked to stop; see `agreed` for all of them."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self.ask("the launcher has ended")
        return self.received is not None

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process has been asked to stop; every process calls this after the same step and gets the same
        answer.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and the exception was lost.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        return any_process(accelerator, self.is_asked_for())


class StoppedBySignal(Exception):
    """The training was stopped by a signal or its launcher's end, after writing a checkpoint of ``step``."""

    def __init__(self, signal_name: str, step: int):
        super().__init__(f"{signal_name}: stopped after step {step}")
        self.signal_name, self.step = signal_name, step

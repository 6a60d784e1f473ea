"""Stopping on request of a scheduler: the training saves a checkpoint and ends with an exit status of its own."""

import signal
from types import FrameType

import torch
from accelerate import Accelerator

EXIT_STOPPED = 75
"""Exit status after such a stop (``EX_TEMPFAIL``): repeat the command with ``--resume_from_checkpoint latest``."""


class StopRequest:
    """A context that notes SIGTERM and SIGUSR1, which Slurm and Kubernetes send before they kill a process.

    A second SIGTERM ends the process at once. Ctrl-C raises `KeyboardInterrupt` as usual, and again after the step if
    it arrived where Python can only ignore the exception, such as in a destructor.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, getattr(signal, "SIGUSR1", None)):  # Windows has no SIGUSR1
            if number is not None:
                self._before[number] = signal.signal(number, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = signal.Signals(number).name

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process has been asked to stop; every process calls this after the same step and gets the same
        answer.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and the exception was lost.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        asked = self.received is not None
        if accelerator.num_processes == 1:
            return asked
        flags = torch.tensor([float(asked)], device=accelerator.device)
        return bool(accelerator.reduce(flags, reduction="sum").item())


class StoppedBySignal(Exception):
    """The training was stopped by a signal, after writing a checkpoint of ``step``."""

    def __init__(self, signal_name: str, step: int):
        super().__init__(f"{signal_name}: stopped after step {step}")
        self.signal_name, self.step = signal_name, step

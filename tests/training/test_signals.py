import os
import signal
import subprocess
import sys

from accelerate import Accelerator

from segzoo.training.signals import StopRequest


def test_notes_the_signal_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    accelerator = Accelerator(cpu=True)
    with StopRequest() as stop:
        assert not stop.agreed(accelerator)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed(accelerator) and stop.received == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_usr1_counts_too():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == "SIGUSR1"


def test_a_second_sigterm_ends_the_process():
    code = (
        "import os, signal; from segzoo.training.signals import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('first', flush=True); os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.split() == ["first"]

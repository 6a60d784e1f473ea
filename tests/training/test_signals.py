import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from accelerate import Accelerator
from support.forked import run_python

from segzoo.training.signals import StopRequest


@pytest.fixture(autouse=True)
def ctrl_c():
    """As in a terminal; shells start background jobs without a handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_notes_the_signal_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    accelerator = Accelerator(cpu=True)
    with StopRequest() as stop:
        assert not stop.agreed(accelerator)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed(accelerator) and stop.received == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_trains_without_handlers():
    def stopping():
        with StopRequest() as stop, stop.deferring_interrupts(), stop.saving():
            return signal.getsignal(signal.SIGTERM), stop.agreed(Accelerator(cpu=True))

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(stopping).result() == (before, False)
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
    done = run_python("-c", code)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.split() == ["first"]


def test_ctrl_c_that_python_ignores_is_not_lost():
    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        ignored = []
        hook, sys.unraisablehook = sys.unraisablehook, ignored.append
        Interrupted()
        sys.unraisablehook = hook
        assert ignored[0].exc_type is KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            stop.agreed(Accelerator(cpu=True))
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


@pytest.mark.usefixtures("hangup_counts")
def test_hangup_counts_unless_it_is_ignored():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_waits_for_the_step_and_the_second_does_not():
    done = []
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop, stop.deferring_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(stop.agreed(Accelerator(cpu=True)))
    assert done == [True]
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop, stop.deferring_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("after the second")
    assert done == [True]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 130)])
def test_the_second_signal_does_not_break_a_save_and_the_third_does(name, code):
    program = (
        "import os, signal, sys; from segzoo.training.signals import StopRequest\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    with StopRequest() as stop, stop.deferring_interrupts(), stop.saving():\n"
        "        for count in ('first', 'second', 'third'):\n"
        f"            os.kill(os.getpid(), signal.{name}); print(count, flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)"
    )
    done = run_python("-c", program)
    assert done.returncode == code, done.stderr
    assert done.stdout.split() == ["first", "second"]


@pytest.mark.parametrize(
    ("variable", "signals", "ends"),
    [("TORCHELASTIC_RUN_ID", 2, False), ("TORCHELASTIC_RUN_ID", 3, True), ("OTHER", 2, True)],
)
def test_a_launcher_passes_on_what_the_training_has_received_already(monkeypatch, variable, signals, ends):
    monkeypatch.setenv(variable, "1")
    child = os.fork()
    if child == 0:
        try:
            with StopRequest():
                for _ in range(signals):
                    os.kill(os.getpid(), signal.SIGTERM)
                os._exit(7)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (-signal.SIGTERM if ends else 7)

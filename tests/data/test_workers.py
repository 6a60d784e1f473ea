import os
import signal
import subprocess
import sys
import time

import pytest

from segzoo.data.workers import outlive_stop_signals


def ended(pid):
    """What a child has ended with, or None while it lives."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="signals do not tell who sent them here")
def test_only_the_parent_ends_a_loading_process():
    code = None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outlive_stop_signals()
            os.write(writer, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"!"
        for name in ("SIGTERM", "SIGUSR1"):  # as a scheduler does
            subprocess.run([sys.executable, "-c", f"import os, signal; os.kill({pid}, signal.{name})"], check=True)
        time.sleep(0.3)
        assert ended(pid) is None
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while (code := ended(pid)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert code == 0
    finally:
        if code is None:
            os.kill(pid, signal.SIGKILL)

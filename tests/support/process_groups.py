"""Which processes of a group live."""

import os
import time

import psutil


def living(group: int) -> list[int]:
    """Numbers of the processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_for_end(*groups: int, timeout: float = 60) -> None:
    """Wait until no process of these groups lives; raises AssertionError if that takes too long."""
    deadline = time.monotonic() + timeout
    while left := [number for group in groups for number in living(group)]:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.02)

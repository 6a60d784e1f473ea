"""Real small file systems for tests of full, read-only and vanishing disks, without a change to the machine.

A child process is forked that gets a mount namespace of its own, where a tmpfs of a few megabytes is mounted. It vanishes with
the child.
"""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

import pytest
import torch

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


def in_child(function, *arguments, timeout: float = 60):
    """Run ``function(*arguments)`` in a forked process; returns its result, or raises AssertionError with its traceback."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run():
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        sys.dont_write_bytecode = True  # under a limit on file sizes half a module would stay for all later processes
        try:
            sender.send((True, function(*arguments)))
        except BaseException:
            sender.send((False, traceback.format_exc()))
        finally:
            os._exit(0)  # not pytest's own exit

    child = context.Process(target=run)
    child.start()
    sender.close()
    try:
        assert receiver.poll(timeout), f"no answer in {timeout} s"
        fine, result = receiver.recv()
    finally:
        child.kill()
        child.join()
    if not fine and "autograd's threading in combination with fork" in result:
        pytest.skip(
            "an earlier test of this process gave autograd threads, which a forked process cannot have; run it alone"
        )
    assert fine, result
    return result


def mount_small_disk(folder: Path, size: str) -> None:
    """Mount a tmpfs on a folder, for this process alone; raises OSError where that is not allowed."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if user else 0)) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))


def remount_read_only(folder: Path) -> None:
    """Nothing can be written to a small disk from now on."""
    _mount("-o", "remount,ro", str(folder))


@cache
def can_mount() -> bool:
    """Whether `mount_small_disk` works on this machine."""

    def attempt() -> bool:
        try:
            mount_small_disk(Path("/tmp"), "1m")
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    return os.name == "posix" and hasattr(os, "fork") and in_child(attempt)


def _mount(*words: str) -> None:
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise OSError(1, error.stderr.decode()) from error

"""What a machine may run out of while a command runs (memory, processes, open files, room in /dev/shm), in one line.

Each library reports these in errors of its own; this module knows them all.
"""

import errno
import re
import sys

from segzoo.errors import SegZooError, cause_of, first_line

LOST_LOADER = re.compile(r"DataLoader worker \(pid.*?\) (is killed by signal: [^.]+|exited unexpectedly)")
"""What torch says of a data-loading process that has ended."""

_MEMORY, _FILES, _PROCESSES, _SHARED = "memory", "open files", "processes or threads", "room in /dev/shm"
_ERRNOS = {errno.ENOMEM: _MEMORY, errno.EMFILE: _FILES, errno.ENFILE: _FILES, errno.EAGAIN: _PROCESSES}
_PHRASES = {
    "can't allocate memory": _MEMORY,  # torch, on CPUs
    "cannot allocate memory": _MEMORY,
    "not enough memory": _MEMORY,  # torch, on Windows
    "std::bad_alloc": _MEMORY,
    "failed to map segment": _MEMORY,  # a library that was to be imported
    "can't start new thread": _PROCESSES,
    "too many open files": _FILES,
    "received 0 items of ancdata": _FILES,  # a tensor's file descriptor that did not arrive
    "unable to allocate shared memory": _SHARED,
    "unable to open shared memory": _SHARED,
    "unable to resize file": _SHARED,
    "unable to write to file </torch_": _SHARED,
}
_FIXES = {
    _MEMORY: "lower the batch size, the size of crops or windows, or the number of loading processes; `ulimit -v` and the "
    "container may set a limit",
    _FILES: "raise the limit (`ulimit -n 65536`), or lower the number of loading processes",
    _PROCESSES: "lower the number of loading processes and OMP_NUM_THREADS, or raise the limit (`ulimit -u`, the "
    "container's --pids-limit)",
    _SHARED: "give it more (docker run --shm-size=2g), remove what other programs left there, or lower the number of "
    "loading processes",
}


def shortage_of(error: BaseException) -> str | None:
    """The line for an error that means that something has run out: what, the library's words, and what helps.

    Args:
        error: any error; for a `SegZooError` its causes count too.

    Returns:
        The line, or None for an error that means something else.
    """
    if isinstance(error, SegZooError):
        cause = error.__cause__ or error.__context__
        missing = None if cause is None else _missing(cause)
        return None if missing is None else f"{cause_of(error).rstrip('.')}; out of {missing}: {_FIXES[missing]}"
    if match := LOST_LOADER.search(str(error)):
        return f"a process that loads data {match[1].strip()}; if memory ran out: {_FIXES[_MEMORY]}"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory ({first_line(error)}); lower the batch size, or the size of crops or windows"
    missing = _missing(error)
    if missing is None:
        return None
    words = cause_of(error).splitlines()[0] if isinstance(error, OSError) else first_line(error)
    return f"out of {missing} ({words}); {_FIXES[missing]}"


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that something has run out, which says nothing about the file that was being read."""
    return _missing(error) is not None


def _missing(error: BaseException) -> str | None:
    """What has run out, or None."""
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNOS.get(error.errno)
    if not isinstance(error, (OSError, RuntimeError, ImportError)):
        return None
    text = str(error).lower()
    if text.endswith("could not create a primitive"):  # oneDNN; what it cannot do at all is a "primitive descriptor"
        return _MEMORY
    return next((what for phrase, what in _PHRASES.items() if phrase in text), None)

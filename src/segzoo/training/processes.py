"""Several processes that train together: an error in one ends all, and is reported once."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from segzoo.errors import SegZooError
from segzoo.progress import say
from segzoo.shortages import LOST_LOADER

if TYPE_CHECKING:
    from accelerate import Accelerator

_KEY = "segzoo/error"
# By torchrun and by `accelerate launch` for several processes, and by `accelerate launch` for one.
_SET_BY_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_MODE")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "connection was likely closed")


def launcher_process() -> int | None:
    """The number of the process that started this one as a part of a job (torchrun, `accelerate launch`); None without.

    Such a launcher waits for its processes, so that its end means that the job has been ended. A shell that ends says
    nothing: ``segzoo train &`` goes on under nohup.
    """
    return os.getppid() if any(name in os.environ for name in _SET_BY_LAUNCHERS) else None


def run_together(accelerator: Accelerator, action: Callable[[], Any], *, main_only: bool = False) -> Any:
    """Run an action in every process; if it fails in one of them, it fails in all, so that none waits for ever.

    Args:
        accelerator: the accelerator of the training; every process calls this at the same point.
        action: must not wait for other processes itself, and must return something that can be pickled.
        main_only: only the main process runs the action.

    Returns:
        The result of the main process's action, in every process.

    Raises:
        SegZooError: the action failed in another process, with this message.
        Exception: any error of the action itself, in the process where it failed.
    """
    if accelerator.num_processes == 1:
        return action()
    from accelerate.utils import gather_object

    failure = result = None
    try:
        result = action() if accelerator.is_main_process or not main_only else None
    except Exception as error:
        failure = error
    said = None if failure is None else str(failure) or type(failure).__name__
    outcomes = gather_object([(said, result)])
    if failure is not None:
        raise failure
    for message, _ in outcomes:
        if message is not None:
            raise SegZooError(message)
    return outcomes[0][1]


def report_error(message: str) -> None:
    """Print ``error: <message>`` on stderr; if several processes report the same message, only one prints it."""
    if _is_first_to_say(message):
        say(f"error: {message}", stream=sys.stderr)


def report_lost_process(error: BaseException) -> bool:
    """Report that a data-loading process or another process of the training has ended, if that is what an error means.

    The end of another process of the training is reported only if no process has printed an error yet.

    Returns:
        Whether the error means that; if not, nothing is printed, and the caller should raise it again.
    """
    if not isinstance(error, RuntimeError):
        return False
    if match := LOST_LOADER.search(str(error)):
        report_error(
            f"a process that loads data {match[1].strip()}; if memory ran out, lower --dataloader_num_workers or the batch "
            "size; go on with --resume_from_checkpoint latest"
        )
        return True
    if not _several():
        return False
    if not isinstance(error, dist.DistError) and not any(words in str(error) for words in _LOST):
        return False
    if not _anything_was_said():
        report_error(
            "another process of the training has ended without a word (killed, or out of memory?); go on with "
            "--resume_from_checkpoint latest"
        )
    return True


def _is_first_to_say(message: str) -> bool:
    if not _several():
        return True
    store = _store()
    if store is None:
        return os.environ.get("RANK", "0") == "0"  # so far all have only read the same command line
    try:
        store.add(f"{_KEY}/any", 1)
        return store.add(f"{_KEY}/{hashlib.sha1(message.encode('utf-8', 'backslashreplace')).hexdigest()}", 1) == 1
    except RuntimeError:  # the process that holds the store has ended
        return True


def _anything_was_said() -> bool:
    store = _store()
    try:
        return store is not None and store.add(f"{_KEY}/any", 0) > 0
    except RuntimeError:
        return False


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _store() -> dist.Store | None:
    """The key-value store through which the processes found each other; None before that."""
    if dist.is_available() and dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    return None

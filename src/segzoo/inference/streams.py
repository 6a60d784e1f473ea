"""Several batches at a time on a CPU, each on its share of the threads.

A network of many small operations keeps two threads less busy than two networks keep one thread each, and what comes
before and after the network, much of which uses one thread only, goes on beside the network of another picture.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier
from typing import TypeVar

import torch
from torch import nn

from segzoo.errors import SegZooError
from segzoo.inference.faster import is_ordinary
from segzoo.memory import free_memory
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

_USUAL = 2  # each needs memory of its own
_LEAST_FREE = 4 * 2**30  # bytes besides those of the weights, with which what a picture takes grows

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_num_streams(asked: int | None) -> None:
    """Check a number of streams that a user asks for.

    Raises:
        SegZooError: it is below 1.
    """
    if asked is not None and asked < 1:
        raise SegZooError(f"num_streams is {asked}; it is at least 1")


def number_of_streams(model: nn.Module, asked: int | None = None) -> int:
    """How many batches may go through a model at the same time.

    That is one unless the model is one of segzoo on a CPU, with ordinary weights, without hooks and uncompiled: what
    others have added to a model need not bear threads, and what is compiled is so for a number of threads.

    Args:
        model: the model.
        asked: the number for a model that bears it; None: two if there are two threads, and 4 GiB of memory and as much
            as the weights have are free; else one.
    """
    if not isinstance(model, SegZooForSemanticSegmentation) or not is_ordinary(model, (torch.float32, torch.bfloat16)):
        return 1
    if any(module._compiled_call_impl is not None for module in model.modules()):
        return 1
    if asked is not None:
        return asked
    free, weights = free_memory(), sum(parameter.nbytes for parameter in model.parameters())
    return 1 if free is not None and free < _LEAST_FREE + weights else min(_USUAL, torch.get_num_threads())


def in_streams(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    count: int,
    is_small: Callable[[Item], bool] = lambda _: True,
) -> Iterator[Result]:
    """``map(function, items)``, with some calls at a time.

    Args:
        function: called in threads which share this thread's number of torch threads. What is the only call, or may not
            be made beside others, is called in this thread, with all of them.
        items: taken in this thread, at most one more than is worked on. Before an error of theirs is raised, the results
            of earlier ones are handed over.
        count: number of calls at a time; with 1 all of them are made in this thread.
        is_small: whether a call may be made beside others; beside one that may not, nothing is held.

    Returns:
        The results in the order of the items.
    """
    if count == 1:
        yield from map(function, items)
        return
    items, error = iter(items), None
    first: list[Item] = []  # held until there is another one, since all threads together are faster for one alone
    begun: deque[Future[Result]] = deque()
    with ExitStack() as at_the_end:
        threads: ThreadPoolExecutor | None = None  # not before the first item, for which processes may be forked
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as raised:
                error = raised
                break
            if not is_small(item):
                yield from _results(begun, 0)
                yield from map(function, [first.pop()] if first else [])
                yield from map(function, [item])
            elif begun or first:
                threads = threads or at_the_end.enter_context(_threads(count))
                begun.extend(threads.submit(function, held) for held in [*first, item])
                first.clear()
            else:
                first.append(item)
            del item  # before the next one is read
            yield from _results(begun, count)
        yield from _results(begun, 0)
        yield from map(function, first)
    if error is not None:
        raise error


def _results(begun: deque[Future[Result]], most: int) -> Iterator[Result]:
    """The results of the first calls, until only so many calls are left."""
    while len(begun) > most:
        yield begun.popleft().result()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share the calling thread's number of torch threads."""
    whole = torch.get_num_threads()
    ready = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # otherwise a thread's first operation gives it the number of the process
        torch.set_num_threads(max(1, whole // count))
        ready.wait()

    with ThreadPoolExecutor(count, thread_name_prefix="segzoo-stream", initializer=begin) as pool:
        try:
            for _ in range(count):
                pool.submit(int)
            ready.wait()
        except BaseException:  # such as a thread that cannot be started: the others do not wait for it
            ready.abort()
            raise
        torch.set_num_threads(whole)  # threads that others start take the number that was set last
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)

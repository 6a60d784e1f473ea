"""Several batches at a time: order, threads, what is held at once, errors."""

import threading
import time
import weakref

import pytest
import torch
from support.contract import settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.errors import SegZooError
from segzoo.inference import streams
from segzoo.inference.streams import in_streams, number_of_streams


@pytest.fixture
def four_threads():
    """Four threads for PyTorch in this thread, and in those that begin after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    return settle(SegZooForSemanticSegmentation(SegZooConfig.tiny())).eval()


class Item:
    def __init__(self, number, small=True):
        self.number, self.small = number, small


def threads_now():
    """Number of torch threads of this thread, after an operation, which sets it where nothing else has."""
    torch.ones(64, 64).sum()
    return threading.current_thread(), torch.get_num_threads()


def stream_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("segzoo-stream")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_are_in_order(count):
    def slow_first(number):
        time.sleep(0.02 * (3 - number % 3))
        return number * number

    assert list(in_streams(slow_first, range(8), count=count)) == [number * number for number in range(8)]
    assert list(in_streams(slow_first, [], count=count)) == []
    assert not stream_threads()


def test_calls_are_made_at_the_same_time():
    both = threading.Barrier(2)
    assert len(list(in_streams(lambda _: both.wait(timeout=60), range(6), count=2))) == 6


def test_calls_share_the_threads(four_threads):
    found = list(in_streams(lambda _: threads_now(), range(6), count=2))
    assert {number for _, number in found} == {2}
    assert threading.current_thread() not in {thread for thread, _ in found}
    assert threads_now()[1] == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(threads_now()[1]))
    thread.start()
    thread.join()
    assert later == [4]
    many = list(in_streams(lambda _: threads_now(), range(12), count=6))
    assert {number for _, number in many} == {1}


def test_what_is_alone_has_all_threads(four_threads):
    assert list(in_streams(lambda _: threads_now(), range(1), count=2)) == [(threading.current_thread(), 4)]


def test_nothing_is_held_beside_a_large_one(four_threads):
    held = []

    def items():
        for number in range(9):
            item = Item(number, small=number not in (0, 3, 4, 7))
            if any(not other().small for other in held if other() is not None):
                pytest.fail("a large item is held while the next one is read")
            held.append(weakref.ref(item))
            yield item
            del item

    def call(item):
        others = [other().number for other in held if other() is not None and other() is not item]
        if not item.small:
            assert not others
        return threads_now(), item.number

    found = list(in_streams(call, items(), count=2, is_small=lambda item: item.small))
    assert [number for _, number in found] == list(range(9))
    # 8 is the last one, and the only one after a large one.
    assert [number for (_, threads), number in found if threads == 4] == [0, 3, 4, 7, 8]


def test_no_more_is_taken_than_is_worked_on():
    taken, returned = 0, 0

    def items():
        nonlocal taken
        for number in range(12):
            taken += 1
            yield number

    for _ in in_streams(lambda number: number, items(), count=2):
        returned += 1
        assert taken - returned <= 2
    assert returned == taken == 12


def test_results_before_an_error_of_the_items_are_handed_over():
    def items():
        yield from range(3)
        raise SegZooError("broken.jpg")

    found = []
    with pytest.raises(SegZooError, match="broken.jpg"):
        for result in in_streams(lambda number: number, items(), count=2):
            found.append(result)
    assert found == [0, 1, 2]
    assert not stream_threads()


def test_threads_that_cannot_be_started_are_an_error(monkeypatch):
    start, started = threading.Thread.start, []

    def limited(self):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(in_streams(lambda number: number, range(4), count=2))
    assert len(started) == 1 and not stream_threads()


def test_an_error_of_a_call_ends_it():
    def call(number):
        if number == 2:
            raise SegZooError("no numbers")
        return number

    found = []
    with pytest.raises(SegZooError, match="no numbers"):
        for result in in_streams(call, range(100), count=2):
            found.append(result)
    assert found == [0, 1]
    assert not stream_threads()


def test_streams_for_models_that_bear_them(model, four_threads, monkeypatch):
    monkeypatch.setattr(streams, "free_memory", lambda: None)
    assert number_of_streams(model) == 2
    assert number_of_streams(model, 3) == 3
    assert number_of_streams(model.bfloat16(), 3) == 3
    assert number_of_streams(model.double(), 3) == 1
    assert number_of_streams(torch.nn.Linear(2, 2), 3) == 1
    model.float().backbone.compile()
    assert number_of_streams(model, 3) == 1
    assert number_of_streams(torch.compile(model), 3) == 1


def test_one_stream_by_default_where_memory_is_scarce(model, four_threads, monkeypatch):
    monkeypatch.setattr(streams, "free_memory", lambda: 3 * 2**30)
    assert number_of_streams(model) == 1
    assert number_of_streams(model, 2) == 2
    monkeypatch.setattr(streams, "free_memory", lambda: None)
    assert number_of_streams(model) == 2


def test_one_stream_by_default_without_threads(model, four_threads):
    torch.set_num_threads(1)
    assert number_of_streams(model) == 1
    assert number_of_streams(model, 2) == 2
    model.backbone.register_forward_hook(lambda *_: None)
    assert number_of_streams(model, 3) == 1

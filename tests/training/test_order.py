import itertools

import numpy as np
import pytest
import torch

from segzoo import SegZooError
from segzoo.data.row_counts import RowCounts
from segzoo.training import EpochBatches, batch_sizes, training_batches
from segzoo.training.order import BalancedBatches


class Numbers(torch.utils.data.Dataset):
    """Samples that say which epoch and index they are."""

    def __init__(self, size):
        self.size, self.epoch = size, torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch):
        self.epoch.fill_(epoch)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return 1000 * int(self.epoch) + index


def take(count, *, first=0, workers=0, size=10, batch_size=3):
    order = EpochBatches(size, batch_size, seed=1)
    batches = training_batches(Numbers(size), order, first_batch=first, num_workers=workers, collate=list)
    return list(itertools.islice(batches, count))


def test_no_sample_comes_twice_in_an_epoch_and_epochs_differ():
    batches = take(6)
    for epoch in range(2):
        seen = [value for batch in batches[3 * epoch : 3 * epoch + 3] for value in batch]
        assert len(set(seen)) == 9 and {value // 1000 for value in seen} == {epoch}
    assert [value % 1000 for value in batches[0]] != [value % 1000 for value in batches[3]]


@pytest.mark.parametrize("first", [0, 1, 3, 5, 7])
def test_going_on_gives_what_would_have_come(first):
    assert take(4, first=first) == take(11)[first : first + 4]


def test_workers_give_the_same_batches():
    assert take(7, workers=2, first=2) == take(7, first=2)


def test_iterating_leaves_the_global_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    take(5)
    assert torch.equal(torch.rand(4), expected)


def test_processes_share_each_round():
    orders = [EpochBatches(20, 3, seed=2, process_index=i, num_processes=2) for i in range(2)]
    alone = EpochBatches(20, 6, seed=2)
    for together, (first, second) in zip(alone, zip(*orders, strict=True), strict=True):
        assert together == first + second
    assert orders[1].indices(2) == list(orders[1])[2]


def test_too_few_samples():
    with pytest.raises(SegZooError, match="4 pictures, fewer than one batch of 3 in 2 processes"):
        EpochBatches(4, 3, num_processes=2)


@pytest.mark.parametrize(
    ("per_device", "accumulation", "total", "processes", "expected"),
    [
        (None, None, None, 1, (8, 1)),
        (4, None, None, 2, (4, 1)),
        (None, None, 16, 1, (16, 1)),
        (None, None, 16, 4, (4, 1)),
        (2, None, 16, 1, (2, 8)),
        (None, 4, 16, 2, (2, 4)),
        (3, 2, 16, 1, (3, 2)),
    ],
)
def test_a_step_has_as_many_pictures_as_the_recipe_says(per_device, accumulation, total, processes, expected):
    assert batch_sizes(per_device, accumulation, total, processes) == expected


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(
        SegZooError, match="16 pictures cannot be divided by 3 processes and --per_device_train_batch_size 2"
    ):
        batch_sizes(2, None, 16, 3)


@pytest.fixture
def counts():
    """Twelve pictures of class 0; one of them shows a little of class 1, and two of class 2; class 3 never occurs."""
    pixels = np.zeros((12, 4), np.uint32)
    pixels[:, 0], pixels[5, 1], pixels[[2, 9], 2] = 1000, 1, 10
    return RowCounts(pixels, np.zeros(12, np.int64))


def test_balanced_batches_draw_a_rare_class_first_and_then_one_of_its_pictures(counts):
    order = BalancedBatches(counts, 4, temperature=0.01, seed=3)
    shown = []
    for epoch in range(60):
        order.set_position(epoch)
        shown += [item.index for batch in order for item in batch]
    assert len(shown) == 60 * 12 and set(shown) == {2, 5, 9}  # class 0 has next to no chance
    assert shown.count(5) / len(shown) == pytest.approx(0.5, abs=0.06)
    mild = BalancedBatches(counts, 12, temperature=1e6)
    assert mild.chances == pytest.approx(np.full(3, 1 / 3), abs=1e-5)


def test_balanced_batches_of_several_processes_are_those_of_one_and_repeats_are_numbered(counts):
    one = BalancedBatches(counts, 4, seed=3)
    parts = [BalancedBatches(counts, 2, seed=3, process_index=index, num_processes=2) for index in range(2)]
    assert len(one) == len(parts[0]) == 3
    for epoch in range(2):
        for order in (one, *parts):
            order.set_position(epoch)
        whole = list(one)
        assert [a + b for a, b in zip(*parts, strict=True)] == whole
        order.set_position(epoch, 2)
        items = [item for batch in whole for item in batch]
        assert len(set(items)) == 12  # a picture that comes again has another number
        assert one.indices(1) == [item.index for item in whole[1]]
    one.set_position(1, 2)
    assert list(one) == whole[2:]


def test_balanced_batches_draw_pictures_that_show_the_class_well():
    """Of pictures of 100000 pixels, those with 149 (DAFormer's 3000 of GTA's), or the better half; with the class."""
    pixels = np.zeros((8, 3), np.uint32)
    pixels[:4, 1], pixels[4:, 2] = [1, 149, 5000, 9000], [1, 2, 3, 4]
    pixels[:, 0] = 60_000 - pixels.sum(axis=1)
    order = BalancedBatches(RowCounts(pixels, np.full(8, 40_000)), 4, temperature=0.01, seed=3)
    drawn = set()
    for epoch in range(40):
        order.set_position(epoch)
        drawn |= {(item.wanted, item.index) for batch in order for item in batch}
    assert drawn == {(1, 1), (1, 2), (1, 3), (2, 6), (2, 7)}


def test_balanced_batches_need_a_class(counts):
    empty = RowCounts(np.zeros((4, 2), np.uint32), np.ones(4, np.int64))
    with pytest.raises(SegZooError, match="no pixel of the training pictures"):
        BalancedBatches(empty, 2)

import itertools

import pytest
import torch

from segzoo import SegZooError
from segzoo.training import EpochBatches, batch_sizes, training_batches


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

import shutil

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segzoo import SegZooError
from segzoo.training.checkpoints import save_checkpoint
from segzoo.training.ema import WeightAverage
from segzoo.training.options import RunOptions
from segzoo.training.room import Sizes, check_room, checkpoints_at_once


@pytest.mark.parametrize(
    ("kind", "options", "averaged"),
    [(torch.optim.AdamW, {}, True), (torch.optim.SGD, {"momentum": 0.9}, False), (torch.optim.SGD, {}, False)],
)
def test_sizes_are_those_of_real_checkpoints(tmp_path, kind, options, averaged):
    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    model = nn.Sequential(nn.Linear(400, 500), nn.BatchNorm1d(500), nn.Linear(500, 100).requires_grad_(False))
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=0.1, **options)
    if averaged:
        accelerator.register_for_checkpointing(WeightAverage(model, 0.9))
    sizes = Sizes.of(model, optimizer, averaged=averaged)
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.rand(4, 400)).sum().backward()
    optimizer.step()
    folder = save_checkpoint(accelerator, tmp_path, 1, {})
    written = sum(file.stat().st_size for file in folder.iterdir())
    assert sizes.checkpoint <= written <= sizes.checkpoint + 50_000
    assert 0 <= (folder / "model.safetensors").stat().st_size - sizes.model <= 2000
    left = Sizes.of(model, optimizer.optimizer, averaged=averaged, left_out="0.")
    assert left.model == sizes.model and sizes.checkpoint - left.checkpoint == 4 * 200_500 * (2 if averaged else 1)


def test_shared_weights_count_once():
    first, second = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert Sizes.of(model, torch.optim.AdamW(model.parameters()), averaged=False) == Sizes(400, 1200)


@pytest.mark.parametrize(
    ("due", "options", "expected"),
    [
        (0, {}, 0),
        (1, {}, 2),
        (5, {"present": 2}, 6),
        (5, {"limit": 2}, 3),
        (5, {"limit": 2, "present": 2}, 1),
        (5, {"limit": 1, "present": 3}, 1),
        (1, {"limit": 4}, 2),
        (0, {"best": True}, 2),
        (5, {"limit": 2, "best": True}, 4),
    ],
)
def test_checkpoints_at_once(due, options, expected):
    assert checkpoints_at_once(due, **options) == expected


def test_the_last_free_byte_is_enough(tmp_path):
    options = RunOptions(output_dir=str(tmp_path), model_name_or_path="m", save_total_limit=1)
    sizes = Sizes(1000, 3000)
    check_room(options, sizes, due=8, free=7000)
    with pytest.raises(SegZooError, match=r"needs 7000 bytes \(7\.0 kB\) .* 6999 bytes"):
        check_room(options, sizes, due=8, free=6999)
    check_room(options, sizes, due=8)  # a real disk
    too_much = Sizes(shutil.disk_usage(tmp_path).total + 1, 0)
    with pytest.raises(SegZooError, match="are free"):
        check_room(options, too_much, due=0)

import json

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segzoo import SegZooError
from segzoo.training import find_checkpoint, load_checkpoint, remove_old_checkpoints, save_checkpoint
from segzoo.training.checkpoints import RECORD, list_checkpoints


def make(width=3):
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    return accelerator, model, optimizer, schedule


def train(model, optimizer, schedule, steps):
    losses = []
    for _ in range(steps):
        loss = model(torch.rand(5, 3)).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def two_checkpoints(tmp_path):
    accelerator, *parts = make()
    train(*parts, 2)
    save_checkpoint(accelerator, tmp_path, 2, {"note": "early"})
    train(*parts, 2)
    save_checkpoint(accelerator, tmp_path, 10, {"note": "late"})
    return tmp_path, train(*parts, 3)


def test_training_goes_on_to_the_last_bit(two_checkpoints):
    directory, expected = two_checkpoints
    torch.manual_seed(99)
    accelerator, *parts = make()
    step, memory = load_checkpoint(accelerator, find_checkpoint(directory, "latest"))
    assert (step, memory) == (10, {"note": "late"})
    assert train(*parts, 3) == expected


def test_nothing_half_written_is_left_and_files_are_listed(two_checkpoints):
    directory, _ = two_checkpoints
    assert sorted(path.name for path in directory.iterdir()) == ["step_10", "step_2"]
    record = json.loads((directory / "step_10" / RECORD).read_text())
    assert set(record["files"]) == {p.name for p in (directory / "step_10").iterdir()} - {RECORD}


def test_a_folder_without_record_is_skipped(two_checkpoints):
    directory, _ = two_checkpoints
    (directory / "step_11").mkdir()
    (directory / ".step_12.partial-00").mkdir()
    with pytest.warns(UserWarning, match="step_11"):
        assert find_checkpoint(directory, "latest").name == "step_10"


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damage_is_noticed(two_checkpoints, damage):
    directory, _ = two_checkpoints
    file = directory / "step_10" / "model.safetensors"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-5] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    words = {"truncated": "bytes instead of", "changed": "SHA-256", "missing": "missing"}[damage]
    with pytest.raises(SegZooError, match=f"model.safetensors.*{words}"):
        find_checkpoint(directory, "step_10")
    with pytest.warns(UserWarning, match="damaged"):
        assert find_checkpoint(directory, "latest").name == "step_2"
    (directory / "step_2" / RECORD).write_text("{")
    with pytest.warns(UserWarning), pytest.raises(SegZooError, match="none of the 2 checkpoints"):
        find_checkpoint(directory, "latest")


def test_which_checkpoint(two_checkpoints, tmp_path_factory):
    directory, _ = two_checkpoints
    assert find_checkpoint(directory, str(directory / "step_2")).name == "step_2"
    assert find_checkpoint(tmp_path_factory.mktemp("empty"), "latest") is None
    with pytest.raises(SegZooError, match="no checkpoint step_3"):
        find_checkpoint(directory, "step_3")
    with pytest.raises(SegZooError, match="is no checkpoint"):
        find_checkpoint(directory, str(directory))


def test_another_model(two_checkpoints):
    directory, _ = two_checkpoints
    accelerator, *_ = make(width=7)
    with pytest.raises(SegZooError, match="does not fit this model"):
        load_checkpoint(accelerator, directory / "step_2")


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(two_checkpoints, monkeypatch):
    directory, _ = two_checkpoints
    accelerator, *_ = make()

    def full(path):
        torch.save(torch.zeros(3), f"{path}/half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accelerator, "save_state", full)
    with pytest.raises(SegZooError, match="No space left"):
        save_checkpoint(accelerator, directory, 20, {})
    assert sorted(path.name for path in directory.iterdir()) == ["step_10", "step_2"]


def test_old_checkpoints_go(two_checkpoints):
    directory, _ = two_checkpoints
    remove_old_checkpoints(directory, None)
    assert len(list_checkpoints(directory)) == 2
    remove_old_checkpoints(directory, 1)
    assert [path.name for path in list_checkpoints(directory)] == ["step_10"]

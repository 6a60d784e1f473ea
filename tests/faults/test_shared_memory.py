"""/dev/shm that is too small (docker gives 64 MB), or full: batches arrive all the same, or one line says what helps."""

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from support.small_disk import can_mount, in_child, mount_small_disk

from segzoo.commands import cli
from segzoo.data.dataset import NoteOnce
from segzoo.data.loader import Loader, _Parcel, _Shelf
from segzoo.errors import SegZooError
from segzoo.shortages import shortage_of

SHM = Path("/dev/shm")
small = pytest.mark.skipif(sys.platform != "linux" or not can_mount(), reason="nothing can be mounted here")


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        if index == 99:
            raise FileNotFoundError(2, "No such file", "a.png")
        return torch.full((50_000,), float(index))


def batches(indices=range(16), **options):
    """Batches of 0.8 MB from two processes, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = Loader(
            Numbers(), [indices[i : i + 4] for i in range(0, len(indices), 4)], collate=torch.stack, num_workers=2
        )
        found = [batch[:, 0].tolist() for batch in loader]
    return found, [str(w.message) for w in caught if "/dev/shm" in str(w.message)]


def test_enough_room_is_used_without_a_word():
    assert batches() == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]], [])


@small
@pytest.mark.parametrize("size", ["6m", "4m", "128k"])
def test_too_little_room(size):
    """The same batches, through pipes; the warning comes with the first one and has the numbers and the fix."""

    def child():
        mount_small_disk(SHM, size)
        return batches(), batches()[1]

    (found, told), told_again = in_child(child)
    assert found == batches()[0]
    assert len(told) == 1 and not told_again
    assert f"/dev/shm has {'0.125' if size == '128k' else size[0]} MB free" in told[0]
    assert "batches of 0.763 MB" in told[0] and "docker run --shm-size=1g" in told[0]


@small
def test_no_room_at_all():
    def child():
        mount_small_disk(SHM, "4k")
        with contextlib.suppress(OSError):
            (SHM / "other").write_bytes(bytes(8192))
        lines = []
        for attempt in (batches, NoteOnce):
            try:
                attempt()
            except Exception as error:
                lines.append(str(error) if isinstance(error, SegZooError) else shortage_of(error))
        return lines

    loading, tensor = in_child(child)
    assert loading.startswith("/dev/shm: loading processes cannot be started") and "num_workers 0" in loading
    assert tensor.startswith("out of room in /dev/shm (") and "--shm-size" in tensor


@small
@pytest.mark.slow
def test_train_and_evaluate(scenes, tiny, tmp_path):
    """Whole commands on 256 kB give what they give elsewhere."""

    def child(mounting, name):
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if mounting:
            mount_small_disk(SHM, "256k")
        out = tmp_path / name
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            first = cli.main(["evaluate", str(tiny), str(scenes), "--num_workers", "1"])
            training = ["train", "--dataset_name", scenes, "--model_name_or_path", tiny, "--output_dir", out]
            training += ["--crop_size", 32, "--per_device_train_batch_size", 4, "--max_train_steps", 2]
            second = cli.main([*map(str, training), "--dataloader_num_workers", "1", "--eval_steps", "0"])
        scores = [line for line in printed.getvalue().splitlines() if line.startswith(("all classes", "pixel acc"))]
        return first, second, scores, (out / "model.safetensors").read_bytes()

    expected = in_child(child, False, "plenty", timeout=120)
    assert expected[:2] == (0, 0) and expected[2]
    assert in_child(child, True, "little", timeout=120) == expected


def test_an_error_in_a_loading_process_keeps_its_type():
    with pytest.raises(FileNotFoundError) as error:
        batches([0, 1, 99, 2])
    assert error.value.errno == 2 and "DataLoader" not in str(error.value)


def test_tensors_keep_their_order_in_memory():
    batch = {
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.arange(3).expand(2, 3),
        "rest": [torch.tensor(True), torch.empty(0, 3), torch.randn(3, dtype=torch.float64), "name"],
    }
    found = _Parcel.of(batch, _Shelf()).unpacked()
    assert found["channels_last"].equal(batch["channels_last"])
    assert found["channels_last"].stride() == batch["channels_last"].stride()
    assert found["expanded"].equal(batch["expanded"])
    for here, there in zip(found["rest"][:3], batch["rest"][:3], strict=True):
        assert here.dtype == there.dtype and here.shape == there.shape and here.equal(there)
    assert found["rest"][3] == "name"


def test_batches_without_tensors_want_no_room():
    parcel = _Parcel.of(["a", 1], _Shelf())
    assert not parcel.is_piped and parcel.unpacked() == ["a", 1]


def arrived(parcel):
    """The parcel as the process has it that gets it."""
    make, values = parcel.__reduce__()
    return make(*values)


def test_shared_memory_is_used_again_once_the_batch_is_gone():
    shelf, batch = _Shelf(), {"a": torch.arange(50_000), "b": torch.ones(3)}
    first, second = (_Parcel.of(batch, shelf) for _ in range(2))
    assert first.block is not second.block and not first.is_piped
    parcel = arrived(first)
    rest = parcel.unpacked()["a"][10:20].view(2, 5)  # of which one view is kept
    del parcel
    assert (
        _Parcel.of({"a": torch.zeros(50_000, dtype=torch.int64), "b": torch.ones(3)}, shelf).block is not first.block
    )
    assert rest.flatten().tolist() == list(range(10, 20))
    del rest
    assert _Parcel.of(batch, shelf).block is first.block
    arrived(second)  # and thrown away, as when an epoch is broken off
    assert _Parcel.of(batch, shelf).block is second.block


def test_blocks_fit_their_batches():
    shelf = _Shelf()
    for size in (1000, 5000, 900, 100):
        block = shelf.take(size)
        assert size + 64 <= len(block) <= 2 * (size + 64)
        block[0] = 0
    assert len(shelf._blocks) == 1
    kept = [shelf.take(100) for _ in range(12)]
    assert len({block.data_ptr() for block in kept}) == 12 and len(shelf._blocks) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_gives_nothing_back():
    """It has the objects of the process that it comes from, which go on being used there."""
    shelf = _Shelf()
    sent = _Parcel.of([torch.ones(9)], shelf)
    found = arrived(sent).unpacked()

    def child():
        found.clear()
        return int(sent.block[0])

    assert in_child(child) == 1 and sent.block[0] == 1
    found.clear()
    assert sent.block[0] == 0


def test_batches_that_are_kept_stay_as_they_are():
    """More of them than a loading process has blocks; in a second epoch of the same processes others are broken off."""
    indices = [list(range(first, first + 4)) for first in range(0, 96, 4)]
    loader = Loader(Numbers(), indices, collate=torch.stack, num_workers=2, keep_workers=True)
    kept = list(loader)
    for _ in zip(range(3), loader, strict=False):
        pass
    again = [batch.clone() for batch in loader]
    for found in (kept, again):
        assert [batch[:, 0].tolist() for batch in found] == indices
        assert all((batch == batch[:, :1]).all() for batch in found)

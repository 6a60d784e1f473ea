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
from segzoo.data.loader import Loader, _Parcel
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
    found = _Parcel.of(batch).unpacked()
    assert found["channels_last"].equal(batch["channels_last"])
    assert found["channels_last"].stride() == batch["channels_last"].stride()
    assert found["expanded"].equal(batch["expanded"])
    for here, there in zip(found["rest"][:3], batch["rest"][:3], strict=True):
        assert here.dtype == there.dtype and here.shape == there.shape and here.equal(there)
    assert found["rest"][3] == "name"


def test_batches_without_tensors_want_no_room():
    parcel = _Parcel.of(["a", 1])
    assert not parcel.is_piped and parcel.unpacked() == ["a", 1]

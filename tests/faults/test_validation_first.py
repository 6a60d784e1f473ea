"""A validation picture that cannot be scored is told before the first step, or as soon as the look beside it finds it."""

import os
import shutil

import pytest
from PIL import Image

from segzoo.data.checks.inspection import spread
from segzoo.data.checks.validation_look import FIRST_PAIRS
from segzoo.training.checkpoints import list_checkpoints, read_record


def pairs_of(data):
    folders = (data / "images" / "validation", data / "annotations" / "validation")
    return list(zip(*(sorted(folder.iterdir(), key=lambda file: file.stem) for folder in folders), strict=True))


def truncate(picture, mask):
    picture.write_bytes(picture.read_bytes()[:300])
    return f"{picture}: corrupt picture"


def put_wrong_pixel(picture, mask):
    with Image.open(mask) as image:
        image.load()
    image.putpixel((3, 2), 200)
    image.save(mask)
    return f"{mask}: label ids outside 0..8"


def shrink(picture, mask):
    with Image.open(mask) as image:
        image.resize((32, 24), 0).save(mask)
    return f"{picture} and {mask}: picture and mask differ in size"


@pytest.mark.parametrize(
    "fault", [truncate, *(pytest.param(other, marks=pytest.mark.slow) for other in (put_wrong_pixel, shrink))]
)
def test_a_fault_in_the_last_of_five(start, scenes, tmp_path, fault):
    data = shutil.copytree(scenes, tmp_path / "data")
    said = fault(*pairs_of(data)[-1])
    run = start(dataset_name=data)
    assert run.wait() == 1
    assert run.stderr.startswith(f"error: {said}") and run.stderr.count("\n") == 1, run.stderr
    assert "step 1/" not in run.stdout and not list_checkpoints(tmp_path / "out")


def test_more_broken_pictures_than_may_be_left_out(start, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    for pair in (pairs_of(data)[0], pairs_of(data)[-1]):
        truncate(*pair)
    run = start(dataset_name=data, max_corrupt=1)
    assert run.wait() == 1
    assert "1 more of the 5 validation pairs that were looked at has errors" in run.stderr
    assert "step 1/" not in run.stdout


def test_a_fault_in_a_large_set_is_found_beside_the_training(start, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    for picture, mask in pairs_of(data):
        for copy in range(45):
            for file in (picture, mask):
                os.link(file, file.with_stem(f"{file.stem}-{copy:02}"))
    pairs = pairs_of(data)
    later = next(index for index in range(len(pairs)) if index not in spread(len(pairs), FIRST_PAIRS))
    for file in pairs[later]:
        content = file.read_bytes()
        file.unlink()  # the link, not what it shares
        file.write_bytes(content)
    said = put_wrong_pixel(*pairs[later])
    run = start(dataset_name=data, max_train_steps=5000, dataloader_num_workers=1)
    assert run.wait() == 1
    assert run.stderr.startswith(f"error: {said}") and run.stderr.count("\n") == 1, run.stderr
    assert "go on with --resume_from_checkpoint latest" in run.stderr
    assert "200 of 230 validation pairs are looked at" in run.stdout
    (checkpoint,) = list_checkpoints(tmp_path / "out")
    assert read_record(checkpoint)["step"] < 5000
    with pytest.raises(ProcessLookupError):
        os.killpg(run.processes[0].pid, 0)

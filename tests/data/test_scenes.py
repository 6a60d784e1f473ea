import json

import numpy as np
import pytest

from segzoo.data.decoding import decode_example
from segzoo.data.loading import load_id2label, load_segmentation_dataset
from segzoo.data.scenes import SCENES, draw_scene, write_scenes
from segzoo.errors import SegZooError


def test_scene_depends_on_seed_and_index_alone():
    picture, mask = draw_scene(3)
    assert picture.shape == (192, 256, 3) and mask.shape == (192, 256)
    assert picture.dtype == mask.dtype == np.uint8
    again = draw_scene(3)
    assert (again[0] == picture).all() and (again[1] == mask).all()
    assert (draw_scene(4)[1] != mask).any() and (draw_scene(3, seed=1)[1] != mask).any()


def test_all_classes_appear_and_nothing_else():
    counts = sum(np.bincount(draw_scene(i, size=(96, 130))[1].ravel(), minlength=256) for i in range(24))
    assert set(np.flatnonzero(counts)) == {*range(SCENES.num_labels), 255}


def test_written_folder_loads(tmp_path):
    root = write_scenes(tmp_path / "scenes", num_train=4, num_validation=2, size=(48, 64))
    loaded = load_segmentation_dataset(root)
    assert {split: len(table) for split, table in loaded.items()} == {"train": 4, "validation": 2}
    assert load_id2label(root) == SCENES.id2label
    assert "synthetic" in (root / "README.md").read_text()
    image, mask = decode_example(loaded["validation"][1])
    drawn = draw_scene(1_000_001, size=(48, 64))
    assert (mask == drawn[1]).all() and np.abs(image.astype(int) - drawn[0]).mean() < 8
    before = (root / "scenes.json").stat().st_mtime_ns
    write_scenes(root, num_train=4, num_validation=2, size=(48, 64))
    assert (root / "scenes.json").stat().st_mtime_ns == before


def test_a_broken_run_is_completed_and_other_folders_are_left_alone(tmp_path):
    root = write_scenes(tmp_path / "scenes", num_train=2, num_validation=1, size=(32, 32))
    record = json.loads((root / "scenes.json").read_text())
    (root / "scenes.json").write_text(json.dumps({**record, "complete": False}))
    (root / "images/train/scene_00001.jpg").unlink()
    write_scenes(root, num_train=2, num_validation=1, size=(32, 32))
    assert (root / "images/train/scene_00001.jpg").is_file()
    with pytest.raises(SegZooError, match="not empty"):
        write_scenes(root, num_train=3, num_validation=1, size=(32, 32))
    with pytest.raises(SegZooError, match="not empty"):
        write_scenes(tmp_path, num_train=1, num_validation=1)
    with pytest.raises(SegZooError, match="32x32"):
        draw_scene(0, size=(8, 8))

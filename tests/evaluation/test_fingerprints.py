import os

import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.data import load_segmentation_dataset
from segzoo.data.scenes import write_scenes
from segzoo.evaluation.fingerprints import model_fingerprint, rows_fingerprint


def test_models(tmp_path):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    before = model_fingerprint(model)
    model.save_pretrained(tmp_path / "a")
    assert model_fingerprint(SegZooForSemanticSegmentation.from_pretrained(tmp_path / "a")) == before
    assert model_fingerprint(model.to(memory_format=torch.channels_last)) == before
    seen = {before, model_fingerprint(model.bfloat16())}
    model.float()
    buffer = next(b for name, b in model.named_buffers() if name.endswith("running_mean"))
    buffer[0] += 1e-6
    seen.add(model_fingerprint(model))
    model.config.window_size = [32, 32]
    seen.add(model_fingerprint(model))
    assert len(seen) == 4


def test_rows(tmp_path):
    folder = write_scenes(tmp_path / "scenes", num_train=1, num_validation=3, size=(32, 32))
    rows = load_segmentation_dataset(folder)["validation"]
    before = rows_fingerprint(rows)
    assert rows_fingerprint(load_segmentation_dataset(folder)["validation"]) == before
    seen = {before, rows_fingerprint(rows.select([0, 1])), rows_fingerprint(rows.select([1, 0]))}
    load_segmentation_dataset(folder).save_to_disk(tmp_path / "saved")
    saved = load_segmentation_dataset(tmp_path / "saved")["validation"].remove_columns(["image_path", "label_path"])
    again = load_segmentation_dataset(tmp_path / "saved")["validation"].remove_columns(["image_path", "label_path"])
    assert rows_fingerprint(saved) == rows_fingerprint(again)
    seen |= {rows_fingerprint(saved), rows_fingerprint(saved.select([0, 2]))}
    os.utime(rows[1]["label_path"], (1, 1))
    seen.add(rows_fingerprint(rows))
    assert len(seen) == 6

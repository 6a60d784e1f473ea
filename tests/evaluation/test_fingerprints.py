import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.data import load_segmentation_dataset
from segzoo.data.data_source import DataSource
from segzoo.data.loading import load_source
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


def test_rows_of_masks_in_colours(tmp_path):
    """A palette that is corrected gives other labels."""
    for kind in ("images", "annotations"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
        PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / kind / "val" / "a.png")

    def fingerprint(file, **colours):
        (tmp_path / file).write_text(json.dumps(colours))
        source = DataSource(str(tmp_path / "data"), palette=str(tmp_path / file))
        return rows_fingerprint(load_source(source)["validation"])

    before = fingerprint("a.json", road=[0, 0, 0], roof=[9, 9, 9])
    assert fingerprint("same.json", road=[0, 0, 0], roof=[9, 9, 9]) == before
    assert fingerprint("b.json", road=[9, 9, 9], roof=[0, 0, 0]) != before


def test_rows_of_a_table_in_other_processes(tmp_path):
    """An evaluation goes on in another process, where sets of texts have another order."""
    folder = write_scenes(tmp_path / "scenes", num_train=1, num_validation=2, size=(32, 32))
    table = load_segmentation_dataset(folder)["validation"].select_columns(["image", "label"])
    table.rename_column("label", "annotation").map(lambda row: row).to_parquet(tmp_path / "validation.parquet")
    code = (
        "import sys; from segzoo.data import load_segmentation_dataset; "
        "from segzoo.evaluation.fingerprints import rows_fingerprint; "
        "print(rows_fingerprint(load_segmentation_dataset(sys.argv[1], cache_dir=sys.argv[2])['validation']))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "validation.parquet"), str(tmp_path / "cache")]
    found = [
        subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in ("0", "2", "3")
    ]
    assert len({run.stdout for run in found}) == 1

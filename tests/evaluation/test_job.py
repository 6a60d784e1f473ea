"""What is scored and how, from options; `tests/commands/test_evaluate.py` runs whole evaluations."""

import os

import pytest
from datasets import Dataset

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data import DataSource
from segzoo.data.scenes import write_scenes
from segzoo.evaluation.job import load_split, prediction_files, variant_of
from segzoo.inference import InferenceSettings
from segzoo.inference.options import settings_from_options


def model_and_processor(window=None, stride=None):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    model.config.window_size, model.config.window_stride = window, stride
    return model, SegZooImageProcessor(do_resize=False)


@pytest.mark.parametrize(
    ("own", "options", "expected"),
    [
        ((), {}, (None, None)),
        (([64, 96], [32, 48]), {}, ((64, 96), (32, 48))),
        (([64, 96], [32, 48]), {"slide": True}, ((64, 96), (32, 48))),
        (([64, 96], [32, 48]), {"slide": False}, (None, None)),
        (([64, 96], [32, 48]), {"stride": [20]}, ((64, 96), (20, 20))),
        (([64, 96], [32, 48]), {"window": [512]}, ((512, 512), (341, 341))),
        ((), {"window": [769, 513], "slide": True}, ((769, 513), (512, 342))),
        ((), {"window": [64, 32], "stride": [64, 1]}, ((64, 32), (64, 1))),
        ((), {"window": [1]}, ((1, 1), (1, 1))),
    ],
)
def test_windows(own, options, expected):
    settings = settings_from_options(*model_and_processor(*own), **options)
    assert (settings.window_size, settings.window_stride) == expected


def test_views():
    settings = settings_from_options(*model_and_processor(), scales=[0.5, 1], flip=True, average="logits")
    assert settings == InferenceSettings(scales=(0.5, 1.0), flip=True, average="logits")
    with pytest.raises(SegZooError, match="--window HEIGHT WIDTH"):
        settings_from_options(*model_and_processor(), slide=True)


def test_windows_of_the_processor():
    model, _ = model_and_processor()
    processor = SegZooImageProcessor(do_resize=False, window_size=[40, 40], window_stride=[20, 20])
    assert settings_from_options(model, processor).window_size == (40, 40)
    assert settings_from_options(model, processor, slide=True).window_stride == (20, 20)
    assert settings_from_options(model, processor, slide=False).window_size is None


def test_variants():
    window = {"window_size": (512, 512), "window_stride": (341, 341)}
    assert variant_of(InferenceSettings()) == variant_of(InferenceSettings(average="logits")) == "whole"
    assert variant_of(InferenceSettings(**window)) == "windows-512x512-341x341"
    settings = InferenceSettings(**window, scales=(0.5, 1, 1.75), flip=True, average="logits")
    assert variant_of(settings) == "windows-512x512-341x341_scales-0.5-1-1.75_flip_logits"


def test_splits(tmp_path):
    folder = str(write_scenes(tmp_path / "scenes", num_train=2, num_validation=7, size=(32, 32)))
    data = load_split(folder)
    assert (len(data.rows), data.subset, data.name, data.dataset_id) == (7, None, folder, None)
    assert load_split(folder, "val", max_samples=9).subset is None
    some = load_split(DataSource(folder), max_samples=3, dataset_id="me/scenes")
    assert some.rows["image_path"] == [data.rows[i]["image_path"] for i in (1, 3, 5)]
    assert some.subset.startswith("only 3 of 7") and some.dataset_id == "me/scenes"
    assert len(load_split(folder, "training").rows) == 2
    with pytest.raises(SegZooError, match="it has train, validation"):
        load_split(folder, "test")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/d/a/x_1.jpg", "/d/b/x.1.jpeg"], ["a/x_1.png", "b/x.1.png"]),
        (["/d/x.jpg"], ["x.png"]),
        (["zip://d/a.jpg::/z/x.zip", "zip://d/e/b.jpg::/z/x.zip"], ["a.png", "e/b.png"]),
        (["/d/x.jpg", "/d/x.png"], ["000000.png", "000001.png"]),
        (None, ["000000.png", "000001.png"]),
        (["/d/x.jpg", None], ["000000.png", "000001.png"]),
        (["/d/x.jpg", "e/y.jpg"], ["d/x.png", f"{os.getcwd()[1:]}/e/y.png"]),
    ],
)
def test_names_of_predictions(paths, expected, tmp_path):
    columns = {"image_path": paths} if paths else {"image": [0, 1]}
    assert prediction_files(tmp_path, Dataset.from_dict(columns)) == [tmp_path / name for name in expected]

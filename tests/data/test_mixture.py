import json

import numpy as np
import PIL.Image
import pytest
import yaml

from segzoo import SegZooError
from segzoo.data import (
    SegmentationDataset,
    build_train_transform,
    find_classes,
    inspect_dataset,
    load_source,
    load_splits,
)
from segzoo.data.data_source import DataSource
from segzoo.data.mapped_labels import MappedLabels, split_encoding
from segzoo.data.mixture import Mixture
from segzoo.evaluation.fingerprints import rows_fingerprint


@pytest.fixture
def two_sets(tmp_path, rng):
    """Streets with ids 0..2 and a validation split, and houses with reduced labels, in a parquet file."""
    for split, count in (("training", 4), ("validation", 2)):
        for kind in ("images", "annotations"):
            (tmp_path / "streets" / kind / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / f"streets/images/{split}/{number}.png")
            mask = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 3, axis=1).repeat(8, axis=0)
            PIL.Image.fromarray(mask).save(tmp_path / f"streets/annotations/{split}/{number}.png")
    (tmp_path / "streets" / "id2label.json").write_text(json.dumps({0: "road", 1: "car", 2: "sky"}))
    import datasets

    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)) for _ in range(3)]
    masks = [PIL.Image.fromarray(np.repeat(np.array([[0, 1, 2]], np.uint8), 4, axis=1).repeat(8, axis=0))] * 3
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": pictures, "label": masks}, features=features)
    table.to_parquet(tmp_path / "houses.parquet")
    return tmp_path


STREETS = {"data": "streets", "map": {"car": "vehicle"}, "default": "ignore"}
HOUSES = {
    "data": "houses.parquet",
    "classes": ["wall", "street"],
    "do_reduce_labels": True,
    "map": {"wall": "ignore", "street": "road"},
    "repeat": 2,
}


def write(folder, *sources, classes=("vehicle", "road"), **fields):
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump({"classes": list(classes), "sources": list(sources), **fields}))
    return path


def test_each_source_has_its_own_labels_and_the_rows_come_together(two_sets, own_cache):
    path = write(two_sets, STREETS, HOUSES)
    train, validation = load_splits(path)
    assert (len(train), len(validation)) == (4 + 2 * 3, 2)
    samples = SegmentationDataset(train, lambda image, mask, rng: {"labels": mask}, num_labels=2)
    assert (
        samples[0]["labels"][0].tolist() == [1] * 3 + [0] * 3 + [255] * 6
    )  # road, car, sky does not count, nor does 255
    assert samples[4]["labels"][0].tolist() == [255] * 8 + [1] * 4  # no class, wall, street
    pictures = [row["image"]["bytes"] for row in samples.dataset]
    assert pictures[4] == pictures[5] != pictures[6]
    assert "repeat" not in train.column_names
    assert find_classes(path).names == ["vehicle", "road"] and not find_classes(path).reduce_labels

    report = inspect_dataset(DataSource(path), classes=find_classes(path))
    assert report.clean and report.pairs == {"train": 7, "validation": 2}
    # 8 rows of 3 pixels of each class: road in 4 streets, and 4 pixels a row in 3 houses
    assert report.counts["train"].pixels.tolist() == [4 * 8 * 3, 4 * 8 * 3 + 3 * 8 * 4]


def test_a_picture_that_is_repeated_is_augmented_anew_each_time(two_sets, own_cache):
    train, _ = load_splits(write(two_sets, STREETS, HOUSES))
    samples = SegmentationDataset(train, build_train_transform(), seed=1, num_labels=2)
    assert not samples[4]["pixel_values"].equal(samples[5]["pixel_values"])
    assert samples[5]["pixel_values"].equal(samples[5]["pixel_values"])


def test_no_picture_that_is_set_aside_is_trained_on(two_sets, own_cache):
    train, held = load_splits(write(two_sets, {**STREETS, "splits": ["train"], "repeat": 3}), train_val_split=0.5)
    assert len(train) == 6 and len(held) == 2
    assert not {row["image_path"] for row in train} & {row["image_path"] for row in held}


@pytest.mark.parametrize(("part", "count"), [({"fraction": 0.5}, 2), ({"max_samples": 3}, 3), ({"max_samples": 9}, 4)])
def test_a_part_is_the_same_pictures_every_time_and_of_the_training_alone(two_sets, part, count):
    path = write(two_sets, {**STREETS, **part})
    first, second = (load_source(DataSource(path)) for _ in range(2))
    assert len(first["train"]) == count and len(first["validation"]) == 2
    assert first["train"]["image_path"] == second["train"]["image_path"]
    assert rows_fingerprint(first["train"]) == rows_fingerprint(second["train"])


def test_the_fingerprint_tells_another_map_and_another_table(two_sets, own_cache):
    def fingerprint(*sources):
        return rows_fingerprint(load_source(DataSource(write(two_sets, *sources)))["train"])

    before = fingerprint(STREETS, HOUSES)
    assert fingerprint(STREETS, HOUSES) == before
    assert fingerprint({**STREETS, "map": {"car": "road"}}, HOUSES) != before
    assert fingerprint(STREETS, {**HOUSES, "max_samples": 2}) != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"data": "streets"}, r"2 of its classes are not mapped: car, sky; name them in map"),
        ({**STREETS, "map": {"cra": "vehicle"}}, r"map names 'cra', which is none of its classes; did you mean 'car'"),
        ({**STREETS, "map": {"car": "vehicel"}}, r"'vehicel', which is none of our classes; did you mean 'vehicle'"),
        ({**STREETS, "map": {False: "road"}}, "no text; put names into quotes"),
        ({**STREETS, "repeats": 2}, r"no field 'repeats'; did you mean 'repeat'"),
        ({**STREETS, "repeat": 0}, "repeat is 0; it must"),
        ({**STREETS, "fraction": 0.5, "max_samples": 2}, "exclude each other"),
        ({"map": {}}, "data is missing"),
        ({**STREETS, "data": "nowhere/at/all"}, r"source 1 \(nowhere/at/all\): There is no folder or file"),
    ],
)
def test_what_does_not_fit_is_named(two_sets, source, message):
    with pytest.raises(SegZooError, match=message):
        load_source(DataSource(write(two_sets, source)))


def test_wrong_files_are_refused(two_sets):
    with pytest.raises(SegZooError, match="there is no such file"):
        load_source(DataSource(two_sets / "other.yaml"))
    with pytest.raises(SegZooError, match="sources is the list"):
        Mixture.read(write(two_sets))
    with pytest.raises(SegZooError, match="each class needs a name of its own"):
        Mixture.read(write(two_sets, STREETS, classes=("road", "road")))
    with pytest.raises(SegZooError, match="leave out --classes"):
        find_classes(write(two_sets, STREETS), num_labels=3)
    with pytest.raises(SegZooError, match="not streamed"):
        load_source(DataSource(write(two_sets, STREETS), streaming=True))


def test_an_id_that_is_no_class_of_its_data_set_is_an_error_not_another_class(two_sets):
    path = two_sets / "streets/annotations/training/1.png"
    PIL.Image.fromarray(np.full((8, 12), 9, np.uint8)).save(path)
    mix = write(two_sets, STREETS, classes=tuple(f"vehicle road {'x' * n}" for n in range(12)) + ("vehicle", "road"))
    train, _ = load_splits(mix)
    with pytest.raises(SegZooError, match=r"1\.png: holds the ids 9, which are no classes of its data set \(0\.\.2"):
        SegmentationDataset(train, lambda image, mask, rng: {"labels": mask}, num_labels=14)[1]
    report = inspect_dataset(DataSource(mix), classes=find_classes(mix))
    assert [(case.kind, case.count) for case in report.findings if case.severity == "error"] == [("unusable_mask", 1)]


def test_mapped_labels_go_through_text_and_take_wide_ids():
    labels = MappedLabels("camvid_colors", (3, 255, 0), reduced=True, ignored=-1)
    assert split_encoding(labels.text) == ("camvid_colors", labels)
    assert split_encoding("camvid_colors") == ("camvid_colors", None) and split_encoding(None) == (None, None)
    assert labels.apply(np.array([[-1, 0], [1, 3]], np.int32), "m").tolist() == [[255, 255], [3, 0]]
    with pytest.raises(SegZooError, match="ids 300"):
        labels.apply(np.array([[300]], np.int32), "m")

"""Notes on the ids of label files, which an original renumbers, and on labels that do not count in its scores."""

import pytest
from conversion import tiny

from segzoo.conversion.translate import translate_config
from segzoo.data.facts import DATASETS

REVERSED = list(DATASETS["cityscapes"].classes)[::-1]


def notes(num_labels=3, version="0.30.0", class_names=None, **config):
    config = tiny.config(model__decode_head__num_classes=num_labels, **config)
    return " ".join(translate_config(config, version=version, class_names=class_names).notes)


def of_data_set(kind, **options):
    return {"data": {"test": {"type": kind, **options}}}


@pytest.mark.parametrize(
    ("version", "kind", "classes", "ids", "faulty"),
    [
        # What mmsegmentation 0.5.0 to 0.30.0 make of label files with these classes.
        ("0.30.0", "CityscapesDataset", ["sky", "car", "road"], "0 -> 2, 10 -> 0, 13 -> 1;", False),
        ("0.23.0", "CityscapesDataset", ["sky", "car", "road"], "10 -> 0, 13 -> 1;", True),
        ("0.6.0", "CityscapesDataset", ["sky", "car", "road"], "0 -> 0, 1 -> 1, 2 -> 2;", True),
        (None, "CityscapesDataset", ["sky", "car", "road"], "0 -> 2, 10 -> 0, 13 -> 1;", False),
        ("0.30.0", "CityscapesDataset", REVERSED, "0 -> 18, 1 -> 17, 2 -> 16, ", False),
        ("0.23.0", "CityscapesDataset", REVERSED, "0 -> 0, 1 -> 1, 2 -> 2, ", True),
        # 0.x changes ids before it takes away the 0 for "no class", and so takes each class for the one before.
        ("0.30.0", "ADE20KDataset", ["sky", "tree", "wall"], "0 -> 1, 4 -> 0;", True),
    ],
)
def test_other_classes_of_a_known_data_set(version, kind, classes, ids, faulty):
    found = notes(len(classes), version, **of_data_set(kind, classes=classes))
    assert "data.test: these are not all classes of " in found and f"new ids: {ids}" in found
    assert ("by a fault of its version" in found) is faulty and ("default: ignore" in found) is not faulty
    assert ("before 0.24" in found) is (version is None)


def test_other_classes_in_1x():
    """1.x takes the 0 for "no class" away first."""
    dataset = {"type": "ADE20KDataset", "metainfo": {"classes": ["sky", "tree", "wall"]}, "reduce_zero_label": True}
    found = notes(version=None, default_scope="mmseg", test_dataloader={"dataset": dataset})
    assert "test_dataloader.dataset: these are not all" in found and "new ids: 1 -> 2, 3 -> 0, 5 -> 1;" in found


def test_a_file_of_class_names_is_told_by_the_checkpoint():
    options = of_data_set("CityscapesDataset", classes="my_classes.txt")
    assert "10 -> 0, 13 -> 1;" in notes(class_names=["sky", "car", "road"], **options).replace("0 -> 2, ", "")
    assert "new ids" not in notes(**options)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("CityscapesDataset", REVERSED[::-1]),
        ("CityscapesDataset", ["a", "b", "c"]),  # the original refuses these: a data set of the same name
        ("CustomDataset", ["a", "b", "c"]),
        ("CityscapesDataset", None),
    ],
)
def test_the_data_sets_own_classes_are_not_noted(kind, classes):
    num_labels = 19 if classes is None else len(classes)
    assert "new ids" not in notes(num_labels, **of_data_set(kind, classes=classes))


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (of_data_set("CustomDataset", ignore_index=0), "data.test: "),
        (of_data_set("CustomDataset", ignore_index=255), None),
        (of_data_set("CustomDataset"), None),
        (
            {
                "test_dataloader": {"dataset": {"type": "BaseSegDataset", "ignore_index": 9}},
                "test_evaluator": [{"type": "IoUMetric"}, {"type": "IoUMetric", "ignore_index": 0}],
            },
            "test_dataloader.dataset: ",
        ),
    ],
)
def test_a_label_that_does_not_count_in_scores(config, place):
    text = "the original does not count label 0 in its scores; evaluate with --ignore_index 0"
    found = notes(**config)
    assert "--ignore_index" not in found if place is None else place + text in found

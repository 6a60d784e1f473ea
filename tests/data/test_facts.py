import subprocess
import sys

import pytest

from segzoo.data.facts import DATASETS, color_map, dataset_facts, facts_for_original_type
from segzoo.data.label_encodings import LABEL_ENCODINGS, label_encoding
from segzoo.errors import SegZooError


@pytest.mark.parametrize("name", DATASETS)
def test_every_class_has_a_name_and_a_colour(name):
    facts = DATASETS[name]
    assert facts.name == name
    assert len(facts.classes) == len(facts.palette) == facts.num_labels == len(set(facts.classes))
    assert all(0 <= value <= 255 for color in facts.palette for value in color)
    assert all(len(color) == 3 for color in facts.palette)
    assert all(c == c.strip() and c for c in facts.classes)
    assert [facts.label2id[facts.id2label[i]] for i in range(facts.num_labels)] == list(range(facts.num_labels))
    assert facts.title and facts.licence


def test_of_equal_classes_the_data_set_that_they_are_named_after_comes_first():
    def first(name):
        return next(facts.name for facts in DATASETS.values() if facts.id2label == DATASETS[name].id2label)

    borrowed = {"dark_zurich": "cityscapes", "night_driving": "cityscapes", "vaihingen": "potsdam", "hrf": "drive"}
    assert {name: first(name) for name in borrowed} == borrowed
    assert DATASETS["dark_zurich"].palette == DATASETS["cityscapes"].palette
    assert "nothing" not in DATASETS and DATASETS.get("nothing") is None


def test_facts_are_read_when_they_are_asked_for():
    code = """
import re, sys
opened = []
is_facts = re.compile(r"facts.[a-z0-9_]+[.]json$").search
sys.addaudithook(lambda event, values: opened.append(values[0]) if event == "open" and is_facts(str(values[0])) else None)
import segzoo.data.sources
from segzoo.data.facts import DATASETS
assert not opened
assert DATASETS["camvid"].num_labels == 11 and len(opened) == len(DATASETS)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_known_facts():
    ade20k = dataset_facts("ADE20K")
    assert ade20k.num_labels == 150 and ade20k.reduce_labels
    assert ade20k.classes[:3] == ("wall", "building", "sky") and ade20k.classes[-1] == "flag"
    assert ade20k.palette[0] == (120, 120, 120)
    assert dataset_facts("Pascal-VOC").palette[1] == (128, 0, 0)
    assert dataset_facts("pascal context 59").classes == dataset_facts("pascal_context_60").classes[1:]
    assert dataset_facts("camvid").classes.index("bicyclist") == 10
    assert DATASETS["cityscapes"].palette[0] == (128, 64, 128)
    counts = {"coco_stuff_164k": 171, "loveda": 7, "potsdam": 6, "isaid": 16, "hrf": 2, "dark_zurich": 19}
    assert {name: DATASETS[name].num_labels for name in counts} == counts


@pytest.mark.parametrize("name", DATASETS)
def test_other_ways_of_writing_masks_give_classes(name):
    for encoding in DATASETS[name].encodings:
        labels = (encoding.ids or encoding.colors).values()
        assert set(labels) <= {*range(DATASETS[name].num_labels), 255}
        assert label_encoding(encoding.name) is encoding


def test_all_encodings_belong_to_a_data_set():
    used = {encoding.name for facts in DATASETS.values() for encoding in facts.encodings}
    assert used == LABEL_ENCODINGS.keys()


def test_color_map_has_no_repeats():
    assert len(set(color_map(256))) == 256


def test_unknown_name_lists_near_ones():
    with pytest.raises(SegZooError, match="cityscapes"):
        dataset_facts("cityscape")
    with pytest.raises(SegZooError, match="ade20k"):
        dataset_facts("zzzzzz")


def test_original_types():
    assert facts_for_original_type("ADE20KDataset").name == "ade20k"
    assert facts_for_original_type("COCOStuffDataset", reduce_labels=True).name == "coco_stuff_10k"
    assert facts_for_original_type("COCOStuffDataset", reduce_labels=False).name == "coco_stuff_164k"
    assert facts_for_original_type("PascalContextDataset", num_labels=60).name == "pascal_context_60"
    assert facts_for_original_type("ADE20KDataset", num_labels=151) is None
    assert facts_for_original_type("MyDataset") is None

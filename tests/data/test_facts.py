import hashlib
import json
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

    borrowed = {
        "dark_zurich": "cityscapes",
        "pascal_voc_aug": "pascal_voc",
        "night_driving": "cityscapes",
        "vaihingen": "potsdam",
        "hrf": "drive",
    }
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


# Of names without spaces at their ends and colours, in the order of the ids, as in the dataset classes of
# mmsegmentation 0.27 (Mapillary Vistas, NYU: InternImage's).
CLASSES_AND_COLOURS = {
    "ade20k": (150, "5ec5688fc218dff0"),
    "cityscapes": (19, "037328d9e9f3752d"),
    "coco_stuff_10k": (171, "2ee38442249cd698"),
    "coco_stuff_164k": (171, "2ee38442249cd698"),
    "chase_db1": (2, "c57cb369a93ea12d"),
    "dark_zurich": (19, "037328d9e9f3752d"),
    "drive": (2, "c57cb369a93ea12d"),
    "hrf": (2, "c57cb369a93ea12d"),
    "isaid": (16, "4ac0f95388fed4f6"),
    "loveda": (7, "efc9592bb7b73efd"),
    "mapillary_vistas": (66, "2b9cd3dbc991b415"),
    "night_driving": (19, "037328d9e9f3752d"),
    "nyu_v2": (40, "c067b486f0e13708"),
    "pascal_context_59": (59, "ddfba54812f5aba0"),
    "pascal_context_60": (60, "224725d26a1d5ca1"),
    "pascal_voc": (21, "f807d373a501ceaf"),
    "pascal_voc_aug": (21, "f807d373a501ceaf"),
    "potsdam": (6, "8183678dd5633b57"),
    "stare": (2, "c57cb369a93ea12d"),
    "vaihingen": (6, "8183678dd5633b57"),
}


@pytest.mark.parametrize("name", CLASSES_AND_COLOURS)
def test_classes_and_colours_are_those_of_the_originals(name):
    facts = DATASETS[name]
    pairs = [[label, list(color)] for label, color in zip(facts.classes, facts.palette, strict=True)]
    digest = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
    assert (len(pairs), digest) == CLASSES_AND_COLOURS[name]
    assert facts.ignore_index == 255


# name: reduced masks, metric, usual test size, tested part, pictures of train, validation and test
PROTOCOLS = {
    "acdc": (False, "mean_iou", (1024, 512), "validation", (1600, 406, 2000)),
    "ade20k": (True, "mean_iou", (2048, 512), "validation", (20210, 2000, 3352)),
    "camvid": (False, "mean_iou", None, "test", (367, 101, 233)),
    "chase_db1": (False, "mean_dice", (999, 960), "validation", (20, 8, None)),
    "cityscapes": (False, "mean_iou", (2048, 1024), "validation", (2975, 500, 1525)),
    "coco_stuff_10k": (True, "mean_iou", (2048, 512), "test", (9000, None, 1000)),
    "coco_stuff_164k": (False, "mean_iou", (2048, 512), "validation", (118287, 5000, 40670)),
    "dark_zurich": (False, "mean_iou", (1920, 1080), "validation", (8377, 50, 151)),
    "drive": (False, "mean_dice", (584, 565), "validation", (20, 20, None)),
    "hrf": (False, "mean_dice", (3504, 2336), "validation", (15, 30, None)),
    "isaid": (False, "mean_iou", (896, 896), "validation", (33978, 11644, 937)),
    "loveda": (True, "mean_iou", (1024, 1024), "validation", (2522, 1669, 1796)),
    "mapillary_vistas": (False, "mean_iou", (2048, 1024), "validation", (18000, 2000, 5000)),
    "mapillary_vistas_65": (False, "mean_iou", (2048, 1024), "validation", (18000, 2000, 5000)),
    "night_driving": (False, "mean_iou", (1920, 1080), "test", (None, None, 50)),
    "nyu_v2": (True, "mean_iou", (640, 480), "test", (795, None, 654)),
    "pascal_context_59": (True, "mean_iou", (520, 520), "validation", (4996, 5104, None)),
    "pascal_context_60": (False, "mean_iou", (520, 520), "validation", (4996, 5104, None)),
    "pascal_voc": (False, "mean_iou", (2048, 512), "validation", (1464, 1449, 1456)),
    "pascal_voc_aug": (False, "mean_iou", (2048, 512), "validation", (10582, 1449, None)),
    "potsdam": (True, "mean_iou", (512, 512), "validation", (3456, 2016, None)),
    "scenes": (False, "mean_iou", None, "validation", (None, None, None)),
    "stare": (False, "mean_dice", (700, 605), "validation", (10, 10, None)),
    "vaihingen": (True, "mean_iou", (512, 512), "validation", (344, 398, None)),
}


def test_what_repeats_a_published_score():
    assert DATASETS.keys() == PROTOCOLS.keys()
    for name, expected in PROTOCOLS.items():
        facts = DATASETS[name]
        counts = tuple(
            facts.splits[split].num_images if split in facts.splits else None
            for split in ("train", "validation", "test")
        )
        size = facts.test_sizes[0] if facts.test_sizes else None
        assert (facts.reduce_labels, facts.metric, size, facts.test_split, counts) == expected, name
        assert facts.mean_over and (not facts.splits or facts.test_split in facts.splits)
    tiles = {name: [part.cut_from for part in DATASETS[name].splits.values()] for name in ("potsdam", "isaid")}
    assert tiles == {"potsdam": [24, 14], "isaid": [1411, 458, None]}
    assert DATASETS["pascal_context_60"].mean_over == "60 classes, background included"


def test_where_mmsegmentation_reads_pictures_and_masks():
    suffixes = {name: (facts.image_suffix, facts.mask_suffix) for name, facts in DATASETS.items()}
    assert suffixes["cityscapes"] == ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    assert suffixes["dark_zurich"] == ("_rgb_anon.png", "_gt_labelTrainIds.png")
    assert suffixes["night_driving"] == ("_leftImg8bit.png", "_gtCoarse_labelTrainIds.png")
    assert suffixes["isaid"] == (".png", "_instance_color_RGB.png") and suffixes["stare"] == (".png", ".ah.png")
    assert suffixes["coco_stuff_10k"] == suffixes["coco_stuff_164k"] == (".jpg", "_labelTrainIds.png")
    part = DATASETS["pascal_context_59"].splits["validation"]
    assert (part.images, part.masks) == ("JPEGImages", "SegmentationClassContext")
    assert part.image_list == "ImageSets/SegmentationContext/val.txt"
    for facts in DATASETS.values():
        for part in facts.splits.values():
            assert part.masks is None or (part.images and facts.mask_suffix.endswith(".png") and facts.image_suffix)


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

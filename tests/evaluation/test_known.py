"""Known data sets: where their pictures are found, which classes are theirs, at which size they are tested."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerConfig, SegformerImageProcessor

from segzoo import SegZooConfig, SegZooError, SegZooImageProcessor, zoo
from segzoo.cards.model_card import ModelCardFacts, build_model_card
from segzoo.data import DATASETS
from segzoo.data.data_source import DataSource
from segzoo.evaluation.job import classes_for, load_split
from segzoo.evaluation.known import at_test_size, check_class_order, published_scores, row_of_folder, way_to_choose
from segzoo.text import markdown_text

PICTURE = np.zeros((4, 6, 3), dtype=np.uint8)
MASK = np.zeros((4, 6), dtype=np.uint8)


def write(root, *files, pixels=PICTURE):
    for file in files:
        path = Path(root) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def tree(root, name, *, stems, more_masks=()):
    """The tested part of a data set in mmsegmentation's tree."""
    facts = DATASETS[name]
    part = facts.splits[facts.test_split]
    write(root, *(f"{part.images}/{stem}{facts.image_suffix}" for stem in stems))
    write(root, *(f"{part.masks}/{stem}{facts.mask_suffix}" for stem in stems), pixels=MASK)
    write(root, *(f"{part.masks}/{file}" for file in more_masks), pixels=MASK)
    if part.image_list:
        (Path(root) / part.image_list).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / part.image_list).write_text("".join(f"{stem}\n" for stem in stems[:2]))
    return part


def prepare(root, name, *, split="val", stems=("a", "b")):
    """A folder as `segzoo data prepare` writes it."""
    write(root, *(f"images/{split}/{stem}.jpg" for stem in stems))
    write(root, *(f"annotations/{split}/{stem}.png" for stem in stems), pixels=MASK)
    (Path(root) / "manifest.json").write_text(json.dumps({"dataset": name, "files": {}}))
    return root


def load(root, name, split=None):
    return load_split(DataSource(root), split, facts=DATASETS[name])


@pytest.mark.parametrize(
    ("name", "stems", "more_masks"),
    [
        ("coco_stuff_164k", ["000000000139", "000000000285"], ["000000000139.png", "000000000285.png"]),
        ("coco_stuff_10k", ["COCO_train2014_000000000077"], []),
        ("stare", ["im0001", "im0002"], ["im0001.vk.png", "im0002.vk.png"]),
        ("chase_db1", ["Image_11L"], ["Image_11L_2ndHO.png"]),
        ("night_driving", ["0_frame_0001"], ["0_frame_0001_gtCoarse_color.png"]),
        ("dark_zurich", ["GOPR0356_frame_000321"], []),
        ("loveda", ["2522"], []),
        ("isaid", ["P0003_0_896_0_896"], []),
        ("nyu_v2", ["00001", "00002"], []),
    ],
)
def test_the_tree_of_mmsegmentation(tmp_path, name, stems, more_masks):
    tree(tmp_path, name, stems=stems, more_masks=more_masks)
    facts, data = DATASETS[name], load(tmp_path, name)
    assert data.split == facts.test_split and data.facts is facts
    assert [Path(path).name for path in data.rows["image_path"]] == [f"{s}{facts.image_suffix}" for s in stems]
    assert [Path(path).name for path in data.rows["label_path"]] == [f"{s}{facts.mask_suffix}" for s in stems]


def test_pascal_context_lies_in_the_folders_of_pascal_voc(tmp_path):
    stems = ["2008_000002", "2008_000003", "2008_000004"]
    tree(tmp_path, "pascal_context_59", stems=stems)
    for folder in ("SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write(tmp_path, "SegmentationClass/2008_000002.png", pixels=MASK)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2008_000002\n")
    for name in ("pascal_context_59", "pascal_context_60"):
        rows = load(tmp_path, name).rows
        assert [Path(path).parent.name for path in rows["label_path"]] == ["SegmentationClassContext"] * 2
    for name in ("pascal_voc", "pascal_voc_aug"):
        assert [Path(path).parent.name for path in load(tmp_path, name).rows["label_path"]] == ["SegmentationClass"]
    with pytest.raises(SegZooError, match="--dataset ade20k: .* holds Pascal VOC 2012.*; take --dataset pascal_voc"):
        load(tmp_path, "ade20k")


def test_released_layouts_are_read_as_they_are(tmp_path):
    write(tmp_path, "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png")
    write(tmp_path, "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png", pixels=MASK)
    data = load(tmp_path, "cityscapes")
    assert data.rows["label_encoding"] == ["cityscapes_label_ids"] and data.split == "validation"
    with pytest.raises(SegZooError, match="holds Cityscapes .*; take --dataset cityscapes"):
        load(tmp_path, "dark_zurich")


def test_prepared_folders(tmp_path):
    drive = prepare(tmp_path / "drive", "drive")
    assert load(drive, "drive").split == "validation" and len(load(drive, "drive").rows) == 2
    with pytest.raises(
        SegZooError, match="--dataset hrf: .* holds DRIVE .*; take --dataset drive, or give the folder"
    ):
        load(drive, "hrf")
    with pytest.raises(SegZooError, match="--split test: .* has no such split; it has validation"):
        load(drive, "drive", "test")
    names = dict(enumerate(["vessel", "background"]))
    (drive / "id2label.json").write_text(json.dumps(names))
    with pytest.raises(SegZooError, match="2 of 2 classes are others in .*id2label.json") as error:
        load(drive, "drive")
    assert [line.split() for line in str(error.value).splitlines()[2:]] == [
        ["0", "vessel", "background"],
        ["1", "background", "vessel"],
    ]
    (drive / "id2label.json").write_text(json.dumps(DATASETS["drive"].id2label))
    assert len(load(drive, "drive").rows) == 2
    # The masks of the two are the same, and so are the pictures of the two.
    context = prepare(tmp_path / "context", "pascal_context_60")
    assert len(load(context, "pascal_context_59").rows) == 2
    # The tested part may be called so, or as the folder's only part.
    for split in ("test", "val"):
        folder = prepare(tmp_path / split, "coco_stuff_10k", split=split)
        assert load(folder, "coco_stuff_10k").split == {"test": "test", "val": "validation"}[split]


def test_class_order():
    cityscapes = DATASETS["cityscapes"]
    names = [name.upper().replace(" ", "_") for name in cityscapes.classes]
    check_class_order(names, cityscapes)
    check_class_order([*names, *(f"LABEL_{index}" for index in range(19, 150))], cityscapes)
    with pytest.warns(UserWarning, match="the classes of m have no names"):
        check_class_order([f"LABEL_{index}" for index in range(19)], cityscapes, model_name="m")

    names[3], names[4] = names[4], names[3]
    with pytest.raises(SegZooError) as error:
        check_class_order(names, cityscapes, model_name="mine")
    first, *lines = str(error.value).splitlines()
    assert first.startswith("--dataset cityscapes: 2 of 19 classes are others in mine") and "YAML file" in first
    assert [line.split() for line in lines[:2]] == [["id", "mine", "cityscapes"], ["0", "ROAD", "road"]]
    assert lines[4].split() == ["3", "FENCE", "wall"] and len(lines) == 20, "of short lists everything is shown"

    ade = list(DATASETS["ade20k"].classes)
    with pytest.raises(SegZooError) as error:
        check_class_order([*ade[:7], *ade[8:], "rug2"], DATASETS["ade20k"])
    lines = str(error.value).splitlines()
    assert lines[0].startswith("--dataset ade20k: 143 of 150 classes") and lines[-1] == "  ... and 103 more"
    assert lines[2].split() == ["7", "windowpane", "bed"], "of long ones what differs"
    with pytest.raises(SegZooError, match="1 of 151 classes") as error:
        check_class_order([*ade, "thing"], DATASETS["ade20k"])
    assert str(error.value).splitlines()[2].split() == ["150", "thing", "-"]
    with pytest.raises(SegZooError, match="41 of 60 classes"):
        check_class_order(DATASETS["pascal_context_60"].classes[:19], DATASETS["pascal_context_60"])


def test_classes_of_a_known_data_set(tmp_path):
    names = DATASETS["pascal_context_59"].id2label
    model = SimpleNamespace(config=SimpleNamespace(id2label=names, num_labels=59))
    folder = str(prepare(tmp_path, "pascal_context_60"))
    found = classes_for(model, None, folder, facts=DATASETS["pascal_context_59"])
    assert found.reduce_labels and found.dataset == DATASETS["pascal_context_59"].title
    with pytest.raises(SegZooError, match="has 59 classes and the data 60"):
        classes_for(model, None, folder)


def test_a_model_of_a_choice_of_the_datas_classes(tmp_path):
    """As mmsegmentation trains with ``classes=[...]``: the message says how to score it."""
    cityscapes = DATASETS["cityscapes"]
    names = list(cityscapes.classes)
    for chosen, words in (
        (["sky", "Car", "road"], "has 3 classes and the data 19"),
        (names[::-1], "same classes in another order.*--num_labels 19"),
    ):
        model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(chosen)), num_labels=len(chosen)))
        with pytest.raises(SegZooError, match=f"{words}") as error:
            classes_for(model, None, str(tmp_path), classes="cityscapes")
        assert "YAML file" in str(error.value) and "default: ignore" in str(error.value)
        with pytest.raises(SegZooError, match="YAML file"):
            check_class_order(chosen, cityscapes)
    processor = SimpleNamespace(do_reduce_labels=False)
    assert list(classes_for(model, processor, str(tmp_path), num_labels=19).id2label.values()) == names[::-1]
    assert way_to_choose(names, names) is way_to_choose(["sky", "sky"], names) is way_to_choose(["cat"], names) is None


def test_the_row_of_a_converted_folder(tmp_path):
    for name, dataset in (
        ("fcn_unet_s5-d16_64x64_40k_drive", "drive"),
        ("mask2former_beitv2_adapter_large_896_80k_ade20k", "ade20k"),
        ("segformer.b0.512x512.ade.160k", "ade20k"),
    ):
        (tmp_path / "README.md").write_text(build_model_card(ModelCardFacts(title=name)))
        row = row_of_folder(str(tmp_path), DATASETS[dataset])
        assert row.name == zoo.find(name).name
        assert row_of_folder(str(tmp_path), DATASETS["hrf"]) is None, "of another data set"
    (tmp_path / "README.md").write_text("# Mine\n\n# fcn_unet_s5-d16_64x64_40k_drive\n")
    assert row_of_folder(str(tmp_path), DATASETS["drive"]) is None
    assert row_of_folder(str(tmp_path / "none"), DATASETS["drive"]) is None
    assert [row.name for row in zoo.rows().values() if row.name != markdown_text(row.name).replace("\\", "")] == []


def test_published_scores():
    drive = zoo.find("fcn_unet_s5-d16_64x64_40k_drive")
    assert published_scores(drive) == f"published for {drive.name}: Dice of vessel {drive.dice:.2f}"
    row = zoo.find("pspnet_r50-d8_512x1024_40k_cityscapes")
    assert published_scores(row).endswith(f": mIoU {row.miou:.2f}, mIoU on several scales {row.miou_ms:.2f}")


def sizes(processor):
    return {name: side for name, side in dict(processor.size).items() if side is not None}


def test_test_size():
    model, facts = SimpleNamespace(config=SegZooConfig.tiny()), DATASETS["cityscapes"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for longer, shorter in facts.test_sizes:
            own = SegZooImageProcessor(size={"shortest_edge": shorter, "longest_edge": longer}, size_multiple=32)
            assert at_test_size(own, facts, model) is own, "a size of the zoo is kept"
        unlimited = SegZooImageProcessor(size={"shortest_edge": 640})
        assert at_test_size(unlimited, DATASETS["pascal_voc"], model) is unlimited
        assert at_test_size(unlimited, DATASETS["camvid"], model) is unlimited
    for own in (unlimited, SegZooImageProcessor(do_resize=False, size_multiple=32, image_mean=[0.1, 0.2, 0.3])):
        with pytest.warns(
            UserWarning, match="is tested on pictures of at most 2048x1024 pixels.*--classes cityscapes"
        ):
            changed = at_test_size(own, facts, model)
        assert changed.do_resize and sizes(changed) == {"shortest_edge": 1024, "longest_edge": 2048}
        kept = changed.to_dict() | {"size": None, "do_resize": None}
        assert kept == own.to_dict() | {"size": None, "do_resize": None}
    assert sizes(unlimited) == {"shortest_edge": 640}
    other = SegformerImageProcessor(size={"height": 32, "width": 32})
    with pytest.warns(UserWarning, match="this model's image processor keeps its own size"):
        assert at_test_size(other, facts, SimpleNamespace(config=SegformerConfig())) is other

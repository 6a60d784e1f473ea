import json
import zipfile

import pytest

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data import DATASETS
from segzoo.layers import BatchNorm2d
from segzoo.losses import CrossEntropyLoss
from segzoo.training import ClassFacts, build_model, build_processor, find_classes, training_transform

THREE = ClassFacts({0: "sky", 1: "road", 2: "car"}, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    model.save_pretrained(path)
    SegZooImageProcessor(do_reduce_labels=True, size={"shortest_edge": 32}).save_pretrained(path)
    return path


def test_classes_beside_the_data(tmp_path):
    (tmp_path / "id2label.json").write_text(json.dumps(DATASETS["camvid"].id2label))
    found = find_classes(tmp_path)
    assert found.names == list(DATASETS["camvid"].classes) and found.dataset == DATASETS["camvid"].title
    assert found.palette == [list(colour) for colour in DATASETS["camvid"].palette] and not found.reduce_labels


def test_the_label_rule_comes_with_a_data_set_that_is_asked_for(tmp_path):
    assert find_classes(tmp_path, classes="ade20k").reduce_labels
    assert not find_classes(tmp_path, classes="ade20k", reduce_labels=False).reduce_labels
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / "ADEChallengeData2016" / folder).mkdir(parents=True)
    assert find_classes(tmp_path).reduce_labels
    assert find_classes(tmp_path).source == DATASETS["ade20k"].title
    # The same names in a file say nothing of the masks.
    (tmp_path / "id2label.json").write_text(json.dumps(DATASETS["ade20k"].id2label))
    assert not find_classes(tmp_path).reduce_labels


def test_the_classes_of_a_data_set_that_is_recognised(tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    found = find_classes(tmp_path, model_config=SegZooConfig.tiny())
    assert found.names == list(DATASETS["camvid"].classes) and found.dataset == DATASETS["camvid"].title
    assert not found.reduce_labels and found.palette == [list(colour) for colour in DATASETS["camvid"].palette]
    with zipfile.ZipFile(tmp_path / "ade.zip", "w") as archive:
        for folder in ("images", "annotations"):
            archive.writestr(f"ADEChallengeData2016/{folder}/validation/a.png", b"")
    assert find_classes(tmp_path / "ade.zip").reduce_labels
    # Other names beside the data are the user's word.
    (tmp_path / "id2label.json").write_text('{"0": "way", "1": "rest"}')
    assert find_classes(tmp_path).names == ["way", "rest"]


def test_classes_from_a_file_a_number_or_the_model(tmp_path):
    (tmp_path / "names.json").write_text('["sky", "road"]')
    assert find_classes(tmp_path, classes=str(tmp_path / "names.json")).names == ["sky", "road"]
    assert find_classes(tmp_path, num_labels=2).names == ["class 0", "class 1"]
    assert len(find_classes(tmp_path, model_config=SegZooConfig.tiny()).names) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "put id2label.json beside it"),
        ({"classes": "nowhere.json"}, "neither a file nor a known data set"),
        ({"num_labels": 0}, "at least one class"),
        ({"classes": "gap"}, "ids must run from 0"),
        ({"classes": "text"}, "should be JSON"),
    ],
)
def test_classes_that_cannot_be(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gap").write_text('{"0": "a", "2": "b"}')
    (tmp_path / "text").write_text("sky, road")
    with pytest.raises(SegZooError, match=message):
        find_classes(tmp_path, **options)


@pytest.mark.parametrize("head", ["uper", "fcn", "psp"])
def test_a_new_model(head):
    model = build_model(THREE, backbone="resnet18_v1c", head=head, head_channels=8, auxiliary_channels=4)
    config = model.config
    assert config.id2label == THREE.id2label and config.palette == THREE.palette
    assert config.decode_head_configs[0].channels == 8 and config.auxiliary_head_configs[0].channels == 4
    assert {h.classifier.out_channels for h in (*model.decode_heads, *model.auxiliary_heads)} == {3}


def test_a_new_model_around_a_backbone_with_weights(folder, tmp_path):
    backbone = SegZooForSemanticSegmentation.from_pretrained(folder).backbone
    backbone.save_pretrained(tmp_path / "backbone")
    model = build_model(THREE, backbone=str(tmp_path / "backbone"), head_channels=8)
    state = model.backbone.state_dict()
    assert all((state[name] == value).all() for name, value in backbone.state_dict().items())


def test_the_momentum_of_batch_norms(folder):
    def momenta(**options):
        model = build_model(THREE, model_name_or_path=folder, **options)
        return {module.momentum for module in model.modules() if isinstance(module, BatchNorm2d)}

    assert momenta() == {0.1}
    assert momenta(norm_momentum=0.001) == {0.001}


def test_another_number_of_classes(folder):
    model = build_model(THREE, model_name_or_path=str(folder), class_weights=[1, 2, 3], ignore_index=9)
    old = SegZooForSemanticSegmentation.from_pretrained(folder)
    assert model.config.num_labels == 3 and model.config.semantic_loss_ignore_index == 9
    assert model.config.palette == THREE.palette
    assert model.decode_heads[0].classifier.out_channels == 3
    assert model.decode_heads[0].losses == (CrossEntropyLoss(class_weights=(1, 2, 3)),)
    assert (model.backbone.stem[0].conv.weight == old.backbone.stem[0].conv.weight).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --backbone"),
        ({"backbone": "resnet18", "model_name_or_path": "x"}, "either --backbone"),
        ({"backbone": "resnet19"}, "none of the variants"),
        ({"backbone": "resnet18", "head": "ocr"}, "there is no such head; choose one of .*fcn"),
        ({"backbone": "resnet18", "class_weights": [1.0]}, "1 numbers for 3 classes"),
        ({"model_name_or_path": "/no/such/folder"}, "cannot load /no/such/folder"),
    ],
)
def test_models_that_cannot_be(options, message):
    with pytest.raises(SegZooError, match=message):
        build_model(THREE, **options)


def test_processor_of_a_new_model_leaves_pictures_at_their_size():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    processor = build_processor(model, THREE, ignore_index=7)
    assert not processor.do_resize and processor.ignore_index == 7
    assert training_transform(processor, crop_size=(32, 48), ignore_index=7).steps[0].size is None
    scaled = build_processor(model, THREE, scale_size=(64, 96))
    assert scaled.do_resize and dict(scaled.size) == {"shortest_edge": 64, "longest_edge": 96}
    assert training_transform(scaled, crop_size=(32, 48)).steps[0].size == (64, 96)


def test_processor_of_an_old_model_takes_the_label_rule_of_the_data(folder):
    model = SegZooForSemanticSegmentation.from_pretrained(folder)
    processor = build_processor(model, THREE, image_processor_name=str(folder))
    assert not processor.do_reduce_labels and processor.do_resize
    transform = training_transform(processor, crop_size=(32, 32))
    assert transform.steps[0].size == (32, None) and not transform.reduce_labels

import json
import zipfile

import pytest

from segzoo import SegZooConfig, SegZooError
from segzoo.data import DATASETS
from segzoo.data.classes import find_classes
from segzoo.data.loading import load_id2label
from segzoo.data.prepared import prepared_facts


def test_classes_beside_the_data(tmp_path):
    (tmp_path / "id2label.json").write_text(json.dumps(DATASETS["camvid"].id2label))
    found = find_classes(tmp_path)
    assert found.names == list(DATASETS["camvid"].classes)
    assert found.dataset is None, "other pictures may have the same classes"
    assert found.palette == [list(colour) for colour in DATASETS["camvid"].palette] and not found.reduce_labels


@pytest.mark.parametrize("classes", [None, "cityscapes"])
def test_scores_on_own_pictures_are_not_those_of_a_known_data_set(tmp_path, classes):
    """Five known data sets have Cityscapes' classes, and anybody's may."""
    config = SegZooConfig.tiny()
    config.id2label = DATASETS["cityscapes"].id2label
    found = find_classes(tmp_path, classes=classes, model_config=config)
    assert found.names == list(DATASETS["cityscapes"].classes) and found.dataset is None


def test_the_label_rule_comes_with_a_data_set_that_is_asked_for(tmp_path):
    assert find_classes(tmp_path, classes="ade20k").reduce_labels
    assert find_classes(tmp_path, classes="ade20k", reduce_labels=True).reduce_labels
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / "ADEChallengeData2016" / folder).mkdir(parents=True)
    assert find_classes(tmp_path).reduce_labels
    assert find_classes(tmp_path).source == DATASETS["ade20k"].title
    # The same names in a file say nothing of the masks.
    (tmp_path / "id2label.json").write_text(json.dumps(DATASETS["ade20k"].id2label))
    assert not find_classes(tmp_path).reduce_labels


def test_a_label_rule_that_contradicts_a_known_data_set_is_refused(tmp_path):
    with pytest.raises(
        SegZooError, match="--do_reduce_labels: the masks of CamVid .* 0 for the first class.*FILE.json"
    ):
        find_classes(tmp_path, classes="camvid", reduce_labels=True)
    with pytest.raises(SegZooError, match="--no-do_reduce_labels: the masks of ADE20K .* 0 for 'no class'"):
        find_classes(tmp_path, classes="ade20k", reduce_labels=False)
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    with pytest.raises(SegZooError, match="masks of CamVid"):
        find_classes(tmp_path, reduce_labels=True)
    # A file with the names is the user's word.
    (tmp_path / "names.json").write_text(json.dumps(DATASETS["camvid"].id2label))
    assert find_classes(tmp_path, classes=str(tmp_path / "names.json"), reduce_labels=True).reduce_labels


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


def test_the_classes_of_a_folder_with_a_manifest(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"dataset": "vaihingen"}')
    found = find_classes(tmp_path, model_config=SegZooConfig.tiny())
    assert found.names == list(DATASETS["vaihingen"].classes) and found.reduce_labels
    assert found.source == found.dataset == DATASETS["vaihingen"].title
    assert load_id2label(tmp_path) == DATASETS["vaihingen"].id2label
    with pytest.raises(SegZooError, match="--no-do_reduce_labels: the masks of ISPRS Vaihingen"):
        find_classes(tmp_path, reduce_labels=False)
    assert find_classes(tmp_path, classes="drive").names == ["background", "vessel"]
    (tmp_path / "id2label.json").write_text(json.dumps(DATASETS["vaihingen"].id2label))
    assert find_classes(tmp_path).reduce_labels, "the same names in a file do not take the rule away"
    (tmp_path / "id2label.json").write_text('{"0": "way", "1": "rest"}')
    other = find_classes(tmp_path)
    assert other.names == ["way", "rest"] and not other.reduce_labels
    (tmp_path / "id2label.json").unlink()
    for text in ("[]", "{}", "no JSON", '{"dataset": 7}', '{"dataset": "mine"}'):
        manifest.write_text(text)  # another program's
        assert prepared_facts(tmp_path) is None
    with pytest.raises(SegZooError, match="put id2label.json beside it"):
        find_classes(tmp_path)


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

"""The facts about data sets against the configs of every row of the zoo, which come from the publishers."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from segzoo import zoo
from segzoo.data.facts import DATASETS, facts_for_original_type

CONFIGS = Path(zoo.__file__).with_name("configs")
VISTAS = "Mapillary Vistas v1.2"
NO_LIMIT = 99999999  # as two publishers write it
OTHER_USUAL_SIZE = {
    "pascal_voc": "the size of mmsegmentation's own config of this data set, which has no row",
    "dark_zurich": "the size of mmsegmentation's tests; the only row is of another publisher",
}


def scales(steps):
    for step in steps:
        if step["type"] == "MultiScaleFlipAug":
            yield step["img_scale"]
            yield from scales(step["transforms"])
        elif step["type"] == "Resize" and "scale" in step:
            yield step["scale"]


def outputs(head):
    """Number of classes of a decode head, whichever of the originals' options says it."""
    if "num_things_classes" in head:
        return head["num_things_classes"] + head["num_stuff_classes"]
    return head.get("kernel_generate_head", head)["num_classes"]


@pytest.fixture(scope="module")
def tests():
    """Of each row with a config of mmsegmentation's form: row, config, decode head, sizes of the test pictures."""
    found = []
    for path in CONFIGS.glob("*.json"):
        content = json.loads(path.read_text())
        for name, config in content["configs"].items():
            if "parts" not in content:
                continue
            heads = content["parts"]["decode_head"][config["decode_head"]]
            head = heads[-1] if isinstance(heads, list) else heads
            pipeline = content["parts"]["test_pipeline"][config["test_pipeline"]]
            sizes = [(max(scale), min(scale)) for scale in scales(pipeline)]
            sizes = [(None if longer == NO_LIMIT else longer, shorter) for longer, shorter in sizes]
            found.append((zoo.rows()[name], config, head, sizes))
    assert len(found) > 750
    return found


def facts_of(row, config):
    if row.dataset == VISTAS and config["dataset_type"] != "MapillaryDataset":
        # Two rows are a first stage for Cityscapes and tested there; one has a class less.
        return facts_for_original_type(config["dataset_type"], num_labels=None if row.system == "ViT-Adapter" else 65)
    (facts,) = (facts for facts in DATASETS.values() if row.dataset in facts.zoo_names)
    return facts


def test_every_row_has_a_known_data_set():
    names = Counter(name for facts in DATASETS.values() for name in facts.zoo_names)
    assert set(names.values()) == {1}
    unknown = {row.dataset for row in zoo.rows().values()} - names.keys()
    assert unknown == {"pictures with texts"} and names.keys() <= {row.dataset for row in zoo.rows().values()}
    assert all(row.pretrained for row in zoo.rows().values() if row.dataset in unknown)


def test_classes_label_rule_and_ignored_id(tests):
    more = []
    for row, config, head, _ in tests:
        facts = facts_of(row, config)
        assert config["dataset_type"] in facts.original_types, row.name
        assert config.get("reduce_zero_label", False) == facts.reduce_labels, row.name
        assert head.get("ignore_index", 255) == facts.ignore_index, row.name
        if outputs(head) != facts.num_labels:
            more.append((row.system, outputs(head)))
    assert more == [("InternImage", 150)] * 13, "of Cityscapes and Vistas: outputs that were never trained"
    scene_parsing = json.loads((CONFIGS / "CSAIL.json").read_text())["configs"].values()
    assert {config["DATASET"]["num_class"] for config in scene_parsing} == {DATASETS["ade20k"].num_labels}


def test_sizes_of_test_pictures(tests):
    used = defaultdict(Counter)
    for row, config, _, sizes in tests:
        facts = facts_of(row, config)
        assert set(sizes) <= set(facts.test_sizes) and len(sizes) == 1, row.name
        used[facts.name].update(sizes)
    for name, counts in used.items():
        first, *others = DATASETS[name].test_sizes
        if name in OTHER_USUAL_SIZE:
            assert first not in counts and set(others) == counts.keys(), name
        else:
            assert {first, *others} == counts.keys() and counts[first] == max(counts.values()), name


def test_metric():
    """Rows that publish Dice and no mean IoU are those of data sets whose metric is Dice."""
    for row in zoo.rows().values():
        facts = [facts for facts in DATASETS.values() if row.dataset in facts.zoo_names]
        if row.dice is not None or row.miou is not None:
            assert [f.metric for f in facts] == ["mean_iou" if row.dice is None else "mean_dice"], row.name

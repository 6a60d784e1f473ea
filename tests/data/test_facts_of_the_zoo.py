"""The facts about data sets against the configs of every row of the zoo, which come from the publishers."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from segzoo import zoo
from segzoo.conversion.translate import translate_config
from segzoo.data.facts import DATASETS

CONFIGS = Path(zoo.__file__).with_name("configs")
VISTAS = "Mapillary Vistas v1.2"
OTHER_USUAL_SIZE = {
    "pascal_voc": "the size of mmsegmentation's own config of this data set, which has no row",
    "dark_zurich": "the size of mmsegmentation's tests; the only row is of another publisher",
}


def outputs(head):
    """Number of classes of a decode head, whichever of the originals' options says it."""
    head = head.get("kernel_generate_head", head)
    if "num_classes" in head:  # it comes first: some configs have left the other two as they were
        return head["num_classes"]
    return head["num_things_classes"] + head["num_stuff_classes"]


@pytest.fixture(scope="module")
def tests():
    """Of each row with a config of mmsegmentation's form: row, config, decode head."""
    found = []
    for path in CONFIGS.glob("*.json"):
        content = json.loads(path.read_text())
        for name, config in content["configs"].items():
            if "parts" not in content:
                continue
            heads = content["parts"]["decode_head"][config["decode_head"]]
            head = heads[-1] if isinstance(heads, list) else heads
            found.append((zoo.rows()[name], config, head))
    assert len(found) > 750
    return found


def facts_of(row, config):
    if row.dataset == VISTAS and config["dataset_type"] != "MapillaryDataset":
        # Rows that are a first stage for Cityscapes are tested there; one row has a class less.
        return DATASETS[{"CityscapesDataset": "cityscapes"}.get(config["dataset_type"], "mapillary_vistas_65")]
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
    for row, config, head in tests:
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
    """The sizes to which the image processors of converted rows resize; a test pipeline is translated once."""
    used, translated = defaultdict(Counter), {}
    for row, config, _ in tests:
        facts, pipeline = facts_of(row, config), (row.system, config["test_pipeline"])
        if pipeline not in translated:
            processor = translate_config(zoo.original_config(row.name)).processor
            assert processor["do_resize"]
            translated[pipeline] = (processor["size"].get("longest_edge"), processor["size"]["shortest_edge"])
        assert translated[pipeline] in facts.test_sizes, row.name
        used[facts.name][translated[pipeline]] += 1
    scene_parsing = next(name for name, row in zoo.rows().items() if row.system == "CSAIL")
    size = translate_config(zoo.original_config(scene_parsing)).processor["size"]
    used["ade20k"][size["longest_edge"], size["shortest_edge"]] += 1
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

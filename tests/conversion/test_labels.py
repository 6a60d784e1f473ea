"""Names and colours of a converted model's classes."""

import pytest

from segzoo import zoo
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.labels import find_classes
from segzoo.conversion.original_config import OriginalDataset
from segzoo.conversion.translate import translate_config
from segzoo.data.facts import DATASETS, facts_for_original_type

CITYSCAPES = DATASETS["cityscapes"]


def whole_configs():
    """Each distinct config of the zoo's checkpoints with its data sets, as trainings write them, and the facts of the first."""
    found = {}
    for name, row in zoo.rows().items():
        config = zoo.original_config(name)
        if config is None or "dataset_type" not in config:
            continue
        mapped = row.dataset.startswith("Mapillary") and row.system in ("InternImage", "ViT-Adapter")
        trained_on = "MapillaryDataset" if mapped else config["dataset_type"]
        options = {} if mapped else {"reduce_labels": config["reduce_zero_label"]}
        num_labels = translate_config(config).config.num_labels
        facts = facts_for_original_type(trained_on, **options, num_labels=num_labels)
        facts = facts or facts_for_original_type(trained_on, **options)
        if facts is None:
            continue
        steps = [{"type": "LoadAnnotations"}, *([{"type": "MapillaryHack"}] if mapped else [])]
        data = {"train": {"type": trained_on, "pipeline": steps}, "test": {"type": config["dataset_type"]}}
        found[repr(config), trained_on] = {**config, "data": data}, facts, mapped
    return list(found.values())


def test_checkpoints_of_the_zoo_with_the_names_that_their_trainings_write():
    """A training of 0.x writes names and colours of the data set that it is trained on into every checkpoint."""
    configs = whole_configs()
    assert len(configs) > 300 and sum(mapped for *_, mapped in configs) == 6
    for config, trained_on, mapped in configs:
        alone = translate_config(config).classes
        written = translate_config(config, class_names=trained_on.classes, palette=trained_on.palette).classes
        assert written.names == alone.names and len(written.palette) == len(written.names)
        if mapped:
            assert written.names[:19] == list(CITYSCAPES.classes) and written.palette == alone.palette


def test_more_outputs_than_classes():
    classes = find_classes(OriginalDataset(type="CityscapesDataset"), 25)
    own = [[i, i, i] for i in range(19)]
    with_own = find_classes(OriginalDataset(type="CityscapesDataset"), 25, class_names=CITYSCAPES.classes, palette=own)
    assert classes.names[18:20] == ["bicycle", "LABEL_19"] and with_own.names == classes.names
    assert classes.palette[:19] == [list(color) for color in CITYSCAPES.palette] and with_own.palette[:19] == own
    assert len(classes.palette) == 25 and len(set(map(tuple, classes.palette))) == 25


def test_names_that_are_given_are_those_of_the_outputs():
    mapped = OriginalDataset(type="CityscapesDataset", trained_on="MapillaryDataset", relabelled=True)
    names = [f"class {i}" for i in range(66)]
    assert find_classes(mapped, 19, class_names=names).names == list(CITYSCAPES.classes)
    with pytest.raises(ConversionError, match="the caller names 66 classes"):
        find_classes(mapped, 19, class_names=names, names_source="the caller")
    with pytest.raises(ConversionError, match="names 66 classes, the model of the config has 19; .*--classes"):
        find_classes(OriginalDataset(type="CityscapesDataset"), 19, class_names=names)

"""Fine-tuning with other classes: rows of the classifiers follow names."""

import pytest
import torch
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.data.classes import ClassFacts
from segzoo.heads import Mask2FormerHeadConfig
from segzoo.training.models import ModelRequest, start_model
from segzoo.training.recipes.groups import ModelOptions

OLD = ["sky", "road", "car", "traffic light"]


def labels(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def composite():
    return SegZooForSemanticSegmentation(
        SegZooConfig.from_backbone(ResNetConfig.tiny(), auxiliary_channels=8, **labels(OLD))
    )


def with_queries():
    head = Mask2FormerHeadConfig.tiny()
    return SegZooForSemanticSegmentation(
        SegZooConfig.from_backbone(ResNetConfig.tiny(), head, auxiliary=False, **labels(OLD))
    )


def segformer():
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=8, **labels(OLD)))


def upernet():
    backbone = SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=[f"stage{i}" for i in (1, 2, 3, 4)]
    )
    options = {"hidden_size": 8, "auxiliary_channels": 8, "auxiliary_in_channels": 32, "pool_scales": [1]}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **options, **labels(OLD)))


CLASSIFIERS = {
    composite: ["decode_heads.0.classifier", "auxiliary_heads.0.classifier"],
    with_queries: ["decode_heads.0.classifier"],
    segformer: ["decode_head.classifier"],
    upernet: ["decode_head.classifier", "auxiliary_head.classifier"],
}


@pytest.fixture(params=CLASSIFIERS, ids=lambda make: make.__name__, scope="module")
def trained(request, tmp_path_factory):
    """A model whose tensors are all random numbers, its folder, and the names of its classifiers."""
    torch.manual_seed(0)
    model = request.param()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, str(folder), CLASSIFIERS[request.param]


def start(folder, names):
    classes = ClassFacts(dict(enumerate(names)), [[0, 0, 0]] * len(names))
    built = start_model(classes, ModelOptions(), ModelRequest(model_name_or_path=folder))
    assert built.model.config.id2label == dict(enumerate(names))
    return built.model, built.notes


def rows(model, name):
    classifier = model.get_submodule(name)
    return torch.cat([classifier.weight.flatten(1), classifier.bias[:, None]], dim=1).detach()


def test_the_label_that_is_ignored_reaches_the_loss(trained):
    _, folder, _ = trained
    classes = ClassFacts(dict(enumerate(OLD)), [[0, 0, 0]] * 4)
    model = start_model(classes, ModelOptions(), ModelRequest(model_name_or_path=folder, ignore_index=7)).model
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, 16:] = 7
    assert model.train()(pixel_values=torch.randn(2, 3, 64, 64), labels=labels).loss.isfinite()


@pytest.mark.parametrize(
    ("names", "moved", "note"),
    [
        (OLD, {0: 0, 1: 1, 2: 2, 3: 3}, None),
        (["Sky", "ROAD", "car", "traffic_light"], {0: 0, 1: 1, 2: 2, 3: 3}, None),
        (
            ["car", "sky", "traffic light", "road"],
            {0: 2, 1: 0, 2: 3, 3: 1},
            "the 4 classes are the model's in another order",
        ),
        (["car", "road"], {0: 2, 1: 1}, "the 2 classes are the model's in another order; its rows of the model's 4 "),
        (
            ["tree", "car", "sky", "dog"],
            {1: 2, 2: 0},
            "2 of the 4 classes are the model's and keep their rows .car, sky.; the others",
        ),
        (["tree", "car", "sky", "dog", "cat"], {1: 2, 2: 0}, "2 of the 5 classes"),
        (["a", "b", "c", "d"], {}, "random weights, for none of the 4 classes is one of the model's 4"),
        (["a", "b"], {}, "random weights, for none of the 2"),
        (
            ["class 0", "class 1", "class 2", "class 3"],
            {0: 0, 1: 1, 2: 2, 3: 3},
            "it is kept, .* the data's have no names",
        ),
    ],
)
def test_rows_follow_names(trained, names, moved, note):
    old, folder, classifiers = trained
    model, notes = start(folder, names)
    if note is None:
        assert notes == []
    else:
        import re

        assert len(notes) == 1 and re.search(f"^classifier: .*{note}", notes[0]), notes
    for classifier in classifiers:
        before, after = rows(old, classifier), rows(model, classifier)
        behind = len(before) - len(OLD)  # "no object"
        assert len(after) == len(names) + behind
        for index in range(len(names)):
            if index in moved:
                assert torch.equal(after[index], before[moved[index]])
            else:
                assert not any(torch.equal(after[index], row) for row in before)
                assert after[index].abs().max() < 1, "new rows are small, those of the trained model are not"
        if moved and behind:
            assert torch.equal(after[-1], before[-1])
    state = model.state_dict()
    for name, value in old.state_dict().items():
        if value.shape == state[name].shape and not name.startswith(tuple(f"{c}." for c in classifiers)):
            assert torch.equal(value, state[name]), name


def test_a_model_without_names_keeps_its_classifier(tmp_path):
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), auxiliary=False, num_labels=2)
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    old = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    model, notes = start(str(tmp_path), ["wall", "crack"])
    assert "the model's have no names" in notes[0]
    assert torch.equal(model.decode_heads[0].classifier.weight, old.decode_heads[0].classifier.weight)
    _, notes = start(str(tmp_path), ["wall", "crack", "door"])
    assert "begins with random weights" in notes[0]

"""Weights that training is meant to begin with: what is missing, mis-shaped, damaged or changed is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.universal import config_of
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.data.classes import ClassFacts
from segzoo.heads import FCNHeadConfig
from segzoo.hub import save_model_folder
from segzoo.training.models import ModelRequest, NewModel, build_processor, load_config, start_model
from segzoo.training.recipes.groups import ModelOptions
from segzoo.universal import model_from_config
from segzoo.weight_hashes import HASHES, write_hashes

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
NAMES = ("sky", "road", "car", "pole", "tree")
DEEP = "[" * 10_000 + "]" * 10_000
MIT = SegformerConfig(
    depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8, num_labels=4
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound folder of a model with 5 classes, the first of which is called sky."""
    names = dict(enumerate(NAMES))
    config = SegZooConfig.from_backbone(
        ResNetConfig.tiny(),
        auxiliary_channels=8,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    folder = tmp_path_factory.mktemp("m") / "whole"
    model = SegZooForSemanticSegmentation(config)
    save_model_folder(model, SegZooImageProcessor(do_resize=False), folder)
    model.backbone.save_pretrained(folder / "backbone")
    write_hashes(folder / "backbone")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def begin(folder, names=("sky", "road", "car"), **options):
    """What training does first with ``--model_name_or_path``."""
    classes = ClassFacts(dict(enumerate(names)), [[0, 0, 0]] * len(names))
    load_config(str(folder), {})
    built = start_model(classes, ModelOptions(), ModelRequest(model_name_or_path=str(folder), **options))
    if (folder / PREPROCESSOR).exists():
        build_processor(built.model, classes, image_processor_name=str(folder))
    return built


def begin_around(backbone, **options):
    """What training does first with ``--backbone``."""
    classes = ClassFacts({0: "sky", 1: "road"}, [[0, 0, 0]] * 2)
    return start_model(classes, ModelOptions(), ModelRequest(new=NewModel(str(backbone), "fcn", 8), **options))


def refused(start, message, folder):
    with pytest.raises(SegZooError, match=message) as caught:
        start(folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700 and folder.name in said, said


def edit(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def edit_weights(folder, change):
    """Change the weights, with no hash that would tell."""
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / HASHES).unlink(missing_ok=True)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


KERNEL = "backbone.stem.0.conv.weight"
BROKEN = {
    "config-garbage": (lambda f: (f / CONFIG).write_bytes(b"\xff" * 99), CONFIG),
    "config-deep": (lambda f: (f / CONFIG).write_text(DEEP), CONFIG),
    "config-list": (lambda f: (f / CONFIG).write_text("[1]"), CONFIG),
    "heads-number": (lambda f: edit(f / CONFIG, decode_head_configs=3), CONFIG),
    "names": (lambda f: edit(f / CONFIG, id2label={"0": "a", "1": None}, label2id=None), "class 1 is no text|config.json"),
    "processor-deep": (lambda f: (f / PREPROCESSOR).write_text(DEEP), PREPROCESSOR),
    "std-0": (lambda f: edit(f / PREPROCESSOR, image_std=[1, 0, 1]), r"image_std=.1, 0, 1. must be finite numbers above 0"),
    "mean-nan": (lambda f: edit(f / PREPROCESSOR, image_mean=[float("nan"), 0, 0]), "image_mean=.* must be finite"),
    "cut": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), WEIGHTS),
    "garbage": (lambda f: (f / WEIGHTS).write_bytes(b"\x99" * 999), WEIGHTS),
    "missing-file": (lambda f: (f / WEIGHTS).unlink(), "the weights|model.safetensors"),
    "flipped": (lambda f: flip(f / WEIGHTS), f"{WEIGHTS} is damaged or was changed.*--no_verify"),
    "missing": (lambda f: edit_weights(f, lambda s: s.pop(KERNEL)), f"1 weights are missing .{KERNEL}"),
    "head-missing": (
        lambda f: edit_weights(f, lambda s: [s.pop(key) for key in list(s) if key.startswith("decode_heads")]),
        r"weights are missing .decode_heads\.0",
    ),
    "left-over": (lambda f: edit_weights(f, lambda s: s.update(strange=torch.ones(1))), "unknown to the model .strange"),
    "other-shape": (
        lambda f: edit_weights(f, lambda s: s.update({KERNEL: s[KERNEL][:-1].clone()})),
        f"1 weights are of another shape .{KERNEL}",
    ),
    "nan": (lambda f: edit_weights(f, lambda s: s[KERNEL].view(-1)[3:4].fill_(float("nan"))), f"{KERNEL} holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder(case, folder):
    break_it, message = BROKEN[case]
    break_it(folder)
    refused(begin, message, folder)


@pytest.mark.parametrize("case", ["flipped", "missing", "left-over", "other-shape", "nan"])
def test_a_broken_folder_for_the_same_classes(case, folder):
    break_it, message = BROKEN[case]
    break_it(folder)
    refused(lambda f: begin(f, NAMES), message, folder)


def test_changed_weights_are_taken_with_no_verify_and_a_folder_without_hash_with_a_line(folder, caplog):
    flip(folder / WEIGHTS)
    assert begin(folder, verify=False).notes[0].startswith("classifier: the 3 classes are the model's")
    assert not caplog.records
    (folder / HASHES).unlink()
    begin(folder)
    assert [record.message.count("\n") for record in caplog.records] == [0] and HASHES in caplog.text


def test_a_backbone_folder(folder, caplog):
    backbone = folder / "backbone"
    begin_around(backbone)
    flip(backbone / WEIGHTS)
    refused(
        begin_around, "--backbone .*backbone: cannot be loaded: model.safetensors is damaged or was changed", backbone
    )
    begin_around(backbone, verify=False)
    assert not caplog.records
    edit_weights(backbone, lambda s: s["stem.0.conv.weight"].fill_(float("inf")))
    refused(begin_around, "the weight stem.0.conv.weight holds NaN or infinite", backbone)
    edit_weights(backbone, lambda s: s.pop("stem.0.conv.weight"))
    refused(begin_around, "1 weights are missing .stem.0.conv.weight", backbone)
    (backbone / WEIGHTS).write_bytes(b"\x99" * 999)
    refused(begin_around, "does not load as a backbone .model.safetensors", backbone)


def test_a_classifier_of_transformers_gets_a_new_head_and_says_so(tmp_path):
    torch.manual_seed(0)
    model = SegformerForImageClassification(MIT)
    model.save_pretrained(tmp_path)
    built = begin(tmp_path, ["a", "b"])
    assert len(built.notes) == 1
    assert built.notes[0].startswith("head: decode_head begins with random weights: ")
    assert built.notes[0].endswith("is a SegformerForImageClassification, without such a head")
    own = model.segformer.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in built.model.segformer.state_dict().items())
    # As many classes whose names are none: they are not taken to be the classifier's.
    assert begin(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]).notes == built.notes
    edit_weights(tmp_path, lambda s: s.pop("segformer.stages.0.layer_norm.weight", s.pop(sorted(s)[-1])))
    refused(lambda f: begin(f, ["a", "b"]), "1 weights are missing .segformer", tmp_path)


def test_a_segmenting_model_of_transformers_must_bring_its_head(tmp_path):
    SegformerForSemanticSegmentation(MIT).save_pretrained(tmp_path)
    assert [note.partition(":")[0] for note in begin(tmp_path, ["a", "b"]).notes] == ["classifier"]
    edit_weights(tmp_path, lambda s: [s.pop(key) for key in list(s) if key.startswith("decode_head")])
    for names in (["a", "b"], ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]):
        refused(lambda f, names=names: begin(f, names), "weights are missing .decode_head", tmp_path)


def test_a_backbone_of_transformers_says_that_its_norms_are_new(tmp_path):
    model = ConvNextForImageClassification(ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16]))
    model.save_pretrained(tmp_path)
    notes = begin_around(tmp_path).notes
    assert len(notes) == 2 and "norms of its maps begin anew" in notes[1] and "hidden_states_norms" in notes[1]
    edit_weights(tmp_path, lambda s: s.pop("convnext.embeddings.patch_embeddings.weight"))
    refused(begin_around, "1 weights are missing .embeddings.patch_embeddings.weight", tmp_path)


def test_a_universal_model(tmp_path):
    model_from_config(config_of("maskformer")).save_pretrained(tmp_path)
    assert [note.partition(":")[0] for note in begin(tmp_path, ["a", "b"]).notes] == ["classifier"]
    edit_weights(tmp_path, lambda s: s.pop("mask_embedder.0.0.weight"))
    refused(lambda f: begin(f, ["a", "b"]), "1 weights are missing .mask_embedder", tmp_path)


def test_another_config_may_have_another_head(folder, tmp_path):
    config = SegZooConfig.from_pretrained(folder)
    other = SegZooConfig.from_backbone(
        config.backbone_config, FCNHeadConfig(channels=8), auxiliary=False, num_labels=5
    )
    other.save_pretrained(tmp_path / "other")
    notes = begin(folder, ["a", "b"], config_name=str(tmp_path / "other")).notes
    assert len(notes) == 1 and notes[0].startswith(
        "head: decode_heads.0 begins with random weights: the config has other"
    )
    other.backbone_config.stem_channels *= 2
    other.save_pretrained(tmp_path / "wider")
    refused(lambda f: begin(f, ["a", "b"], config_name=str(tmp_path / "wider")), "of another shape .backbone", folder)


@pytest.mark.slow
def test_the_command(start, tiny, tmp_path):
    changed = shutil.copytree(tiny, tmp_path / "changed")
    flip(changed / WEIGHTS)
    run = start(model_name_or_path=changed)
    assert run.wait() == 1
    assert run.stderr.count("\n") == 1 and f"{WEIGHTS} is damaged or was changed" in run.stderr

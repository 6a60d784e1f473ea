from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from transformers import ResNetConfig, SegformerConfig, UperNetConfig

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import InternViTBackbone, InternViTConfig, ResNetBackbone
from segzoo.backbones import ResNetConfig as OurResNetConfig
from segzoo.configuration_segzoo import input_channels
from segzoo.data import Augmentation
from segzoo.data.classes import ClassFacts
from segzoo.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segzoo.heads import STDCHeadConfig
from segzoo.layers import BatchNorm2d, ChannelNorm
from segzoo.losses import CrossEntropyLoss, DiceLoss
from segzoo.training import ModelOptions, NewModel, build_model, build_processor, training_transform
from segzoo.training.models import load_config, trained_in_float32

OLD = str(Path(__file__).parents[1] / "old_folders" / "training" / "tiny")
THREE = ClassFacts({0: "sky", 1: "road", 2: "car"}, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    model.save_pretrained(path)
    SegZooImageProcessor(do_reduce_labels=True, size={"shortest_edge": 32}).save_pretrained(path)
    return path


@pytest.mark.parametrize("head", ["uper", "fcn", "psp"])
def test_a_new_model(head):
    model = build_model(THREE, new=NewModel("resnet18_v1c", head, head_channels=8, auxiliary_channels=4))
    config = model.config
    assert config.id2label == THREE.id2label and config.palette == THREE.palette
    assert config.decode_head_configs[0].channels == 8 and config.auxiliary_head_configs[0].channels == 4
    assert {h.classifier.out_channels for h in (*model.decode_heads, *model.auxiliary_heads)} == {3}


def test_a_linear_head_reads_the_last_map_as_it_is():
    model = build_model(THREE, new=NewModel("resnet18_v1c", "linear", random_backbone=True))
    (head,) = model.decode_heads
    assert model.neck is None and head.config.channels == 512 and head.config.dropout == 0
    assert {name for name, _ in head.named_parameters()} == {
        f"{part}.{kind}" for part in ("norm", "classifier") for kind in ("weight", "bias")
    }


def test_a_new_model_around_a_backbone_with_weights(folder, tmp_path):
    backbone = SegZooForSemanticSegmentation.from_pretrained(folder).backbone
    backbone.save_pretrained(tmp_path / "backbone")
    model = build_model(THREE, new=NewModel(str(tmp_path / "backbone"), head_channels=8))
    state = model.backbone.state_dict()
    assert all((state[name] == value).all() for name, value in backbone.state_dict().items())


def test_an_internvit_fits_the_crops_and_trains_in_float32(tmp_path):
    encoder = InternViTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2.0, image_size=28)
    InternViTBackbone(encoder).to(torch.bfloat16).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="begins with"):
        model = build_model(THREE, new=NewModel(str(tmp_path), head_channels=8), crop_size=(42, 50))
    assert model.backbone.config.grid == model.config.backbone_config.grid == (3, 4)
    assert isinstance(model.neck.upsample_4x[1], ChannelNorm)
    assert model.backbone.dtype == torch.bfloat16
    model.backbone.requires_grad_(False)
    trained_in_float32(model)
    assert model.backbone.dtype == torch.bfloat16 and model.neck.dtype == torch.float32
    x, labels = torch.randn(2, 3, 42, 50), torch.randint(0, 3, (2, 42, 50))
    model.train()(x, labels=labels).loss.backward()
    assert model.neck.upsample_2x.weight.grad is not None
    model.backbone.requires_grad_(True)
    trained_in_float32(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_momentum_of_batch_norms(folder):
    def momenta(**options):
        model = build_model(THREE, ModelOptions(**options), model_name_or_path=folder)
        return {module.momentum for module in model.modules() if isinstance(module, BatchNorm2d)}

    assert momenta() == {0.1}
    assert momenta(norm_momentum=0.001) == {0.001}


def test_another_number_of_classes(folder):
    options = ModelOptions(class_weights=[1, 2, 3])
    model = build_model(THREE, options, model_name_or_path=str(folder), ignore_index=9)
    old = SegZooForSemanticSegmentation.from_pretrained(folder)
    assert model.config.num_labels == 3 and model.config.semantic_loss_ignore_index == 9
    assert model.config.palette == THREE.palette
    assert model.decode_heads[0].classifier.out_channels == 3
    assert model.decode_heads[0].losses == (CrossEntropyLoss(class_weights=(1, 2, 3)),)
    assert (model.backbone.stem[0].conv.weight == old.backbone.stem[0].conv.weight).all()


def test_heads_of_other_outputs_keep_their_losses(tmp_path):
    config = SegZooConfig.tiny()
    config.auxiliary_head_configs.append(STDCHeadConfig(in_index=[0], channels=8))
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    options = ModelOptions(auxiliary_losses=[{"type": "dice"}], class_weights=[1, 2, 3])
    first, boundaries = build_model(THREE, options, model_name_or_path=str(tmp_path)).auxiliary_heads
    assert first.losses == (DiceLoss(class_weights=(1, 2, 3)),)
    assert boundaries.losses == (CrossEntropyLoss(sigmoid=True), DiceLoss())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --backbone"),
        ({"new": NewModel("resnet18"), "model_name_or_path": "x"}, "either --backbone"),
        ({"new": NewModel("resnet19")}, "none of the variants"),
        ({"new": NewModel("resnet18", head="nothing")}, "there is no such head; choose one of .*fcn.*linear"),
        ({"new": NewModel("resnet18", head="linear", head_channels=8)}, "leave --head_channels out"),
        ({"new": NewModel("resnet18"), "options": ModelOptions(class_weights=[1.0])}, "1 numbers for 3 classes"),
        ({"model_name_or_path": "/no/such/folder"}, "cannot load /no/such/folder"),
        (
            {"model_name_or_path": OLD, "num_channels": 4},
            "num_channels 4: .*training/tiny takes pictures of 3 channels",
        ),
        ({"config_name": OLD, "num_channels": 1}, "takes pictures of 3 channels; leave --num_channels out"),
    ],
)
def test_models_that_cannot_be(options, message):
    with pytest.raises(SegZooError, match=message):
        build_model(THREE, **options)


def test_a_backbone_in_place_of_a_model(tmp_path):
    ResNetBackbone(OurResNetConfig.tiny()).save_pretrained(tmp_path)
    for attempt in (lambda: build_model(THREE, model_name_or_path=str(tmp_path)), lambda: load_config(str(tmp_path))):
        with pytest.raises(SegZooError, match=f"this is a backbone .*`segzoo train --backbone {tmp_path}`"):
            attempt()


@pytest.mark.parametrize("backbone", ["resnet18_v1c", "vit-adapter-t"])
def test_a_new_model_for_other_pictures(backbone, tmp_path):
    with torch.device("meta"):
        model = build_model(
            THREE, new=NewModel(backbone, "fcn", head_channels=8, random_backbone=True), num_channels=4
        )
    assert input_channels(model.config) == 4
    assert next(p for p in model.parameters() if p.ndim == 4).shape[1] == 4
    model.config.save_pretrained(tmp_path)
    assert input_channels(SegZooConfig.from_pretrained(tmp_path)) == 4
    processor = build_processor(model, THREE)
    assert processor.num_channels == 4 and len(set(processor.image_mean)) == len(set(processor.image_std)) == 1
    transform = training_transform(processor)
    assert transform.num_channels == len(transform.mean) == len(transform.std) == 4
    rgb = build_processor(SegZooForSemanticSegmentation(SegZooConfig.tiny()), THREE)
    assert (tuple(rgb.image_mean), tuple(rgb.image_std)) == (IMAGENET_MEAN, IMAGENET_STD)


def test_weights_and_processors_for_other_pictures(folder, tmp_path):
    SegZooForSemanticSegmentation.from_pretrained(folder).backbone.save_pretrained(tmp_path / "backbone")
    with pytest.raises(SegZooError, match="num_channels 4: .*backbone takes pictures of 3 channels"):
        build_model(THREE, new=NewModel(str(tmp_path / "backbone")), num_channels=4)
    model = build_model(THREE, new=NewModel("resnet18_v1c", "fcn", head_channels=8), num_channels=1)
    with pytest.raises(SegZooError, match="reads pictures of 3 channels, and the model takes 1; .*image_mean"):
        build_processor(model, THREE, image_processor_name=str(folder))


def test_channels_of_models_of_transformers():
    segformer = SegformerConfig(num_channels=6)
    assert input_channels(segformer) == 6
    backbone = ResNetConfig(num_channels=5, out_features=["stage4"])
    assert input_channels(UperNetConfig(backbone_config=backbone)) == 5


def test_processor_of_a_new_model_leaves_pictures_at_their_size():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    processor = build_processor(model, THREE, ignore_index=7)
    assert not processor.do_resize and processor.ignore_index == 7
    assert training_transform(processor, Augmentation(crop_size=(32, 48)), ignore_index=7).steps[0].size is None
    scaled = build_processor(model, THREE, scale_size=(64, 96))
    assert scaled.do_resize and dict(scaled.size) == {"shortest_edge": 64, "longest_edge": 96}
    assert training_transform(scaled, Augmentation(crop_size=(32, 48))).steps[0].size == (64, 96)


def test_the_processor_pads_for_a_backbone_that_needs_it(folder):
    model = build_model(THREE, new=NewModel("unet_s5_d16", "fcn", head_channels=8, auxiliary_channels=4))
    for name in (None, folder):  # a new processor, and one of another model
        processor = build_processor(model, THREE, image_processor_name=name)
        assert (processor.size_multiple, processor.size_multiple_mode) == (16, "pad_pass")
    stretched = build_processor(model, THREE, size_divisor=32)
    assert (stretched.size_multiple, stretched.size_multiple_mode) == (32, "stretch")


def test_processor_of_an_old_model_takes_the_label_rule_of_the_data(folder):
    model = SegZooForSemanticSegmentation.from_pretrained(folder)
    processor = build_processor(model, THREE, image_processor_name=str(folder))
    assert not processor.do_reduce_labels and processor.do_resize
    transform = training_transform(processor, Augmentation(crop_size=32))
    assert transform.steps[0].size == (32, None) and not transform.reduce_labels


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 20, "width": 30}, (20, 30)),
        ({"shortest_edge": 40}, (40, None)),
        ({"longest_edge": 40}, (40, 40)),  # the long edge decides
        ({"shortest_edge": 50, "longest_edge": 40}, (40, 50)),
    ],
)
def test_the_scale_of_the_processor_is_that_of_the_training(size, expected):
    processor = SegZooImageProcessor(do_resize=True, size=size)
    scale = training_transform(processor, Augmentation(scale_range=(1, 1))).steps[0]
    assert scale.size == expected and scale.keep_ratio == ("height" not in size)
    target = processor(np.zeros((60, 80, 3), np.uint8), return_tensors="pt")["pixel_values"].shape[-2:]
    picture = tv_tensors.Image(torch.zeros(3, 60, 80, dtype=torch.uint8))
    assert scale(picture, None, np.random.default_rng(0))[0].shape[-2:] == target


@pytest.mark.parametrize("old", [True, False])
def test_one_class_is_refused_before_anything_is_read(folder, old):
    one = ClassFacts({0: "crack"}, [[255, 0, 0]])
    source = {"model_name_or_path": str(folder)} if old else {"new": NewModel("resnet18_v1c", "fcn", head_channels=8)}
    with pytest.raises(SegZooError, match="one class learns nothing"):
        build_model(one, **source)

"""What a name given to ``--backbone`` stands for, and the weights that it begins with; the Hub is on this machine."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save
from support.hub_server import HubServer, hub_of_this_process
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PoolFormerConfig,
    PvtConfig,
    SegformerConfig,
    SegformerForImageClassification,
    SiglipVisionConfig,
    SwinConfig,
    UperNetConfig,
    ViTConfig,
)

from segzoo import AutoBackbone, SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.auto import backbone_variants
from segzoo.backbones import MiTBackbone
from segzoo.backbones.stage_encoder import StageEncoderBackbone
from segzoo.conversion.published import backbones_of_transformers
from segzoo.data.classes import ClassFacts
from segzoo.training.backbones import new_backbone
from segzoo.training.models import ModelRequest, NewModel, build_model, start_model
from segzoo.training.recipes.groups import ModelOptions

THREE = ClassFacts({0: "sky", 1: "road", 2: "car"}, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
MIT = SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine that this process uses, with a cache of its own."""
    with HubServer() as server, hub_of_this_process(monkeypatch, server.endpoint, tmp_path):
        yield server


def start(backbone, *, random=False, **options):
    new = NewModel(backbone, "fcn", head_channels=8, random_backbone=random)
    return start_model(THREE, ModelOptions(), ModelRequest(new=new, **options))


def files_of(model, folder):
    """The files that ``save_pretrained`` writes."""
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.ones(1, model.config.backbone_config.num_channels, 64, 64)).logits


def test_a_variant_of_ours_with_published_weights(hub, tmp_path):
    state = timm.create_model("mobilenetv2_100").state_dict()
    hub.publish("timm/mobilenetv2_100.ra_in1k", {"model.safetensors": save(state)})
    options = {"hub_options": {"cache_dir": str(tmp_path / "here"), "token": None, "revision": "main"}}
    for name in ("mobilenetv2", "mobilenetv2_mit_d8"):
        built = start(name, **options)
        assert built.backbone_weights == "timm/mobilenetv2_100.ra_in1k"
        assert built.notes == [f"backbone: {name} begins with the weights of timm/mobilenetv2_100.ra_in1k"]
        assert torch.equal(built.model.backbone.stem.conv.weight, state["conv_stem.weight"])
    grey = start("mobilenetv2", num_channels=1, **options).model.backbone.stem.conv.weight
    assert torch.allclose(grey, state["conv_stem.weight"].sum(1, keepdim=True))
    built = start("mobilenetv2", random=True)
    assert built.backbone_weights == "random" and built.notes == [
        "backbone: mobilenetv2 begins with random weights, as asked"
    ]
    assert not torch.equal(built.model.backbone.stem.conv.weight, state["conv_stem.weight"])


def test_a_python_user_gets_the_same_and_a_warning():
    with pytest.warns(
        UserWarning, match="resnet18_v1c begins with random weights.*segzoo convert.*resnet18_v1c-b5776b93.pth"
    ):
        build_model(THREE, new=NewModel("resnet18_v1c", "fcn", head_channels=8))


def test_the_hub_does_not_have_or_give_the_weights(hub):
    for fault in (None, 403):
        if fault is not None:
            hub.answer_with(fault, "HEAD", ".*", times=99)
        with pytest.raises(
            SegZooError, match="weights timm/resnet18.tv_in1k cannot be .* Hub: .* --random_backbone"
        ) as caught:
            start("resnet18")
        assert "\n" not in str(caught.value)


def test_offline():
    with pytest.raises(
        SegZooError, match="--backbone vit-t: the weights timm/deit_tiny.* --random_backbone"
    ) as caught:
        start("vit-t")
    assert "\n" not in str(caught.value)
    with pytest.raises(
        SegZooError, match="--backbone convnextv2_nano: facebook/convnextv2-nano-22k-224 cannot be loaded"
    ):
        start("convnextv2_nano")
    with pytest.raises(SegZooError, match="--backbone test_resnet: timm's weights .* --random_backbone"):
        start("test_resnet")


def test_variants_without_published_weights_say_so():
    with torch.device("meta"):
        note = start("internimage-t").notes[0]
        assert "internimage-t begins with random weights" in note and note.endswith("internimage_t_1k_224.pth")
        assert start("resnet34_v1c").notes == [
            "backbone: resnet34_v1c begins with random weights: none are known that are published"
        ]


def test_a_short_name_of_transformers(hub, tmp_path):
    config = ConvNextV2Config(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16])
    model = ConvNextV2ForImageClassification(config)
    hub.publish("facebook/convnextv2-nano-22k-224", files_of(model, tmp_path / "model"))
    built = start("convnextv2_nano")
    assert built.backbone_weights == "facebook/convnextv2-nano-22k-224"
    kernel = "embeddings.patch_embeddings.weight"
    assert torch.equal(built.model.backbone.state_dict()[kernel], model.convnextv2.state_dict()[kernel])
    assert len(built.model.backbone.channels) == 4 and logits(built.model).shape[:2] == (1, 3)
    random = start("convnextv2_nano", random=True)
    assert random.backbone_weights == "random"
    assert not torch.equal(random.model.backbone.state_dict()[kernel], model.convnextv2.state_dict()[kernel])


@pytest.mark.parametrize("name", ["test_resnet", "timm/test_resnet"])
def test_a_model_of_timm(hub, tmp_path, name):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet")
    model.bn1.running_mean.normal_()
    hub.publish("timm/test_resnet.r160_in1k", {"model.safetensors": save(model.state_dict())})
    built = start(name)
    assert built.backbone_weights == "timm/test_resnet.r160_in1k"
    state = built.model.backbone._backbone.state_dict()
    assert torch.equal(state["bn1.running_mean"], model.bn1.running_mean)
    assert torch.equal(state["layer4.0.conv1.weight"], model.layer4[0].conv1.weight)
    assert built.model.config.backbone_config.out_indices == [1, 2, 3, 4]
    built.model.save_pretrained(tmp_path / "saved")
    loaded = SegZooForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(built.model))
    assert start(name, random=True, num_channels=4).backbone_weights == "random"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "it has maps of stride 16 only; take .* vit-b or dinov2_base"),
        ("vit_tiny_patch16_224", "timm gives no feature maps of this model for images of any size"),
        ("resnet10t.nothing", "timm gives no feature maps"),
        ("resnet19", "is none of the variants"),
    ],
)
def test_names_that_stand_for_no_backbone(name, message):
    with pytest.raises(SegZooError, match=f"--backbone {name}: {message}"):
        new_backbone(name, hub_options={})


def test_a_mit_begins_with_what_transformers_publishes(hub, tmp_path):
    """The file of a repository is a pickle, where it has no other."""
    model = SegformerForImageClassification(SegformerConfig())
    model.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    hub.publish("nvidia/mit-b0", {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    built = start("mit_b0")
    assert built.backbone_weights == "nvidia/mit-b0" and isinstance(built.model.backbone, MiTBackbone)
    count = sum(p.numel() for p in model.segformer.parameters())
    assert sum(p.numel() for p in built.model.backbone.parameters()) == count
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.segformer.eval()(pixels, output_hidden_states=True).hidden_states
        for found, wanted in zip(built.model.backbone.eval()(pixels).feature_maps, expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-3)  # the epsilons are its authors', not transformers'


def test_segformers_encoder(hub, tmp_path):
    model = SegformerForImageClassification(MIT)
    hub.publish("nvidia/mit-b0", files_of(model, tmp_path / "model"))
    for name in ("nvidia/mit-b0", str(tmp_path / "model")):
        built = start(name)
        assert isinstance(built.model.backbone, StageEncoderBackbone)
        own = model.segformer.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in built.model.backbone.encoder.state_dict().items())
    assert built.backbone_weights == "the folder model"
    built.model.save_pretrained(tmp_path / "saved")
    loaded = SegZooForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(built.model))
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.segformer.eval()(pixels, output_hidden_states=True).hidden_states
        assert all(map(torch.equal, loaded.backbone.eval()(pixels).feature_maps, expected))


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PoolFormerConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16]), None),
        (SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4), None),
        (PvtConfig(), "no backbone of the type 'pvt'; take pvt_v2_b2 instead"),
        (ViTConfig(**SMALL), "no backbone of the type 'vit'; take vit-s, vit-b or vit-l instead"),
        (CLIPVisionConfig(**SMALL), "no backbone of the type 'clip_vision_model'; take vit-b or dinov2_base instead"),
        (SiglipVisionConfig(**SMALL), "type 'siglip_vision_model'; take"),
        (
            UperNetConfig(backbone_config=SwinConfig(out_features=["stage4"])),
            "a whole model is for --model_name_or_path",
        ),
        (SegZooConfig.tiny(), "a whole model is for --model_name_or_path"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_encoders_of_transformers_work_or_are_refused_in_a_line(config, message, tmp_path):
    if message is None:
        AutoModel.from_config(config).save_pretrained(tmp_path)
        assert logits(start(str(tmp_path)).model).shape[:2] == (1, 3)
        return
    config.save_pretrained(tmp_path)
    with pytest.raises(SegZooError, match=message) as caught:
        start(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_backbone_is_no_model(tmp_path):
    AutoBackbone.from_config(backbone_variants()["resnet18"].variant_config("resnet18")).save_pretrained(tmp_path)
    with pytest.raises(
        SegZooError, match="this is a backbone .segzoo_resnet., without a head that segments; `segzoo train --backbone"
    ):
        build_model(THREE, model_name_or_path=str(tmp_path))


def test_short_names_are_ours_or_anothers():
    """A name of the table is not a variant of ours; a variant would hide it."""
    assert not backbones_of_transformers().keys() & backbone_variants().keys()
    assert json.dumps(dict(backbones_of_transformers()))

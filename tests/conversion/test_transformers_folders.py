"""A SegFormer of transformers becomes ours with the same maps, and goes back."""

import json

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    ConvNextConfig,
    ResNetConfig,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import segzoo
from segzoo.commands.cli import main
from segzoo.compat import SWIN_IS_NAMED_AS_WRITTEN
from segzoo.conversion import ConversionError, convert_checkpoint

SIZES = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4], "depths": [2, 1, 1, 1]}


def theirs(**options):
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(**SIZES, decoder_hidden_size=16, **options)).eval()
    return settled(model)


def settled(model):
    torch.manual_seed(0)
    for name, tensor in model.eval().state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else 0.3 * torch.randn_like(tensor))
    return model


def test_there_and_back(tmp_path, capsys):
    model = theirs(id2label={0: "sky", 1: "road", 2: "car"}, label2id={"sky": 0, "road": 1, "car": 2})
    model.save_pretrained(tmp_path / "theirs")
    settings = SegformerImageProcessor(size={"height": 64, "width": 96}, do_reduce_labels=True)
    settings.save_pretrained(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")]) == 0
    ours, processor = segzoo.load(tmp_path / "ours")
    assert ours.config.id2label == {0: "sky", 1: "road", 2: "car"} and processor.do_reduce_labels
    picture = torch.randint(0, 256, (3, 75, 109), dtype=torch.uint8)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    assert (pixels - settings(picture, return_tensors="pt")["pixel_values"]).abs().max() < 0.02  # they round to bytes
    pixels = torch.randn(2, 3, 75, 109)
    with torch.no_grad():
        wanted = model(pixels, output_hidden_states=True)
        maps = ours.backbone(pixels).feature_maps
        logits = ours(pixels).logits
    for found, expected in zip((*maps, logits), (*wanted.hidden_states, wanted.logits), strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()

    command = ["convert", str(tmp_path / "ours"), "--to_transformers", "--output", str(tmp_path / "back")]
    assert main(command) == 0
    back = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert back.config.id2label == model.config.id2label
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    again = AutoImageProcessor.from_pretrained(tmp_path / "back")
    assert dict(again.size) == dict(settings.size) and again.do_reduce_labels
    assert "back: a model of transformers" in capsys.readouterr().out


STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = SwinConfig(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=3, out_features=STAGES)
CONVNEXT = ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 2, 1, 1], out_features=STAGES)


def upernet(backbone, *, auxiliary=True):
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_in_channels=32,
        auxiliary_channels=8,
        use_auxiliary_head=auxiliary,
        num_labels=3,
    )
    return settled(UperNetForSemanticSegmentation(config))


@pytest.mark.parametrize(("backbone", "auxiliary"), [(SWIN, True), (SWIN, False), (CONVNEXT, True)])
def test_upernet(backbone, auxiliary, tmp_path):
    """There and back, with the same maps and logits; auxiliary heads are there for training."""
    model = upernet(backbone, auxiliary=auxiliary)
    model.save_pretrained(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")]) == 0
    ours, _ = segzoo.load(tmp_path / "ours")
    assert [head.losses[0]["weight"] for head in ours.config.auxiliary_head_configs] == [0.4] * auxiliary
    pixels = torch.randn(2, 3, 75, 109)
    with torch.no_grad():
        logits, wanted = ours(pixels).logits, model(pixels).logits
        wanted = model.decode_head(model.backbone(pixels).feature_maps)  # before they are resized to the pictures
        maps = ours.forward_maps(pixels)[0]
        pairs = [*zip(maps, model.backbone(pixels).feature_maps, strict=True), (logits, wanted)]
    for found, expected in pairs:
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()

    done = main(["convert", str(tmp_path / "ours"), "--to_transformers", "--output", str(tmp_path / "back")])
    if backbone is SWIN and not SWIN_IS_NAMED_AS_WRITTEN:
        assert done != 0
        return
    assert done == 0
    back = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "back")
    state = {name: value for name, value in model.state_dict().items() if "swin.layernorm" not in name}  # never run
    found = back.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_files_of_the_first_versions(tmp_path):
    theirs(num_labels=4).save_pretrained(tmp_path / "theirs")
    old = {"feature_extractor_type": "SegformerFeatureExtractor", "size": 128, "reduce_labels": True, "resample": 2}
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(old))
    convert_checkpoint(tmp_path / "theirs", output=tmp_path / "ours", class_names=["a", "b", "c", "d"])
    model, processor = segzoo.load(tmp_path / "ours")
    assert dict(processor.size) == {"height": 128, "width": 128} and processor.do_reduce_labels
    assert model.config.id2label[3] == "d"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "relu", "num_labels": 3}, "hidden_act='relu' is not supported"),
        ({"num_labels": 1}, "a model with one output is not supported"),
    ],
)
def test_what_is_refused(options, message, tmp_path):
    theirs(**options).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(tmp_path / "theirs", output=tmp_path / "ours")


def test_a_classifier_and_a_folder_without_weights(tmp_path):
    SegformerForImageClassification(SegformerConfig(**SIZES)).save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        ConversionError, match="a SegformerForImageClassification, which has no decode head.*--backbone"
    ):
        convert_checkpoint(tmp_path / "theirs", output=tmp_path / "ours")
    (tmp_path / "theirs/model.safetensors").unlink()
    with pytest.raises(ConversionError, match="neither model.safetensors nor pytorch_model.bin"):
        convert_checkpoint(tmp_path / "theirs", output=tmp_path / "ours")


def test_a_model_that_transformers_lacks(tmp_path, capsys):
    segzoo.SegZooForSemanticSegmentation(segzoo.SegZooConfig.tiny()).save_pretrained(tmp_path / "ours")
    segzoo.SegZooImageProcessor().save_pretrained(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), "--to_transformers", "--output", str(tmp_path / "back")]) != 0
    assert "only a MiT with SegFormer's head alone" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_upernets_that_one_side_lacks(tmp_path, capsys):
    upernet(CONVNEXT).save_pretrained(tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", output=tmp_path / "ours")
    config = tmp_path / "ours/config.json"
    values = json.loads(config.read_text())
    command = ["convert", str(tmp_path / "ours"), "--to_transformers", "--output"]
    values["backbone_config"]["downsample_norm_eps"] = 1e-5
    config.write_text(json.dumps(values))
    assert main([*command, str(tmp_path / "back")]) == 0
    assert "ConvNeXt has an epsilon of 1e-06 in all of them" in capsys.readouterr().err
    values["backbone_config"]["norm_eps"] = 1e-5
    config.write_text(json.dumps(values))
    assert main([*command, str(tmp_path / "again")]) != 0
    assert "this model has another form" in capsys.readouterr().err
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1] * 4, out_features=STAGES)
    upernet(resnet).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ConversionError, match="a UPerNet with a 'resnet' is not supported"):
        convert_checkpoint(tmp_path / "resnet", output=tmp_path / "none")

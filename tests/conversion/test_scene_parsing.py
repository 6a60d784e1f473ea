"""MIT's scene-parsing models: two files without a config, recognised by names, YAML or weights."""

import hashlib
import json

import pytest
import torch
from parity import synthesis
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import segzoo  # noqa: F401  registers
from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.reading.configs import read_config_file
from segzoo.conversion.scene_parsing import (
    DECODER,
    DECODERS,
    ENCODER,
    ENCODERS,
    config_from_weights,
    translate_scene_parsing,
)
from segzoo.conversion.two_files import read_two_files
from segzoo.conversion.weights import match_weights, original_state_dict

MOBILENET = "ade20k-mobilenetv2dilated-c1_deepsup"
RELEASED = [row.name for row in zoo.rows().values() if row.system == "CSAIL"]


def config(encoder, decoder, **data):
    return {"MODEL": {"arch_encoder": encoder, "arch_decoder": decoder}, "DATASET": {"num_class": 150} | data}


def original_keys(encoder, decoder, num_class=150):
    """The original state dict, on the meta device."""
    translation = translate_scene_parsing(config(encoder, decoder, num_class=num_class))
    model = build_without_weights(translation.config)
    return original_state_dict(model.state_dict(), translation.components)


def save(folder, state, *, epoch=20, **options):
    """Writes the two files; returns their paths."""
    paths = []
    for part in (ENCODER, DECODER):
        values = {
            key.removeprefix(part): synthesis.tensor(key.removeprefix(part), tuple(value.shape))
            for key, value in state.items()
            if key.startswith(part)
        }
        paths.append(folder / f"{part.removesuffix('.')}_epoch_{epoch}.pth")
        torch.save(values, paths[-1], **options)
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save(tmp_path_factory.mktemp("mit"), original_keys("mobilenetv2dilated", "c1_deepsup"))


def logits(folder):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(synthesis.image("small", [1, 3, 64, 72])).logits


HEAVY = ("hrnetv2", "resnet50dilated", "resnet101", "resnet101dilated")


@pytest.mark.parametrize(
    "encoder", [pytest.param(e, marks=[pytest.mark.slow] if e in HEAVY else []) for e in ENCODERS]
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_sensible_pair_builds(encoder, decoder):
    if encoder == "hrnetv2" and decoder.endswith("deepsup"):
        with pytest.raises(ConversionError, match="last map but one"):
            translate_scene_parsing(config(encoder, decoder))
        return
    translation = translate_scene_parsing(config(encoder, decoder))
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config).eval()
        maps, _ = model.forward_maps(torch.empty(2, 3, 64, 96))
        outputs = [head(maps).logits for head in (*model.decode_heads, *model.auxiliary_heads)]
    stride = 4 if encoder == "hrnetv2" or decoder.startswith("upernet") else 8 if "dilated" in encoder else 32
    assert outputs[0].shape == (2, 150, 64 // stride, 96 // stride)
    assert len(outputs) == 1 + decoder.endswith("deepsup")
    keys = original_state_dict(model.state_dict(), translation.components)
    native, match = match_weights(dict.fromkeys(keys, torch.empty(0)), translation.components, model.state_dict())
    assert set(native) == set(model.state_dict()) and not match.unexpected and not match.doubled


@pytest.mark.parametrize("name", RELEASED)
def test_released_rows(name):
    row = zoo.find(name)
    assert name == f"ade20k-{row.backbone}-{row.method}"
    translation = translate_scene_parsing(zoo.original_config(name))
    model = build_without_weights(translation.config)
    assert sum(p.numel() for p in model.parameters()) == row.parameters
    assert translation.config.id2label[0] == "wall" and len(translation.config.palette) == 150
    multiple = 32 if row.method in ("upernet", "c1") else 8
    expected = {
        "size": {"shortest_edge": 450, "longest_edge": 1000},
        "size_multiple": multiple,
        "size_multiple_mode": "round_up",
        "rounding": "down",
        "antialias": True,
        "do_reduce_labels": True,
        "resize_logits_to_input": False,
    }
    assert {key: translation.processor[key] for key in expected} == expected
    own = translation.config
    assert own.backbone_config.norm_momentum == (0.1 if row.backbone == "hrnetv2" else 0.001)
    assert {head.norm_momentum for head in (*own.decode_head_configs, *own.auxiliary_head_configs)} == {0.001}


class TestFindingTheModel:
    @pytest.mark.parametrize(
        ("encoder", "decoder"),
        [
            ("mobilenetv2dilated", "ppm"),
            ("hrnetv2", "c1"),
            ("mobilenetv2dilated", "c1_deepsup"),
            ("hrnetv2", "upernet_lite"),
        ],
    )
    def test_from_the_weights(self, encoder, decoder):
        state = original_keys(encoder, decoder, num_class=7)
        assert config_from_weights(state, "a.pth") == config(encoder, decoder, num_class=7)

    @pytest.mark.parametrize(
        ("encoder", "decoder", "hint"),
        [
            ("resnet18", "ppm_deepsup", "ade20k-resnet18dilated-ppm_deepsup"),
            ("resnet50", "upernet", "ade20k-resnet50-upernet"),
            ("resnet101dilated", "c1", "--config"),
        ],
    )
    def test_a_resnet_does_not_tell_its_dilations(self, encoder, decoder, hint):
        plain = encoder.removesuffix("dilated")
        with pytest.raises(ConversionError, match=f"a.pth: .*{plain} and {plain}dilated alike.*{hint}"):
            config_from_weights(original_keys(encoder, decoder), "a.pth")

    def test_not_of_such_a_model(self):
        assert config_from_weights({"decode_head.conv_seg.weight": torch.ones(2)}, "a.pth") is None
        assert config_from_weights({"encoder.layer1.0.conv1.weight": torch.ones(2)}, "a.pth") is None

    def test_yaml(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(
            "DATASET:\n  num_class: 3\n  imgSizes: (200, 300, 400)\n  imgMaxSize: 800\n  padding_constant: 16\n"
            'MODEL:\n  arch_encoder: "resnet18dilated"\n  arch_decoder: "PPM"\n  fc_dim: 512\nTRAIN:\n  lr_pow: 0.9\n'
        )
        translation = translate_scene_parsing(read_config_file(path))
        assert translation.config.num_labels == 3 and translation.config.id2label[2] == "LABEL_2"
        assert translation.processor["size"] == {"shortest_edge": 300, "longest_edge": 800}
        assert translation.processor["size_multiple"] == 16 and translation.notes

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (config("resnet34", "c1"), "arch_encoder='resnet34' is not supported"),
            (config("resnet50", "psp"), "arch_decoder='psp' is not supported"),
            (config("resnet50", "c1", num_class=1), "num_class=1"),
            (config("resnet50", "c1", imgSizes="os.system()"), "imgSizes"),
            (config("resnet50", "c1", imgSizes=[]), "imgSizes"),
            (config("resnet50", "c1", imgSizes=[300, "a"]), "imgSizes"),
            (config("resnet50", "c1", imgSizes=-1), "shortest_edge=-1"),
            (config("resnet50", "c1", imgMaxSize="1e3"), "longest_edge"),
            ({"MODEL": {"arch_encoder": "resnet50"}}, "'arch_decoder' is missing"),
        ],
    )
    def test_configs_that_do_not_fit(self, values, words):
        with pytest.raises(ConversionError, match=words):
            translate_scene_parsing(values)


class TestTwoFiles:
    def test_by_name(self, files, tmp_path):
        done = convert_checkpoint(*files, output=tmp_path / "out", name=MOBILENET)
        assert done.report.zoo_name == MOBILENET and done.report.config_source == f"the zoo ({MOBILENET})"
        values = json.loads((tmp_path / "out" / "config.json").read_text())
        assert values["id2label"]["3"] == "floor" and values["palette"][0] == [120, 120, 120]
        assert AutoImageProcessor.from_pretrained(tmp_path / "out").size.shortest_edge == 450
        card = (tmp_path / "out" / "README.md").read_text()
        assert "34.84" in card and "33.84" in card and "and flip" not in card and "BSD-3-Clause" in card
        assert "decoder_epoch_20.pth" in card and "not the mean of its mIoU and pixel accuracy" in card
        for path in files:
            assert hashlib.sha256(path.read_bytes()).hexdigest() in card

    def test_old_format_and_bookkeeping_change_nothing(self, files, tmp_path):
        convert_checkpoint(*files, output=tmp_path / "new")
        state = original_keys("mobilenetv2dilated", "c1_deepsup")
        bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        (tmp_path / "old").mkdir()
        old = save(tmp_path / "old", bare, _use_new_zipfile_serialization=False)
        full = dict(state)
        for key, value in state.items():
            if key.endswith("running_mean"):
                norm = key.removesuffix("running_mean")
                full |= {
                    f"{norm}_tmp_running_mean": value,
                    f"{norm}_tmp_running_var": value,
                    f"{norm}_running_iter": value[:1],
                }
        (tmp_path / "full").mkdir()
        written = save(tmp_path / "full", full)
        expected = logits(tmp_path / "new")
        for name, pair in (("a", old), ("b", written)):
            done = convert_checkpoint(*pair, output=tmp_path / name)
            assert done.report.config_source == "the names and shapes of the weights"
            assert torch.equal(logits(tmp_path / name), expected)
        assert len(done.report.keys.left_out) == len(full) - len(state)

    def test_swapped(self, files, tmp_path):
        with pytest.raises(
            ConversionError, match="decoder_epoch_20.pth: this is a decoder; the two files are swapped"
        ):
            convert_checkpoint(*reversed(files), output=tmp_path / "out")

    def test_the_same_file_twice(self, files, tmp_path):
        with pytest.raises(ConversionError, match="decoder_epoch_20.pth: this is a decoder, as"):
            convert_checkpoint(files[1], files[1], output=tmp_path / "out")
        with pytest.raises(ConversionError, match="and this is none"):
            convert_checkpoint(files[0], files[0], output=tmp_path / "out")

    def test_one_is_missing(self, files, tmp_path):
        with pytest.raises(ConversionError, match="this is the decoder.*give the encoder's file and then this one"):
            convert_checkpoint(files[1], output=tmp_path / "out")
        with pytest.raises(ConversionError, match="published in two files; give the decoder's too"):
            convert_checkpoint(files[0], output=tmp_path / "out", name=MOBILENET)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("ade20k-mobilenetv2dilated-ppm_deepsup", "missing: decoder.ppm.0.1.weight"),
            ("fcn_r50-d8_512x512_160k_ade20k", "come in one file"),
        ],
    )
    def test_another_models_name(self, files, tmp_path, name, words):
        with pytest.raises(ConversionError, match=words):
            convert_checkpoint(*files, output=tmp_path / "out", name=name)
        assert not (tmp_path / "out").exists()

    def test_other_classes(self, files, tmp_path):
        path = tmp_path / "mine.yml"
        path.write_text(
            "MODEL: {arch_encoder: mobilenetv2dilated, arch_decoder: c1_deepsup}\nDATASET: {num_class: 5}\n"
        )
        with pytest.raises(ConversionError, match="class counts disagree: the config has 5 classes"):
            convert_checkpoint(*files, output=tmp_path / "out", config=path)

    def test_the_average_is_taken_from_both(self, files, tmp_path):
        paths = []
        for path in files:
            state = torch.load(path)
            average = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
            paths.append(tmp_path / path.name)
            torch.save({"state_dict": state, "ema_state_dict": average}, paths[-1])
        plain, averaged = read_two_files(*paths), read_two_files(*paths, prefer_ema=True)
        for key in ("encoder.features.0.0.weight", "decoder.conv_last.weight"):
            assert torch.equal(averaged.state_dict[key], plain.state_dict[key] + 1)
        done = convert_checkpoint(*paths, output=tmp_path / "out", ema=True)
        assert any("moving average" in note for note in done.report.notes)
        with pytest.raises(ConversionError, match="no moving average"):
            convert_checkpoint(*files, output=tmp_path / "none", ema=True)

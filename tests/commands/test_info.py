"""``segzoo info``, and the counter behind it against hand-made counts and the publishers' tables."""

import json

import pytest
import torch
from conversion import tiny
from support.contract import pairs_of_parts, tiny_composite

from segzoo import zoo
from segzoo.backbones.internimage import DeformableConv, InternImageConfig
from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.flops import count_operations, count_parameters
from segzoo.ops import ms_deform_attn


def tiny_model():
    return build_without_weights(translate_config(tiny.config()).config)


class TestCounter:
    def test_convolutions(self):
        """Of each convolution by its weights and the size of its output, as hooks see them."""
        model, by_hand = tiny_model().eval(), 0

        def add(module, inputs, output):
            nonlocal by_hand
            by_hand += module.weight.numel() * output.shape[-2] * output.shape[-1]

        hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        counted = count_operations(model, (64, 96))
        for hook in hooks:
            hook.remove()
        assert counted.multiply_adds == by_hand > 0 and counted.flops == 2 * by_hand
        assert set(counted.by_operator) == {"aten.convolution"}

    @pytest.mark.parametrize("remove_center", [False, True])
    def test_dcnv3(self, remove_center):
        """Its publishers count 5 for each sampled value; the layers around it are matrix products."""
        config = InternImageConfig(channels=16, groups=[2, 2, 2, 2], remove_center=remove_center)
        with torch.device("meta"):
            layer = DeformableConv(config, 16, 2)
        layer.config = config

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.config = layer, config

            def forward(self, pixel_values):
                return self.layer(pixel_values.new_empty(1, 10, 12, 16))

        counted = count_operations(Model(), (10, 12)).by_operator
        points = 8 if remove_center else 9
        assert counted["segzoo.dcnv3"] == 5 * (10 * 12) * points * 16
        linear = sum(m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))
        assert counted["aten.addmm"] == 10 * 12 * linear

    def test_ms_deform_attn(self):
        class Model(torch.nn.Module):
            config = InternImageConfig()

            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))

            def forward(self, pixel_values):
                new = pixel_values.new_empty
                return ms_deform_attn(new(1, 20, 3, 8), [(4, 4), (2, 2)], new(1, 7, 3, 2, 5, 2), new(1, 7, 3, 2, 5))

        assert count_operations(Model(), (8, 8)).by_operator == {"segzoo.ms_deform_attn": 5 * 7 * 3 * 2 * 5 * 8}

    @pytest.mark.parametrize(
        "size", ["t", *(pytest.param(size, marks=pytest.mark.slow) for size in ("s", "b", "l", "xl", "h"))]
    )
    def test_published_figures_of_internimage(self, size):
        """They count a multiply-add once, at 512x2048 (640x2560 for L and XL, 896x896 for H)."""
        row = next(r for r in zoo.rows().values() if r.name.startswith(f"upernet_internimage_{size}_"))
        model = build_without_weights(translate_config(zoo.original_config(row.name)).config)
        counted = count_operations(model, row.flops_size)
        assert counted.multiply_adds == pytest.approx(row.flops, rel=1.5e-3)
        assert count_parameters(model)["total"] == pytest.approx(row.parameters, rel=5e-3)

    @pytest.mark.parametrize(
        ("backbone", "head"),
        # Heads of one kind each that ask whether autocast is on, which not all devices know.
        [
            pair if pair[1] in ("segzoo_ham_head", "segzoo_enc_head") else pytest.param(*pair, marks=pytest.mark.slow)
            for pair in pairs_of_parts()
        ],
    )
    def test_every_part(self, backbone, head):
        with torch.device("meta"):
            model = tiny_composite(backbone, head)
        assert count_operations(model, (64, 64)).multiply_adds > 0

    def test_the_model_stays_as_it_was(self):
        model = tiny_model().train()
        count_operations(model, (64, 64))
        assert model.training and all(module.training for module in model.modules())

    def test_parameters(self):
        counted = count_parameters(tiny_model())
        assert counted["total"] == sum(n for name, n in counted.items() if name != "total")
        assert {"backbone", "decode_heads"} < counted.keys()


class TestCommand:
    def facts(self, capsys, *arguments):
        assert main(["info", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_a_release(self, capsys):
        assert main(["info", "upernet_internimage_t_512_160k_ade20k"]) == 0
        text = capsys.readouterr().out
        for expected in (
            "UPerNet, InternImage-T; trained on ADE20K",
            "code MIT; weights MIT",
            "160000 iterations; crops of 512x512; recipe internimage_t_160k_ade20k_512x512",
            "short side is 512 and the long side at most 2048, ratio kept; stretched up to multiples of 32; one pass",
            "x0.5, x0.75, x1, x1.25, x1.5, x1.75, with mirror images",
            "published: 47.90 % on one scale, 48.10 % on several",
            "published: 59M",
            "published: 944G at 512x2048 (one for each multiply-add)",
            "counted: 59,077,148 (backbone 28.77M",
            "counted: 944G multiply-adds at 512x2048, which are 1888G single operations (FLOPs)",
            "counted: 236G multiply-adds at 512x512, which are 472G",
            "https://huggingface.co/OpenGVLab/InternImage/resolve/main/upernet_internimage_t_512_160k_ade20k.pth",
            "segzoo convert upernet_internimage_t_512_160k_ade20k --output DIR",
        ):
            assert expected in text, expected

    def test_json(self, capsys):
        facts = self.facts(capsys, "fcn_r50-d8_512x512_160k_ade20k", "--size", "64", "96x128")
        assert [entry["size"] for entry in facts["counted"]["operations"]] == [[64, 64], [96, 128]]
        assert facts["sha256_start"] == "4edbc3b4" and facts["converts"] and facts["num_labels"] == 150
        assert facts["miou"] == 36.1 and facts["counted"]["parameters"]["total"] == facts["parameters"]

    def test_by_the_file_name(self, capsys):
        name = "fcn_r50-d8_512x512_160k_ade20k"
        facts = self.facts(capsys, f"{name}_20200615_100713-4edbc3b4", "--size", "64", "96")
        assert facts["name"] == name
        assert [entry["size"] for entry in facts["counted"]["operations"]] == [[64, 96]], "two numbers are one size"

    def test_everything_that_a_row_may_say(self, monkeypatch, capsys):
        row = zoo.ZooRow(
            name="two",
            system="InternImage",
            method="A",
            backbone="B",
            dataset="C",
            miou=34.84,
            pixel_accuracy=75.75,
            score=54.07,
            score_ms=55.32,
            dice=78.67,
            test_short_sides=(300, 375),
            test_flip=True,
            images_per_second=17.2,
            images_per_second_ms=10.3,
            speed_device="Titan Xp",
            url="https://example.org/encoder.pth",
            size_bytes=77,
            sha256="a" * 64,
            decoder_url="https://example.org/decoder.pth",
            note="the scores do not add up",
        )
        monkeypatch.setattr(zoo, "lookup", lambda name: row)
        monkeypatch.setattr(zoo, "original_config", lambda name: tiny.config())
        assert main(["info", "two", "--size", "64"]) == 0
        text = capsys.readouterr().out
        for expected in (
            "With mirror images.",
            "300 px, 375 px\n",
            "54.07 % on one scale, 55.32 % on several",
            "75.75 % on one scale, not published on several",
            "published: 78.67 % on one scale\n",
            "17.2 images/s, 10.3 on several scales (Titan Xp)",
            f"encoder.pth, 77 bytes, SHA-256 {'a' * 64}\n",
            "second file",
            "the scores do not add up",
        ):
            assert expected in text, expected

    def test_what_does_not_convert_says_why(self, monkeypatch, capsys):
        monkeypatch.setattr(zoo, "original_config", lambda name: tiny.config(model__backbone__type="Unheard"))
        facts = self.facts(capsys, "fcn_r50-d8_512x512_160k_ade20k")
        assert not facts["converts"] and "Unheard" in facts["why_not"] and facts["counted"] is None

    def test_a_folder(self, tmp_path, capsys):
        convert_checkpoint(tiny.save(tmp_path / "a.pth"), output=tmp_path / "model")
        facts = self.facts(capsys, str(tmp_path / "model"))
        assert facts["counted"]["parameters"] == count_parameters(tiny_model())
        assert facts["num_labels"] == 4 and facts["counted"]["operations"][0]["size"] == [32, 32]
        assert facts["size_bytes"] == (tmp_path / "model/model.safetensors").stat().st_size
        assert main(["info", str(tmp_path / "model"), "--size", "64"]) == 0
        assert "short side is 32" in capsys.readouterr().out

    def test_unknown(self, tmp_path, capsys):
        assert main(["info", "upernet_internimage_t_512_160_ade20k"]) == 1
        assert "nearest are upernet_internimage_t_512_160k_ade20k" in capsys.readouterr().err
        assert main(["info", str(tmp_path)]) == 1
        assert "does not load as a segmentation model" in capsys.readouterr().err

    @pytest.mark.parametrize("size", ["x", "0", "1x2x3", "-4"])
    def test_sizes(self, size, capsys):
        with pytest.raises(SystemExit):
            main(["info", "fcn_r50-d8_512x512_160k_ade20k", f"--size={size}"])
        assert "HEIGHTxWIDTH" in capsys.readouterr().err

    def test_a_size_that_the_model_does_not_take(self, capsys):
        assert main(["info", "pspnet_r50-d8_512x512_160k_ade20k", "--size", "1"]) in (0, 1)
        assert "Traceback" not in capsys.readouterr().err


class TestTraining:
    def test_of_a_release(self, capsys):
        """The frozen InternViT-6B: no gradients of the 6 billion, and the recipe's batch on eight GPUs."""
        name = next(row.name for row in zoo.rows().values() if row.recipe == "internvit_6b_frozen_80k_ade20k_504x504")
        options = ["--training", "--world-size", "8", "--precision", "bf16", "--sharding", "fsdp"]
        assert main(["info", name, *options, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)["training"]
        found = facts["bytes"]
        assert facts["batch_size"] == 2 and facts["frozen_backbone"] and facts["precision"] == "bf16"
        assert found["optimizer"] == 2 * found["gradients"] < 1e6
        assert 4 * 5.5e9 / 8 < found["parameters"] < 4 * 6.5e9 / 8
        assert found["total"] == sum(n for part, n in found.items() if part not in ("total", "has_loss"))

    def test_of_a_folder(self, tmp_path, capsys):
        convert_checkpoint(tiny.save(tmp_path / "a.pth"), output=tmp_path / "model")
        assert main(["info", str(tmp_path / "model"), "--training", "--batch-size", "3"]) == 0
        text = capsys.readouterr().out
        for expected in ("training on one GPU, no precision, recipe default", "(adamw)", "3 crops of 32x32", "total"):
            assert expected in text, expected

    def test_what_cannot_be(self, capsys):
        backbone = next(row.name for row in zoo.rows().values() if row.pretrained)
        assert main(["info", backbone, "--training"]) == 1
        assert "is a backbone" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["info", backbone, "--training", "--world-size", "0"])
        assert "is not a number from 1" in capsys.readouterr().err

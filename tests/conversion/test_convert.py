"""Checkpoint file -> model folder -> Auto classes, by the function and by the command."""

import hashlib
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conversion import tiny
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import segzoo
from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.conversion import plan
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import original_state_dict
from segzoo.errors import SegZooError

SCRIPTS = Path(__file__).parents[2] / "conversion_scripts"


def logits_of(folder):
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    pixels = torch.linspace(-1, 1, 3 * 40 * 48).reshape(1, 3, 40, 48)
    with torch.no_grad():
        return model(pixel_values=pixels).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("original") / "latest.pth")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    return convert_checkpoint(checkpoint, output=tmp_path_factory.mktemp("converted") / "model").folder


def test_folder(folder):
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "model.safetensors.sha256",
        "preprocessor_config.json",
        "modeling_segzoo.py",
        "README.md",
    } == names
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "sky", "1": "road", "2": "car", "3": "tree"}
    assert not list(folder.parent.glob(".*"))


def test_in_python(checkpoint, folder, tmp_path):
    done = segzoo.convert(checkpoint, tmp_path / "model")
    assert torch.equal(logits_of(done.folder), logits_of(folder))
    with pytest.raises(SegZooError, match="there is no such file"):
        segzoo.convert("no_such_model", tmp_path / "other")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    for number, class_names in enumerate(("a, b,c,d", names, ["a", "b", "c", "d"])):
        done = segzoo.convert(checkpoint, tmp_path / f"named{number}", class_names=class_names)
        assert json.loads((done.folder / "config.json").read_text())["id2label"]["3"] == "d"


def test_weights_go_back_to_the_original_names(checkpoint, folder):
    original = torch.load(checkpoint)["state_dict"]
    translation = translate_config(tiny.config())
    back = original_state_dict(load_file(folder / "model.safetensors"), translation.components)
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)


def test_it_predicts(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    inputs = processor(images=Image.new("RGB", (90, 50), (120, 80, 40)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 58)
    with torch.no_grad():
        outputs = model(**inputs)
    (label_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 90)])
    assert label_map.shape == (50, 90) and int(label_map.max()) < 4


def test_card(folder, checkpoint):
    card = (folder / "README.md").read_text()
    assert "latest.pth" in card and "sky" in card and "short side is 32" in card
    # nobody knows that this file is a released one
    assert "published" not in card


class TestForms:
    """The same weights in the layouts that exist give the same model."""

    def check(self, path, folder, tmp_path, **options):
        done = convert_checkpoint(path, output=tmp_path / "out", **options)
        assert torch.equal(logits_of(done.folder), logits_of(folder))
        return done.report

    def test_config_in_a_file(self, folder, tmp_path):
        path = tmp_path / "bare.pth"
        torch.save(tiny.state_dict(tiny.config()), path)
        (tmp_path / "base.py").write_text(tiny.config_text(tiny.config(model__decode_head__channels=99)))
        (tmp_path / "config.py").write_text("_base_ = './base.py'\nmodel = dict(decode_head=dict(channels=8))\n")
        report = self.check(path, folder, tmp_path, config=tmp_path / "config.py")
        assert report.config_source.endswith("config.py")

    def test_safetensors_with_a_config_file(self, folder, tmp_path):
        save_file(tiny.state_dict(tiny.config()), tmp_path / "weights.safetensors")
        (tmp_path / "config.py").write_text(tiny.config_text(tiny.config()))
        self.check(tmp_path / "weights.safetensors", folder, tmp_path, config=tmp_path / "config.py")

    def test_prefix_and_old_counters(self, folder, tmp_path):
        state = tiny.state_dict(tiny.config())
        state = {f"module.{k}": v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        self.check(tiny.save(tmp_path / "parallel.pth", state=state), folder, tmp_path)

    def test_of_1x(self, folder, tmp_path):
        values = tiny.config()
        values["model"]["type"] = "mmseg.EncoderDecoder"
        names = {"classes": ["sky", "road", "car", "tree"], "palette": [[1, 2, 3]] * 4}
        path = tiny.save(
            tmp_path / "iter_1.pth",
            values,
            config=None,
            CLASSES=None,
            cfg=tiny.config_text(values),
            dataset_meta=names,
        )
        report = self.check(path, folder, tmp_path)
        assert report.labels_source == "the checkpoint"
        assert json.loads((tmp_path / "out/config.json").read_text())["palette"] == [[1, 2, 3]] * 4

    def test_half_precision(self, tmp_path):
        state = {k: v.half() if v.is_floating_point() else v for k, v in tiny.state_dict(tiny.config()).items()}
        done = convert_checkpoint(tiny.save(tmp_path / "half.pth", state=state), output=tmp_path / "out")
        saved = load_file(tmp_path / "out/model.safetensors")
        assert {t.dtype for t in saved.values()} == {torch.float32, torch.int64}
        assert any("float16" in note for note in done.report.notes)

    def test_averaged_weights(self, tmp_path):
        state = tiny.state_dict(tiny.config())
        average = {k: v * 0 if v.is_floating_point() else v for k, v in state.items()}
        path = tmp_path / "ema.pth"
        meta = {"config": tiny.config_text(tiny.config())}
        torch.save({"meta": meta, "state_dict": state, "ema_state_dict": average}, path)
        convert_checkpoint(path, output=tmp_path / "plain")
        done = convert_checkpoint(path, output=tmp_path / "ema", ema=True)
        assert logits_of(tmp_path / "ema").abs().max() == 0 < logits_of(tmp_path / "plain").abs().max()
        assert any("average" in note for note in done.report.notes)

    def test_averages_that_may_be_swapped(self, tmp_path):
        state, key = tiny.state_dict(tiny.config()), "decode_head.conv_seg.weight"
        path = tiny.save(
            tmp_path / "ema.pth",
            tiny.config(runner={"type": "EpochBasedRunner"}),
            state=state | {"ema_decode_head_conv_seg_weight": state[key]},
        )
        for ema, words in (
            (False, "under the model's names was taken.*; with --ema"),
            (True, "under ema_.* was taken.*; without --ema"),
        ):
            notes = convert_checkpoint(path, output=tmp_path / str(ema), ema=ema).report.notes
            assert any(re.search(words, note) for note in notes) and not any(
                "moving average" in note for note in notes
            )

    def test_slices_of_a_large_storage(self, folder, tmp_path):
        state = tiny.state_dict(tiny.config())
        key = "decode_head.conv_seg.weight"
        state[key] = torch.cat([state[key], torch.ones(500, *state[key].shape[1:])])[:4]
        self.check(tiny.save(tmp_path / "slices.pth", state=state), folder, tmp_path)


class TestZooNames:
    def rows(self, monkeypatch, **changes):
        row = zoo.ZooRow(
            name="tiny_fcn",
            aliases=("tiny_fcn_20200101_000000-00000000",),
            system="mmsegmentation",
            method="FCN",
            backbone="R-18",
            dataset="Toys",
            miou=12.5,
            url="https://example.org/tiny_fcn_20200101_000000-00000000.pth",
            **changes,
        )
        monkeypatch.setattr(zoo, "rows", lambda: {row.name: row})
        monkeypatch.setattr(zoo, "_aliases", lambda: dict.fromkeys((row.name, *row.aliases), row.name))
        monkeypatch.setattr(zoo, "original_config", lambda name: tiny.config())

    def test_a_bare_state_dict_gets_its_config_and_scores(self, monkeypatch, folder, tmp_path):
        torch.save(tiny.state_dict(tiny.config()), tmp_path / "bare.pth")
        self.rows(monkeypatch, dice=78.67, sha256=hashlib.sha256((tmp_path / "bare.pth").read_bytes()).hexdigest())
        done = convert_checkpoint(
            tmp_path / "bare.pth", output=tmp_path / "out", name="tiny_fcn_20200101_000000-00000000"
        )
        assert done.report.zoo_name == "tiny_fcn" and done.report.config_source == "the zoo (tiny_fcn)"
        assert torch.equal(logits_of(tmp_path / "out"), logits_of(folder))
        card = (tmp_path / "out/README.md").read_text()
        assert "12.50" in card and "78.67" in card and "https://example.org/tiny_fcn" in card and "Apache-2.0" in card

    def test_other_weights_get_the_config_of_a_name_and_none_of_its_scores(self, monkeypatch, folder, tmp_path):
        self.rows(monkeypatch, dice=78.67)
        torch.save(tiny.state_dict(tiny.config()), tmp_path / "own_training.pth")
        done = convert_checkpoint(tmp_path / "own_training.pth", output=tmp_path / "out", name="tiny_fcn")
        assert torch.equal(logits_of(tmp_path / "out"), logits_of(folder))
        card = (tmp_path / "out/README.md").read_text()
        assert not any(said in card for said in ("12.50", "78.67", "https://example.org/tiny_fcn"))
        assert any("tiny_fcn gave the config alone; the file's SHA-256" in note for note in done.report.notes)

    def test_a_released_file_is_recognised_by_the_hash_in_its_name_alone(self, monkeypatch, checkpoint, tmp_path):
        self.rows(monkeypatch)
        for name in ("tiny_fcn.pth", "tiny_fcn_20200101_000000-00000000.pth"):
            copy = tmp_path / name
            copy.write_bytes(checkpoint.read_bytes())
            done = convert_checkpoint(copy, output=tmp_path / copy.stem)
            assert done.report.zoo_name is None
        assert any("SHA-256" in note for note in done.report.notes)
        monkeypatch.setattr(plan, "_stem", lambda path: "tiny_fcn_20200101_000000-" + done.report.sha256[:8])
        row = zoo.rows()["tiny_fcn"]
        monkeypatch.setattr(zoo, "lookup", lambda name: row)
        assert convert_checkpoint(checkpoint, output=tmp_path / "yes").report.zoo_name == "tiny_fcn"

    @pytest.mark.parametrize(
        "config",
        [
            "import os\nmodel = os.name\n",
            "model = dict(type='OurOwnSegmentor')\n",
            "model = dict(",
            "_base_ = 'a.py'\n",
            "x = 1\n",
            None,
        ],
    )
    def test_the_zoo_s_config_instead_of_one_that_cannot_be_translated(self, config, monkeypatch, folder, tmp_path):
        self.rows(monkeypatch)
        path = tiny.save(tmp_path / "a.pth", config=config)
        with pytest.raises(SegZooError):
            convert_checkpoint(path, output=tmp_path / "unknown")
        by_name = convert_checkpoint(path, output=tmp_path / "by_name", name="tiny_fcn").report
        digits = by_name.sha256[:8]
        row = replace(zoo.rows()["tiny_fcn"], url=f"https://example.org/tiny_fcn-{digits}.pth")
        monkeypatch.setattr(zoo, "lookup", lambda name: row if name == f"tiny_fcn-{digits}" else None)
        path = path.rename(tmp_path / f"tiny_fcn-{digits}.pth")
        by_hash = convert_checkpoint(path, output=tmp_path / "by_hash").report
        for name, report in {"by_name": by_name, "by_hash": by_hash}.items():
            assert torch.equal(logits_of(tmp_path / name), logits_of(folder))
            assert report.config_source == "the zoo (tiny_fcn)" == f"the zoo ({report.zoo_name})"
            said = [note for note in report.notes if "cannot be translated" in note]
            assert len(said) == (config is not None)
        # what the caller gives is never replaced
        (tmp_path / "own.py").write_text("model = dict(type='OurOwnSegmentor')\n")
        with pytest.raises(SegZooError, match="OurOwnSegmentor"):
            convert_checkpoint(path, output=tmp_path / "own", config=tmp_path / "own.py", name=row.url[20:-4])


class TestCommand:
    def test_report(self, checkpoint, tmp_path, capsys):
        assert main(["convert", str(checkpoint), "--output", str(tmp_path / "out"), "--report"]) == 0
        report = json.loads((tmp_path / "out/conversion_report.json").read_text())
        assert report["keys"]["renamed"]["decode_head.conv_seg.weight"] == "decode_heads.0.classifier.weight"
        assert report["keys"]["missing"] == {} and len(report["sha256"]) == 64
        assert "FCNHead" in capsys.readouterr().out

    def test_report_as_a_page(self, checkpoint, tmp_path):
        arguments = ["convert", str(checkpoint), "--output", str(tmp_path / "out"), "--report", str(tmp_path / "r.md")]
        assert main(arguments) == 0
        assert (
            "| `decode_head.conv_seg.weight` | `decode_heads.0.classifier.weight` |" in (tmp_path / "r.md").read_text()
        )

    def test_push_can_be_repeated(self, checkpoint, tmp_path, monkeypatch, capsys):
        pushed = []
        monkeypatch.setattr("segzoo.hub.push_folder", lambda *args, **kwargs: pushed.append((args, kwargs)) or "there")
        arguments = [
            "convert",
            str(checkpoint),
            "--output",
            str(tmp_path / "out"),
            "--push_to_hub",
            "me/model",
            "--private",
        ]
        assert main(arguments) == 0 and main(arguments) == 0
        assert pushed == [((str(tmp_path / "out"), "me/model"), {"private": True})] * 2
        assert "already" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("", None),
            ("--report there.json", None),
            ("--classes a,b,c,d", "holds another conversion"),
            ("--ema", "holds another conversion"),
            ("--config other.py", "holds another conversion"),
            ("--name fcn_r50-d8_512x512_160k_ade20k", "holds another conversion"),
        ],
    )
    def test_a_push_is_that_of_the_same_conversion_alone(self, options, said, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        pushed = []
        monkeypatch.setattr("segzoo.hub.push_folder", lambda folder, *args, **kwargs: pushed.append(folder) or "there")
        state = tiny.state_dict(tiny.config())
        tiny.save("a.pth", state=state)
        torch.save(torch.load("a.pth") | {"ema_state_dict": {key: value * 2 for key, value in state.items()}}, "a.pth")
        Path("other.py").write_text(tiny.config_text(tiny.config(model__decode_head__align_corners=True)))
        assert main(["convert", "a.pth", "--output", "out"]) == 0
        files = {path: path.read_bytes() for path in Path("out").iterdir()}
        status = main(["convert", "a.pth", "--output", "out", "--push_to_hub", "me/x", *options.split()])
        assert (status, pushed) == ((0, ["out"]) if said is None else (1, []))
        assert said is None or f"out: {said}" in capsys.readouterr().err
        assert files == {path: path.read_bytes() for path in Path("out").iterdir()}
        assert Path("there.json").exists() == ("--report" in options)

    @pytest.mark.parametrize("card", [b"# Mine\n", b"\xff\xfe"])
    def test_no_push_of_a_folder_that_no_conversion_wrote(self, card, checkpoint, folder, tmp_path, capsys):
        shutil.copytree(folder, tmp_path / "out")
        (tmp_path / "out/README.md").write_bytes(card)
        arguments = ["convert", str(checkpoint), "--output", str(tmp_path / "out"), "--push_to_hub", "me/model"]
        assert main(arguments) == 1 and "the folder is not empty" in capsys.readouterr().err

    @pytest.mark.parametrize("script", ["convert_mmseg_to_hf.py", "convert_internimage_to_hf.py"])
    def test_scripts(self, script, checkpoint, folder, tmp_path, monkeypatch):
        arguments = [script, str(checkpoint), "--output", str(tmp_path / "out")]
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", arguments)
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        assert ended.value.code == 0
        assert torch.equal(logits_of(tmp_path / "out"), logits_of(folder))

"""Conversions that must fail, each with one clear error, and without a folder left behind."""

import os
import subprocess
import sys
import zipfile

import pytest
import torch
from conversion import tiny
from support.script_process import ScriptRun

from segzoo.commands.cli import main
from segzoo.conversion.convert import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.errors import SegZooError


@pytest.fixture
def output(tmp_path):
    """The output folder of a conversion that must not come into being."""
    folder = tmp_path / "out" / "model"
    yield folder
    assert not folder.exists() and not list(tmp_path.glob("out/.*"))


@pytest.fixture(scope="module")
def state():
    return tiny.state_dict(tiny.config())


def fails(path, output, message, **options):
    with pytest.raises(SegZooError, match=message) as caught:
        convert_checkpoint(path, output=output, **options)
    return str(caught.value)


def test_every_key_that_does_not_fit_is_listed_once(tmp_path, output, state):
    state = dict(state)
    del state["backbone.layer1.0.bn1.weight"], state["decode_head.conv_seg.bias"]
    state["backbone.layer9.weight"] = torch.ones(1)
    state["surprise"] = torch.ones(1)
    state["backbone.stem.0.weight"] = torch.ones(4, 3, 5, 5)
    state["backbone.stem.3.weight"] = torch.full_like(state["backbone.stem.3.weight"], float("nan"))
    message = fails(
        tiny.save(tmp_path / "a.pth", state=state), output, "a.pth: the weights do not fit the checkpoint's own config"
    )
    assert "2 missing, 2 unexpected, 1 wrong shape, 1 NaN or infinite" in message.splitlines()[0]
    for line in (
        "  missing: backbone.layer1.0.bn1.weight",
        "  missing: decode_head.conv_seg.bias",
        "  unexpected: backbone.layer9.weight",
        "  unexpected: surprise",
        "  wrong shape: backbone.stem.0.weight: 4x3x5x5 in the checkpoint, 4x3x3x3 by the config",
        "  NaN or infinite: backbone.stem.3.weight",
    ):
        assert line in message.splitlines()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_values(tmp_path, output, state, value):
    state = dict(state)
    state["backbone.layer4.1.bn2.running_var"] = torch.full((64,), value)
    message = fails(tiny.save(tmp_path / "a.pth", state=state), output, "NaN or infinite values")
    assert "backbone.layer4.1.bn2.running_var" in message


def test_class_counts(tmp_path, output, state):
    values = tiny.config(model__decode_head__num_classes=6)
    path = tiny.save(tmp_path / "a.pth", values, state=state, CLASSES=None)
    fails(path, output, "class counts disagree: the config has 6 classes, the weights of decode_head.conv_seg 4")
    path = tiny.save(tmp_path / "b.pth", state=state, CLASSES=("only", "three", "names"))
    fails(path, output, "class counts disagree: the checkpoint names 3 classes, the model of the config has 4")


def test_no_config(tmp_path, output, state):
    path = tiny.save(tmp_path / "a.pth", state=state, config=None)
    fails(path, output, "a.pth: the checkpoint carries no config; give .*--config FILE.*--name")
    path = tiny.save(tmp_path / "fcn_r50-d8_512x512_160k_ade20k.pth", state=state, config=None)
    fails(path, output, "try --name fcn_r50-d8_512x512_160k_ade20k")


def test_unknown_zoo_name(tmp_path, output):
    fails(
        tmp_path / "not-even-there.pth", output, "upernet_internimage_t_512_160k_ade20k", name="upernet_internimage_t"
    )


def test_another_config_than_the_weights(tmp_path, output, state):
    path = tiny.save(tmp_path / "a.pth", state=state)
    (tmp_path / "other.py").write_text(tiny.config_text(tiny.config(model__backbone__type="ResNet")))
    message = fails(path, output, "do not fit the config", config=tmp_path / "other.py")
    assert "  missing: backbone.conv1.weight" in message and "  unexpected: backbone.stem.3.weight" in message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["backbone.conv1.weight", "neck.a", "rpn_head.b", "roi_head.c"], "detection checkpoint"),
        (["backbone.conv1.weight", "head.fc.weight"], "classification checkpoint"),
        (["patch_embed.weight", "levels.0.weight", "head.weight"], "classification checkpoint"),
        (["decode_heads.0.classifier.weight", "backbone.stem.0.conv.weight"], "segzoo model already"),
        (["generator.weight"], "no weights of a segmentation model"),
    ],
)
def test_other_kinds_of_models(tmp_path, output, keys, message):
    fails(tiny.save(tmp_path / "a.pth", state={key: torch.ones(2) for key in keys}), output, message)


def test_a_detector_by_its_config(tmp_path, output, state):
    values = tiny.config(model__type="MaskRCNN", model__rpn_head={})
    fails(tiny.save(tmp_path / "a.pth", values, state=state), output, "detection checkpoint")


def test_two_files(tmp_path, output, state):
    path = tiny.save(tmp_path / "a.pth", state=state)
    fails(path, output, "belongs to a ViT of DINOv2, and this is none of them", decoder=path)


def test_config_that_would_run_code(tmp_path, output, state):
    values = tiny.config_text(tiny.config()) + "import os\nmodel.update(os.environ)\n"
    fails(
        tiny.save(tmp_path / "a.pth", state=state, config=values),
        output,
        "line 6: .os.environ. is an object of a module",
    )


class TestFiles:
    def test_html(self, tmp_path, output):
        path = tmp_path / "a.pth"
        path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
        fails(path, output, "(?i)a.pth.*html")

    def test_truncated(self, tmp_path, output, state):
        path = tiny.save(tmp_path / "a.pth", state=state)
        path.write_bytes(path.read_bytes()[:-5000])
        fails(path, output, "a.pth")

    def test_missing(self, tmp_path, output):
        fails(tmp_path / "a.pth", output, "a.pth")

    def test_zip_with_two_checkpoints(self, tmp_path, output, state):
        inner = tiny.save(tmp_path / "a.pth", state=state)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(inner, "a.pth")
            archive.write(inner, "b.pth")
        fails(tmp_path / "a.zip", output, "a.zip")

    def test_code_in_the_pickle(self, tmp_path, output):
        class Bomb:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'ran'}",)

        torch.save({"state_dict": {"decode_head.x": torch.ones(1)}, "meta": {"config": Bomb()}}, tmp_path / "a.pth")
        fails(tmp_path / "a.pth", output, "system")
        assert not (tmp_path / "ran").exists()


class TestOutput:
    def test_not_empty_is_found_before_any_work(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/precious.txt").write_text("mine")
        fails(tmp_path / "not-even-there.pth", tmp_path / "out", "not empty")
        assert (tmp_path / "out/precious.txt").read_text() == "mine"

    def test_a_file(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        fails(tmp_path / "not-even-there.pth", tmp_path / "out", "not a folder")

    def test_an_empty_folder_is_fine(self, tmp_path, state):
        (tmp_path / "out").mkdir()
        convert_checkpoint(tiny.save(tmp_path / "a.pth", state=state), output=tmp_path / "out")
        assert (tmp_path / "out/model.safetensors").is_file()


HOLD = """
import time
import transformers.modeling_utils
from segzoo.commands import cli

def wait(*args, **kwargs):
    print("writing", flush=True)
    time.sleep(600)

transformers.modeling_utils.safe_save_file = wait
main = cli.main
"""


def test_killed_while_writing_leaves_no_folder(tmp_path, state):
    """kill -9 at the moment when the weights are written: no output, and the next run succeeds and tidies up."""
    path = tiny.save(tmp_path / "a.pth", state=state)
    (tmp_path / "hold.py").write_text(HOLD)
    arguments = ["convert", str(path), "--output", str(tmp_path / "out")]
    run = ScriptRun(arguments, tmp_path / "logs", script=tmp_path / "hold.py")
    run.until(lambda: "writing" in run.stdout).kill()
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    assert (tmp_path / "out/model.safetensors").is_file() and not list(tmp_path.glob(".*"))


class TestCommandLine:
    def run(self, *arguments):
        command = [sys.executable, "-m", "segzoo", "convert", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def test_errors_are_one_line_and_no_traceback(self, tmp_path, state):
        path = tiny.save(tmp_path / "a.pth", state=state, config=None)
        done = self.run(path, "--output", tmp_path / "out")
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "no config" in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()

    def test_private_needs_a_push(self, tmp_path, capsys):
        assert main(["convert", "a.pth", "--output", str(tmp_path / "out"), "--private"]) == 1
        assert "--push_to_hub" in capsys.readouterr().err

    def test_a_report_that_cannot_be_written(self, tmp_path, state, capsys):
        path = tiny.save(tmp_path / "a.pth", state=state)
        report = tmp_path / "no" / "such" / "folder.json"
        assert main(["convert", str(path), "--output", str(tmp_path / "out"), "--report", str(report)]) == 1
        said = capsys.readouterr().err
        assert f"--report {report}: there is no folder {report.parent}" in said and not (tmp_path / "out").exists()


def test_errors_are_of_one_family():
    assert issubclass(ConversionError, SegZooError)

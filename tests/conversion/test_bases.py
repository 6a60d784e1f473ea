"""Configs that build on mmsegmentation's: the zoo answers, and what it has not got is missed only where it is needed."""

import pytest
from conversion import tiny

from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.conversion import ConversionError, bases, convert_checkpoint, describe_conversion
from segzoo.conversion.translate import supports, translate_config

FCN = "fcn_r50-d8_512x1024_40k_cityscapes"
MODEL = "mmseg::_base_/models/fcn_r50-d8.py"
ADE = "mmseg::_base_/datasets/ade20k.py"
REST = "['mmseg::_base_/default_runtime.py', 'mmseg::_base_/schedules/schedule_80k.py']"
HEADS = "model = dict(decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150))\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.py"
        path.write_text(text)
        return path

    return write


def translated(path):
    found = translate_config(bases.load_config(path))
    return found.config.to_dict(), found.processor


@pytest.mark.parametrize("name", ["fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024", f"fcn/{FCN}"])
def test_a_whole_config_is_that_of_the_release(name, write):
    own = translate_config(zoo.original_config(FCN))
    assert translated(write(f"_base_ = 'mmseg::{name}.py'")) == (own.config.to_dict(), own.processor)


def test_parts_are_those_of_the_releases_that_are_made_of_them(write):
    own = translate_config(zoo.original_config("fcn_r50-d8_512x512_80k_ade20k"))
    path = write(f"_base_ = ['{MODEL}', '{ADE}', *{REST}]\ncrop_size = (512, 512)\n{HEADS}")
    assert translated(path) == (own.config.to_dict(), own.processor)


def test_values_over_it_are_the_config_s(write):
    path = write(
        f"_base_ = ['{MODEL}', '{ADE}']\nmodel = dict(backbone=dict(depth=101), decode_head=dict(num_classes=3),\n"
        "    auxiliary_head=dict(num_classes=3), data_preprocessor=dict(mean=[0, 0, 0], size=_base_.crop_size))\n"
        "for step in _base_.test_pipeline:\n    if step['type'] == 'Resize':\n        step['scale'] = (64, 32)\n"
        "test_dataloader = dict(dataset=dict(type='Own', pipeline=_base_.test_pipeline, metainfo=dict(classes=('a', 'b', 'c'))))\n"
    )
    config, processor = translated(path)
    assert config["backbone_config"]["depth"] == 101 and list(config["id2label"].values()) == ["a", "b", "c"]
    assert processor["size"] == {"shortest_edge": 32, "longest_edge": 64} and processor["image_mean"] == [0, 0, 0]


def test_imported_base_files(write):
    names = {"_base_.models.fcn_r50_d8": "model", "_base_.datasets.ade20k": "*", "_base_.default_runtime": "*"}
    lines = [f"    from mmseg.configs.{module} import {name}" for module, name in names.items()]
    text = "\n".join(["from mmengine.config import read_base", "with read_base():", *lines])
    path = write(f"{text}\n{HEADS.replace('model = dict(', 'model.update(')}")
    own = translate_config(zoo.original_config("fcn_r50-d8_512x512_80k_ade20k"))
    assert translated(path)[1] == own.processor
    assert describe_conversion(path).num_labels == 150


@pytest.mark.parametrize(
    ("text", "base"),
    [
        (f"_base_ = ['mmseg::_base_/models/wonder.py', '{ADE}']\n{HEADS}", "mmseg::_base_/models/wonder.py"),
        (f"_base_ = ['{MODEL}', 'mmseg::_base_/datasets/moon.py']", "mmseg::_base_/datasets/moon.py"),
        ("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\nmodel = dict(a=1)", "mmdet::mask_rcnn"),
        ("_base_ = '../_base_/models/fcn_r50-d8.py'", "../_base_/models/fcn_r50-d8.py"),
    ],
)
def test_what_is_needed_and_not_there_is_named(text, base, write, capsys):
    path = write(text)
    with pytest.raises(ConversionError, match=f"config.py, line 1: the base file '{base}.*; (put the file|keep)"):
        describe_conversion(path)
    assert main(["convert", "--dry_run", "--config", str(path)]) == 1
    assert base in capsys.readouterr().err


def test_a_conversion_with_such_a_config(write, tmp_path):
    own = tiny.config_text({"model": {"_delete_": True, **tiny.MODEL}})
    path = write(f"_base_ = ['{ADE}', 'mmseg::_base_/models/wonder.py', *{REST}]\n{own}")
    done = convert_checkpoint(tiny.save(tmp_path / "a.pth"), output=tmp_path / "out", config=path)
    assert done.report.labels_source == "the checkpoint"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_every_base_file_that_is_named_is_answered():
    models = {name: bases.zoo_base(f"mmseg::_base_/models/{name}.py") for name in [*bases._MODELS, "pspnet_r50-d8"]}
    datasets = {name: bases.zoo_base(f"mmseg::_base_/datasets/{name}.py") for name in bases._DATASETS}
    assert None not in models.values() and None not in datasets.values()
    for name in ("pspnet_r50-d8", "pspnet_unet_s5-d16"):  # the values of the file, not of the release
        head = models[name]["model"]["decode_head"]
        assert head["num_classes"] == (2 if "unet" in name else 19)
    assert models["upernet_swin"]["model"]["decode_head"]["num_classes"] == 19
    assert models["upernet_beit"]["model"]["test_cfg"] == {"mode": "whole"}
    assert supports(models["pspnet_r50-d8"] | datasets["cityscapes_769x769"])
    assert bases.zoo_base("mmdet::_base_/models/fcn_r50-d8.py") is None


def test_labels_of_coco_stuff_are_reduced_only_where_a_config_says_so():
    for name, reduced in (("10k", True), ("164k", False)):
        values = bases.zoo_base(MODEL) | bases.zoo_base(f"mmseg::_base_/datasets/coco-stuff{name}.py")
        values["model"]["decode_head"]["num_classes"] = values["model"]["auxiliary_head"]["num_classes"] = 171
        for pipeline in (values["test_pipeline"], values["test_dataloader"]["dataset"]["pipeline"]):
            for step in pipeline:  # as in the files of 1.x
                if not reduced:
                    step.pop("reduce_zero_label", None)
        found = translate_config(values)
        assert (found.processor["do_reduce_labels"], found.classes.dataset.name) == (reduced, f"coco_stuff_{name}")

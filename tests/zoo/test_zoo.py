"""The table of released checkpoints, and ``segzoo list``."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.errors import SegZooError
from segzoo.training.recipes.recipe import load_recipe


def test_rows_are_complete():
    rows = zoo.rows()
    counts = Counter(row.system for row in rows.values())
    assert counts == {
        "mmsegmentation": 597,
        "InternImage": 26,
        "ViT-Adapter": 22,
        "InternViT-6B": 14,
        "CSAIL": 9,
        "mmsegmentation-1.x": 42,
        "SegFormer": 15,
        "SegNeXt": 8,
        "Swin": 3,
        "ConvNeXt": 6,
        "PoolFormer": 5,
        "PVT": 4,
        "VAN": 4,
        "DINOv2": 17,
        "DINOv3": 1,
        "DAFormer": 4,
        "BEiT": 1,
        "MAE": 1,
    } and set(counts) == set(zoo.SYSTEMS)
    names = [name for row in rows.values() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    for name, row in rows.items():
        assert row.name == name and row.method and row.backbone and row.dataset
        assert row.miou is None or 10 < row.miou < 100
        assert row.dice is None or (row.miou is None and 75 < row.dice < 85)
        assert row.url is None or row.url.startswith(("https://", "http://sceneparsing.csail.mit.edu/"))
        assert row.url is not None or row.note
        assert row.decoder_url is None or row.system in ("CSAIL", "DINOv2", "DINOv3")
        for size in (row.crop, row.flops_size):
            assert size is None or (len(size) == 2 and all(type(side) is int for side in size))
        assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256)
        assert (row.speed_device is None) == (row.images_per_second is None)
        assert (row.flops is None) == (row.flops_size is None)


WITHOUT_CONFIG = {"upernet_intern_vit_adapter_6b_512_80k_ade20k_bs16_lr4e-5"}  # it was not published


def has_config(row):
    return not row.pretrained and row.name not in WITHOUT_CONFIG


def test_every_row_has_a_config():
    for name, row in zoo.rows().items():
        config = zoo.original_config(name)
        if not has_config(row):
            assert config is None and (row.url is None) == (name in WITHOUT_CONFIG)
            continue
        if row.system == "CSAIL":
            assert {"arch_encoder", "arch_decoder"} <= config["MODEL"].keys()
            continue
        assert {"backbone", "decode_head", "type"} <= config["model"].keys()
        assert config["dataset_type"].endswith(("Dataset", "Dataset59", "Dataset_v1")) and config["test_pipeline"]


@pytest.mark.parametrize("kind", ["rows", "configs"])
def test_every_file_is_of_a_system_and_every_line_is_read(kind):
    files = {file.stem: file for file in (Path(zoo.__file__).parent / kind).iterdir()}
    assert files.keys() == zoo.SYSTEMS.keys()
    for system, file in files.items():
        content = json.loads(file.read_text(encoding="utf-8"))
        names = [row["name"] for row in content] if kind == "rows" else list(content["configs"])
        rows = [row for row in zoo.rows().values() if row.system == system and (kind == "rows" or has_config(row))]
        assert sorted(names) == sorted(row.name for row in rows)
        for part, values in content.get("parts", {}).items() if kind == "configs" else ():
            assert {config[part] for config in content["configs"].values() if part in config} == set(
                range(len(values))
            )


def test_configs_are_copies():
    zoo.original_config("fcn_r50-d8_512x512_160k_ade20k")["model"]["backbone"]["depth"] = 7
    assert zoo.original_config("fcn_r50-d8_512x512_160k_ade20k")["model"]["backbone"]["depth"] == 50


def test_published_facts():
    row = zoo.find("upernet_internimage_xl_640_160k_ade20k")
    assert (row.miou, row.miou_ms, row.crop, row.licence_weights) == (55.0, 55.3, (640, 640), "MIT")
    assert zoo.original_config(row.name)["model"]["backbone"]["channels"] == 192
    row = zoo.find("fcn_r50-d8_512x512_160k_ade20k")
    assert (row.miou, row.iterations, row.licence_code, row.licence_weights) == (36.1, 160000, "Apache-2.0", None)


def test_dice_where_no_mean_iou_is_published():
    rows = [row for row in zoo.rows().values() if row.dice is not None]
    assert len(rows) == 24 and {row.dataset for row in rows} == {"DRIVE", "STARE", "CHASE_DB1", "HRF"}
    assert zoo.find("fcn_unet_s5-d16_64x64_40k_drive").dice == 78.67


def test_hashes_in_the_names_of_files():
    row = zoo.find("fcn_r50-d8_512x512_160k_ade20k")
    assert row.sha256 is None and row.sha256_start == "4edbc3b4"
    assert zoo.find("upernet_internimage_t_512_160k_ade20k").sha256_start is None
    known = [row for row in zoo.rows().values() if row.system == "mmsegmentation"]
    assert all(re.fullmatch("[0-9a-f]{8}", row.sha256_start) for row in known)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fcn_r50-d8_512x1024_40k_cityscapes", "fcn_r50-d8_4xb2-40k_cityscapes-512x1024"),
        ("fcn_r50-d8_512x512_160k_ade20k", "fcn_r50-d8_4xb4-160k_ade20k-512x512"),
        ("fcn_hr48_480x480_40k_pascal_context_59", "fcn_hr48_4xb4-40k_pascal-context-59-480x480"),
        ("fcn_r101-d8_fp16_512x1024_80k_cityscapes", "fcn_r101-d8_4xb2-amp-80k_cityscapes-512x1024"),
        ("pspnet_r50-d8_512x512_4x4_20k_coco-stuff10k", "pspnet_r50-d8_4xb4-20k_coco-stuff10k-512x512"),
        ("ocrnet_r101-d8_512x1024_40k_b16_cityscapes", "ocrnet_r101-d8_8xb2-40k_cityscapes-512x1024"),
        (
            "pspnet_unet_s5-d16_ce-1.0-dice-3.0_256x256_40k_hrf",
            "unet-s5-d16_pspnet_4xb4-ce-1.0-dice-3.0-40k_hrf-256x256",
        ),
        (
            "upernet_swin_base_patch4_window12_512x512_160k_ade20k_pretrain_384x384_22K",
            "swin-base-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512",
        ),
        ("segformer_mit-b0_512x512_160k_ade20k", "segformer_mit-b0_8xb2-160k_ade20k-512x512"),
        ("fcn_m-v2-d8_512x512_160k_ade20k", "mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512"),
    ],
)
def test_names_of_1x(old, new):
    assert zoo.find(new) is zoo.rows()[old] and zoo.rows()[old].name_in_1x == new


def test_names_of_1x_are_of_one_row_each():
    rows = [row for row in zoo.rows().values() if row.name_in_1x is not None]
    assert {row.system for row in rows} == {"mmsegmentation"} and len(rows) == 596
    form = re.compile(r"[a-z0-9.\-_]+_\dxb\d+-([a-z0-9.\-]+-)?\d+k_[a-z0-9\-]+-\d+x\d+")
    assert all(form.fullmatch(row.name_in_1x) and zoo.lookup(row.name_in_1x) is row for row in rows)


def test_commands_know_names_of_1x(capsys):
    name = "fcn_r50-d8_4xb2-40k_cityscapes-512x1024"
    assert main(["list", name]) == 0
    assert "\nfcn_r50-d8_512x1024_40k_cityscapes " in capsys.readouterr().out
    assert load_recipe(name) == load_recipe("fcn_r50-d8_512x1024_40k_cityscapes")
    assert main(["convert", "--dry_run", name]) == 0
    assert "classes: 19" in capsys.readouterr().out


def test_file_names_are_aliases():
    row = zoo.find("fcn_r50-d8_512x512_160k_ade20k_20200615_100713-4edbc3b4")
    assert row.name == "fcn_r50-d8_512x512_160k_ade20k"
    assert zoo.lookup("no such name") is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("upernet_internimage_t_512_160_ade20k", "upernet_internimage_t_512_160k_ade20k"),
        ("FCN_R50-d8_512x512_160k_ade20k", "fcn_r50-d8_512x512_160k_ade20k"),
        ("internimage_h", "internimage_h"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, near):
    with pytest.raises(SegZooError, match=f"{name}.*{near}"):
        zoo.find(name)


class TestList:
    def test_filter(self, capsys):
        assert main(["list", "internimage", "UPERNET"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split()[0] == "name" and sum("upernet_internimage" in line for line in lines) == 15
        assert "47.90" in "".join(line for line in lines if "internimage_t" in line)

    def test_patterns(self, capsys):
        assert main(["list", "InternViT*"]) == 0
        lines = capsys.readouterr().out.splitlines()[2:-2]
        assert len(lines) == 14 and sum(line.endswith("yes") for line in lines) == 13
        (adapter,) = [line for line in lines if not line.endswith("yes")]
        assert "58.10" in adapter and "54.90" in next(
            line for line in lines if line.startswith("upernet") and "frozen" in line
        )
        assert main(["list", "internvit*", "linear"]) == 0
        assert capsys.readouterr().out.count("\nlinear_intern_vit_6b") == 6
        assert main(["list", "--json", "internvit"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in rows if row["pretrained"]] == [
            "intern_vit_6b_224px",
            *(f"intern_vit_6b_448px_v{v}" for v in ("1_0", "1_2", "1_5", "2_5")),
        ]
        assert main(["info", "intern_vit_6b_448px_v2_5"]) == 0
        assert "segzoo convert intern_vit_6b_448px_v2_5" in capsys.readouterr().out
        assert main(["convert", "--dry_run", "upernet_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5_frozen"]) == 0
        assert main(["convert", "--dry_run", "intern_vit_6b_224px"]) == 1
        assert "a backbone alone" in capsys.readouterr().err

    def test_dice(self, capsys):
        assert main(["list", "fcn_unet_s5-d16_64x64_40k_drive"]) == 0
        header, _, row, *_ = capsys.readouterr().out.splitlines()
        assert header.index("Dice") + len("Dice") == row.index("78.67") + len("78.67")

    def test_json(self, capsys):
        assert main(["list", "pspnet_r50-d8_512x512_160k_ade20k", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["converts"] is True and row["licence_code"] == "Apache-2.0" and row["crop"] == [512, 512]

    def test_convertible_only(self, capsys):
        main(["list", "--json"])
        every = json.loads(capsys.readouterr().out)
        main(["list", "--json", "--convertible"])
        convertible = json.loads(capsys.readouterr().out)
        assert convertible == [row for row in every if row["converts"]] and len(every) == len(zoo.rows())

    def test_nothing_found(self, capsys):
        assert main(["list", "nothing-is-called-so"]) == 1
        assert "no released checkpoint" in capsys.readouterr().out

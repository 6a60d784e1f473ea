"""File names that are no UTF-8 go through every command: results are named with the same bytes, texts show them escaped."""

import csv
import json
import os
import shutil
import sys

import pytest
from support.odd_names import ODD, copy_with_odd_names

from segzoo.commands import cli
from segzoo.data import load_segmentation_dataset
from segzoo.data.rows import row_names, undecoded
from segzoo.images.archives import file_address, plain_path, read_address, readable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")


@pytest.fixture(scope="module")
def odd(scenes, tmp_path_factory):
    return copy_with_odd_names(scenes, tmp_path_factory.mktemp(os.fsdecode(b"odd\xfc")) / "data")


def names(folder):
    return {os.fsencode(path.stem) for path in folder.glob("[!.]*")}


def test_addresses_are_text_and_lead_back(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff %41.png")
    with open(path, "wb") as file:
        file.write(b"content")
    address = file_address(path)
    address.encode("utf-8")
    assert plain_path(address) == readable(address) == path
    assert read_address(address) == b"content"
    assert file_address("é.png") == "é.png"


def test_tables_hold_them(odd):
    rows = undecoded(load_segmentation_dataset(odd)["validation"])
    found = {os.fsencode(os.path.splitext(os.path.basename(row_names(row, 0)[0]))[0]) for row in rows}
    assert found >= set(ODD) and len(found) == 5


def test_lists_name_them(odd, tmp_path):
    """Pascal VOC's and MIT's lists, in the bytes of the file names."""
    voc, mit = tmp_path / "VOC2012", tmp_path / "mit"
    shutil.copytree(odd / "images" / "train", voc / "JPEGImages")
    shutil.copytree(odd / "annotations" / "train", voc / "SegmentationClass")
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    stems = sorted(name for name in names(voc / "JPEGImages") if b" " not in name) + [b"a\xff"]
    for folder, suffix in ((voc / "JPEGImages", b".jpg"), (voc / "SegmentationClass", b".png")):
        first = next(path for path in folder.iterdir() if b" " not in os.fsencode(path.name))
        shutil.copy(first, folder / os.fsdecode(b"a\xff" + suffix))
    (lists / "train.txt").write_bytes(b"\n".join(stems))
    assert len(load_segmentation_dataset(voc)["train"]) == len(stems)
    mit.mkdir()
    line = (
        b'{"fpath_img": "../VOC2012/JPEGImages/a\xff.jpg", "fpath_segm": "../VOC2012/SegmentationClass/a\\udcff.png"}'
    )
    (mit / "training.odgt").write_bytes(line)
    assert len(load_segmentation_dataset(mit)["train"]) == 1


def test_data_check(odd, tmp_path, capsys):
    broken = shutil.copytree(odd, tmp_path / "data") / "images" / "train" / os.fsdecode(b"a\xe9 <b>1.jpg")
    broken.write_bytes(b"no picture")
    report = tmp_path / os.fsdecode(b"report\xff.json")
    assert cli.main(["data", "check", str(tmp_path / "data"), "--num_workers", "0", "--json", str(report)]) == 1
    text = report.read_text("utf-8")
    assert r"a\udce9 <b>1.jpg" in text
    files = [case["files"] for finding in json.loads(text)["findings"] for case in finding["cases"]]
    assert [str(broken)] in files
    assert cli.main(["data", "show", str(odd), "--output", str(tmp_path / "sheet.png")]) == 0


def test_predict(odd, tiny, tmp_path):
    out = tmp_path / os.fsdecode(b"out\xff")
    pictures = [path for path in (odd / "images" / "validation").iterdir() if os.fsencode(path.stem) in ODD]
    assert cli.main(["predict", *map(str, pictures), "--model", str(tiny), "--output", str(out)]) == 0
    assert names(out) == {name + end for name in ODD for end in (b"", b"_overlay")}
    told = json.loads((out / os.fsdecode(ODD[0] + b".json")).read_text("utf-8"))
    assert told["image"] in map(str, pictures)


def test_evaluate(odd, tiny, tmp_path):
    out = tmp_path / os.fsdecode(b"out\xff")
    words = ["evaluate", str(tiny), str(odd), "--classes", str(odd / "id2label.json"), "--output", str(out)]
    assert cli.main([*words, "--save_predictions", "--num_workers", "0", "--split", "validation"]) == 0
    assert names(out / "predictions") == names(odd / "images" / "validation")
    tables = [file for file in out.iterdir() if file.suffix == ".csv"]
    assert any(r"\udcff\udcfe 0" in file.read_text("utf-8") for file in tables)
    for file in tables:
        with file.open(encoding="utf-8", newline="") as stream:
            assert list(csv.reader(stream))


@pytest.mark.slow
def test_train(start, odd, tmp_path):
    out = tmp_path / os.fsdecode(b"out\xff")
    run = start(dataset_name=odd, max_train_steps=1, output_dir=out)
    assert run.wait() == 0, run.stderr
    assert {"model.safetensors", "report.html", "README.md"} <= set(os.listdir(out))
    (out / "report.html").read_text("utf-8")
    assert "eval_iou_道路" in json.loads((out / "all_results.json").read_text("utf-8"))

"""`segzoo data prepare`: small releases in their real layouts become folders that train, are checked and evaluated."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo.commands.cli import main
from segzoo.data import DATASETS, DataSource, find_classes, load_source
from segzoo.data.preparation import NEEDS, RELEASES, prepare
from segzoo.data.preparation.content import Regions
from segzoo.data.preparation.releases.aerial import _VAIHINGEN, ISAID_TILES, POTSDAM_TILES
from segzoo.data.preparation.releases.scenes_of_coco import OF_10K, OF_164K
from segzoo.errors import SegZooError

sys.path.insert(0, str(Path(__file__).parent))
from releases import COUNTS, RELEASE_OF, pascal_in_detail  # noqa: E402


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_release_has_facts_and_a_small_copy():
    assert set(RELEASES) == set(NEEDS) == set(RELEASE_OF) == set(COUNTS) <= set(DATASETS)


SMALL = [name for name in RELEASE_OF if name not in ("potsdam", "isaid", "pascal_context_60", "hrf", "acdc")]


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in RELEASE_OF if name not in SMALL)]
)
def test_releases_become_folders(tmp_path, name):
    source, target = tmp_path / "release", tmp_path / "prepared"
    source.mkdir()
    RELEASE_OF[name](source)
    before, notes = hashes(source), []
    assert prepare(name, source, target, on_note=notes.append) == COUNTS[name]
    assert hashes(source) == before
    # The small copies of Potsdam and Vaihingen have as many areas as the real ones.
    assert any("the release has" in note for note in notes) == (name not in ("potsdam", "vaihingen"))

    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["dataset"] == name
    written = {path: value for path, value in hashes(target).items() if path != "manifest.json"}
    assert manifest["files"] == written
    assert not [path for path in target.iterdir() if path.name.startswith(".")]

    facts = DATASETS[name]
    found = find_classes(target)
    assert (found.names, found.reduce_labels) == (list(facts.classes), facts.reduce_labels)
    for rows in load_source(DataSource(target)).values():
        assert len(rows)
    last = len(facts.classes) - 1 + facts.reduce_labels
    for path in (target / "annotations").rglob("*.png"):
        ids = np.asarray(Image.open(path))
        assert ids.dtype == np.uint8 and ids.ndim == 2
        assert set(np.unique(ids)) <= {*range(last + 1), 255}, path

    calls = []
    assert prepare(name, source, target, on_note=calls.append) == COUNTS[name]
    assert calls == [f"{target} is prepared already"]


def test_ids_are_those_of_the_training(tmp_path):
    source, target = tmp_path / "release", tmp_path / "prepared"
    source.mkdir()
    RELEASE_OF["vaihingen"](source)
    prepare("vaihingen", source, target)
    palette = DATASETS["vaihingen"].palette
    whole = np.asarray(Image.open(source / "eroded/top_mosaic_09cm_area1_noBoundary.tif"))
    photo = np.asarray(Image.open(source / "top/top_mosaic_09cm_area1.tif"))
    for left, right in ((0, 512), (1, 513)):
        stem = f"area1_{left}_0_{right}_40.png"
        ids = np.asarray(Image.open(target / "annotations/train" / stem))
        part = whole[:, left:right]
        for label, colour in enumerate(palette, start=1):
            assert ((ids == label) == (part == colour).all(-1)).all()
        assert ((ids == 0) == (part == 0).all(-1)).all()
        assert (np.asarray(Image.open(target / "images/train" / stem)) == photo[:, left:right]).all()


# Width and height of Vaihingen's areas.
VAIHINGEN_SIZES = {
    **{1: (1919, 2569), 2: (2428, 2767), 3: (2006, 3007), 11: (1893, 2566), 12: (1922, 2575), 13: (2818, 2558)},
    **{17: (2336, 1281), 20: (1866, 2315), 26: (2995, 1783), 27: (1917, 3313), 28: (1917, 2567), 29: (1917, 2563)},
    **{30: (1934, 2563), 33: (1581, 2555), 34: (1388, 2555), 35: (2805, 1884), 37: (1996, 1995), 38: (3816, 2550)},
    **dict.fromkeys((4, 5, 6, 7, 8, 10), (1887, 2557)),
    **dict.fromkeys((14, 15, 16), (1919, 2565)),
    **dict.fromkeys((21, 22, 23, 24), (1903, 2546)),
    **dict.fromkeys((31, 32), (1980, 2555)),
}


def test_tiles_of_the_real_pictures():
    for part, count in (("train", 344), ("validation", 398)):
        sizes = [VAIHINGEN_SIZES[int(area)] for area in _VAIHINGEN[part].split()]
        assert sum(len(list(POTSDAM_TILES.boxes(height, width))) for width, height in sizes) == count
        assert DATASETS["vaihingen"].splits[part].num_images == count
    potsdam = len(list(POTSDAM_TILES.boxes(6000, 6000)))
    facts = DATASETS["potsdam"].splits
    assert (24 * potsdam, 14 * potsdam) == (3456, 2016)
    assert (facts["train"].num_images, facts["validation"].num_images) == (3456, 2016)
    assert POTSDAM_TILES.starts(6000) == [*range(0, 5121, 512), 5488]
    assert POTSDAM_TILES.starts(1024) == [0, 512]
    # An iSAID picture smaller than a tile gives one padded tile; a larger one overlaps by 384 and ends at the border.
    assert list(ISAID_TILES.boxes(300, 1000)) == [(0, 0, 896, 896), (104, 0, 1000, 896)]
    padded = ISAID_TILES.cut(np.ones((300, 1000), np.uint8), (104, 0, 1000, 896), fill=255)
    assert padded.shape == (896, 896) and (padded[:300] == 1).all() and (padded[300:] == 255).all()


def test_ids_of_coco_stuff():
    assert sorted(OF_10K.values()) == list(range(172)) and OF_10K[13] == 12 and OF_10K[182] == 171 and 12 not in OF_10K
    assert sorted(OF_164K.values()) == list(range(171)) and OF_164K[12] == 11 and OF_164K[181] == 170
    assert 11 not in OF_164K


def test_masks_of_pascal_in_detail(tmp_path):
    source, target, notes = tmp_path / "release", tmp_path / "prepared", []
    drawn = pascal_in_detail(source)
    # The .mat files of the other release are not needed, and not read.
    assert prepare("pascal_context_60", source, target, on_note=notes.append) == {"train": 1, "val": 2}
    for part, names in (("train", (0,)), ("val", (1, 2))):
        for name in (f"2008_{number:06d}" for number in names):
            ids = np.asarray(Image.open(target / f"annotations/{part}/{name}.png"))
            stored = drawn[name]
            assert (ids == np.select([stored == 2, stored == 454], [1, 58], 0)).all()  # aeroplane, window; bag is none
    assert {0, 1, 58} == set(np.unique(np.asarray(Image.open(target / "annotations/train/2008_000000.png"))))
    mask = Regions("example", (5, 7), ((3, ";32NO012004"),)).ids()  # as pycocotools writes it
    assert mask.tolist() == [[0] * 7, [0, 0, 3, 3, 3, 3, 0], [0, 0, 3, 0, 3, 3, 0], [0, 0, 3, 3, 3, 3, 0], [0] * 7]
    file = source / "trainval_merged.json"
    text = file.read_text()
    content = json.loads(text)
    content["annos_segmentation"][0]["segmentation"]["counts"] += "1"
    file.write_text(json.dumps(content))
    with pytest.raises(SegZooError, match="trainval_merged.json: the run lengths of a region do not fill .* 32x24"):
        prepare("pascal_context_59", source, tmp_path / "broken")
    file.write_text(text[:-9])
    with pytest.raises(SegZooError, match=r"trainval_merged.json: no annotations of PASCAL in Detail"):
        prepare("pascal_context_59", source, tmp_path / "cut")


def test_drive_of_today_has_no_masks_to_test_on(tmp_path):
    source, target, notes = tmp_path / "release", tmp_path / "prepared", []
    source.mkdir()
    RELEASE_OF["drive"](source)
    kept = zipfile.ZipFile(source / "test.zip")
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as today:
        for name in kept.namelist():
            if "1st_manual" not in name:
                today.writestr(name, kept.read(name))
    (tmp_path / "test.zip").replace(source / "test.zip")
    assert prepare("drive", source, target, on_note=notes.append) == {"train": 2, "test": 2}
    assert "validation: no picture of it is here with a mask; scores were published on 20" in notes
    assert len(list((target / "images/test").iterdir())) == 2 and not (target / "annotations/test").exists()
    assert {part: len(rows) for part, rows in load_source(DataSource(target)).items()}["train"] == 2


def test_sbd_gives_masks_where_voc_has_none(tmp_path):
    source, target = tmp_path / "release", tmp_path / "prepared"
    source.mkdir()
    RELEASE_OF["pascal_voc_aug"](source)
    prepare("pascal_voc_aug", source, target)
    train = {path.stem for path in (target / "annotations/train").iterdir()}
    assert train == {f"2008_{number:06d}" for number in (0, 1, 4, 5)}
    voc = np.asarray(Image.open(source / "VOCdevkit/VOC2012/SegmentationClass/2008_000001.png"))
    assert (np.asarray(Image.open(target / "annotations/train/2008_000001.png")) == voc).all()
    jpeg = source / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg"
    assert (target / "images/train/2008_000001.jpg").read_bytes() == jpeg.read_bytes()


def test_a_killed_preparation_goes_on(tmp_path):
    source, whole, target = tmp_path / "release", tmp_path / "whole", tmp_path / "prepared"
    source.mkdir()
    RELEASE_OF["vaihingen"](source)
    prepare("vaihingen", source, whole)
    code = "import sys; from segzoo.data.preparation import prepare; prepare('vaihingen', *sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(target)])
    deadline = time.monotonic() + 120
    while len(list(target.rglob("*.png"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (target / "manifest.json").exists()
    with pytest.raises(SegZooError, match="no preparation of loveda"):
        prepare("loveda", source, target)
    prepare("vaihingen", source, target)
    kept = {path: value for path, value in hashes(target).items() if not path.split("/")[-1].startswith(".")}
    assert kept == hashes(whole)


def test_a_finished_folder_is_of_its_source_and_whole(tmp_path, monkeypatch):
    """Another source is refused, and files that are gone are written anew; a relative source is that of earlier versions."""
    source, other, target = tmp_path / "release", tmp_path / "other", tmp_path / "prepared"
    for folder in (source, other):
        folder.mkdir()
        RELEASE_OF["stare"](folder)
    prepare("stare", source, target)
    before = hashes(target)
    with pytest.raises(SegZooError, match=f"was prepared from {source}, not from {other}; choose another folder"):
        prepare("stare", other, target)
    gone = next((target / "images" / "train").iterdir())
    gone.unlink()
    notes = []
    assert prepare("stare", source, target, on_note=notes.append) == COUNTS["stare"]
    assert hashes(target) == before and gone.is_file() and not any("already" in note for note in notes)

    manifest = target / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "source": "release"}))
    monkeypatch.chdir(tmp_path)
    assert prepare("stare", "release", target, on_note=notes.append) == COUNTS["stare"]
    assert notes[-1] == f"{target} is prepared already"


@pytest.mark.slow
def test_processes_write_the_same(tmp_path):
    source = tmp_path / "release"
    source.mkdir()
    RELEASE_OF["isaid"](source)
    prepare("isaid", source, tmp_path / "one")
    words = ["data", "prepare", "isaid", str(source), str(tmp_path / "two"), "--num_workers", "2"]
    done = subprocess.run([sys.executable, "-m", "segzoo", *words], capture_output=True, text=True, check=True)
    assert "4 for train, 4 for val, 1 for test" in done.stdout
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_faults_are_named(tmp_path):
    source = tmp_path / "release"
    with pytest.raises(SegZooError, match="there is no such folder"):
        prepare("loveda", source, tmp_path / "t0")
    source.mkdir()
    with pytest.raises(SegZooError, match="no Train pictures are here.*Train/"):
        prepare("loveda", source, tmp_path / "t1")
    with pytest.raises(SegZooError, match="cannot be prepared.*cityscapes"):
        prepare("camvid", source, tmp_path / "t2")
    RELEASE_OF["loveda"](source)
    with pytest.raises(SegZooError, match="the target lies in the source"):
        prepare("loveda", source, source / "prepared")
    mask = source / "Val/Rural/masks_png/2.png"
    kept = mask.read_bytes()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(mask)
    with pytest.raises(SegZooError, match=r"the picture is 32x24 and its mask .*2\.png 9x9"):
        prepare("loveda", source, tmp_path / "t3")
    mask.unlink()
    with pytest.raises(SegZooError, match="1 of 2 names have no mask: 2"):
        prepare("loveda", source, tmp_path / "t4")
    mask.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(SegZooError, match=r"2\.png"):
        prepare("loveda", source, tmp_path / "t5")
    (tmp_path / "t6").mkdir()
    (tmp_path / "t6/own.txt").write_text("mine")
    mask.write_bytes(kept)
    with pytest.raises(SegZooError, match="the folder is not empty"):
        prepare("loveda", source, tmp_path / "t6")
    assert os.listdir(tmp_path / "t6") == ["own.txt"]


def test_rare_content_of_releases(tmp_path):
    source = tmp_path / "release"
    source.mkdir()
    RELEASE_OF["isaid"](source)
    for name in ("train/images/P0001.png", "train/Semantic_masks/P0001_instance_color_RGB.png"):
        (source / name).unlink()  # the large picture
    shutil.rmtree(source / "val")
    shutil.copytree(source / "train", source / "val")
    place = source / "train/Semantic_masks/P0000_instance_color_RGB.png"
    colours = np.asarray(Image.open(place)).copy()
    colours[3, 4] = (1, 2, 3)
    Image.fromarray(colours).save(place)
    prepare("isaid", source, tmp_path / "tiles")
    ids = np.asarray(Image.open(tmp_path / "tiles/annotations/train/P0000_0_896_0_896.png"))
    assert ids[3, 4] == 0 and (ids[40:] == 255).all()

    source = tmp_path / "context"
    RELEASE_OF["pascal_context_59"](source)
    (source / "trainval/2008_000001.mat").unlink()
    with pytest.raises(SegZooError, match="1 of 2 names have no mask: 2008_000001"):
        prepare("pascal_context_59", source, tmp_path / "drawn")


@pytest.mark.parametrize("name", ["loveda", "stare"])
def test_a_full_disk_is_refused_first(tmp_path, monkeypatch, name):
    source = tmp_path / "release"
    source.mkdir()
    RELEASE_OF[name](source)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(SegZooError, match="GiB are needed" if name == "loveda" else "unpacking needs at least"):
        prepare(name, source, tmp_path / "prepared")
    assert not list((tmp_path / "prepared").rglob("*.png"))


def test_room_is_that_of_the_unpacked_archive(tmp_path, monkeypatch):
    source = tmp_path / "release"
    (source / "benchmark").mkdir(parents=True)
    (source / "benchmark/zeros.mat").write_bytes(bytes(10**7))
    with tarfile.open(source / "benchmark.tgz", "w:gz") as archive:
        archive.add(source / "benchmark", "benchmark")
    shutil.rmtree(source / "benchmark")
    assert (source / "benchmark.tgz").stat().st_size < 10**6
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9 * 10**6))
    with pytest.raises(SegZooError, match="benchmark.tgz: unpacking needs at least"):
        prepare("pascal_voc_aug", source, tmp_path / "prepared")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=11 * 10**6))
    with pytest.raises(SegZooError, match="no pictures are here"):
        prepare("pascal_voc_aug", source, tmp_path / "prepared")
    content = (source / "benchmark.tgz").read_bytes()
    (source / "benchmark.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(SegZooError, match="benchmark.tgz: the archive cannot be unpacked"):
        prepare("pascal_voc_aug", source, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASE_OF)
def test_prepared_folders_train_and_are_scored(tmp_path, name):
    source, target, run = tmp_path / "release", tmp_path / "prepared", tmp_path / "run"
    source.mkdir()
    RELEASE_OF[name](source)
    prepare(name, source, target)
    assert main(["data", "check", str(target)]) in (0, 1)
    if "train" in COUNTS[name]:
        options = ["--backbone", "resnet18_v1c", "--random_backbone", "--head", "fcn", "--head_channels", "8"]
        steps = ["--max_train_steps", "2", "--per_device_train_batch_size", "2", "--crop_size", "32", "32"]
        assert main(["train", "--dataset_name", str(target), "--output_dir", str(run), *options, *steps]) == 0
        options = ["--dataset", name, "--max_samples", "1"]
        assert main(["evaluate", str(run), str(target), *options]) == 0


def test_list_names_page_and_files_of_each(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "--list"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == sorted(RELEASES) == sorted(NEEDS)
    assert all("; files: " in line and DATASETS[line.partition(": ")[0]].url in line for line in lines)
    assert "acdc: https://acdc.vision.ee.ethz.ch; files: rgb_anon_trainvaltest.zip and gt_trainval.zip" in lines[0]

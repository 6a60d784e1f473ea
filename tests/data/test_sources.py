"""Every known layout as a small real tree, unpacked and as a zip archive."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import segzoo
from segzoo.data import sources
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.decoding import decode_example
from segzoo.data.facts import DATASETS
from segzoo.data.label_encodings import CAMVID_COLORS, CITYSCAPES_LABEL_IDS
from segzoo.data.loading import detect_facts, load_id2label, load_segmentation_dataset
from segzoo.data.transforms import JointTransform
from segzoo.errors import SegZooError

SIZE = (6, 8)


@pytest.fixture
def write(tmp_path, rng):
    """Writes a picture (no array) or a mask: path below "däta set", optional id array."""

    def write(path, mask=None, palette=False):
        path = tmp_path / "däta set" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        if mask is None:
            mask = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(mask)
        if palette:
            picture = picture.convert("P")
            picture.putdata(mask.ravel().tolist())
            picture.putpalette([value for color in DATASETS["pascal_voc"].palette for value in color])
        picture.save(path)
        return path

    return write


@pytest.fixture
def ids(rng):
    """Makes masks of the ids 0..n-1 and 255."""

    def ids(count):
        mask = rng.integers(0, count, SIZE, dtype=np.uint8)
        mask[0, 0], mask[0, 1] = 255, count - 1
        return mask

    return ids


def zipped(folder, archive, prefix=""):
    """Packs the content of a folder as the people who publish data do, macOS's files included."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(f"__MACOSX/{prefix}._x.jpg", b"x")
        for directory, _, files in sorted(os.walk(folder)):
            inside = prefix + os.path.relpath(directory, folder).replace(os.sep, "/").replace("./", "").lstrip(".")
            inside = inside if not inside or inside.endswith("/") else inside + "/"
            if inside:
                target.writestr(inside, b"")
            for name in files:
                target.write(os.path.join(directory, name), inside + name)
    return archive


def sizes(loaded):
    return {split: len(rows) for split, rows in loaded.items()}


def masks_of(rows):
    return [decode_example(row)[1] for row in rows]


def both_ways(root, tmp_path):
    """The folder, its parent, and its content as an archive, also one with the folder itself inside."""
    yield root
    yield zipped(root, tmp_path / "archives/flat.zip")
    yield zipped(root, tmp_path / "archives" / f"{root.name}.zip", prefix=f"{root.name}/")


def test_ade20k(tmp_path, write, rng):
    masks = {}
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write(f"ADEChallengeData2016/images/{split}/{name}.jpg")
        masks[split] = rng.integers(0, 151, SIZE, dtype=np.uint8)
        write(f"ADEChallengeData2016/annotations/{split}/{name}.png", masks[split])
    root = tmp_path / "däta set/ADEChallengeData2016"
    (root / "objectInfo150.txt").write_text("Idx\n")
    for source in (*both_ways(root, tmp_path), root.parent):
        assert detect_facts(source) is DATASETS["ade20k"] and load_id2label(source)[149] == "flag"
        loaded = load_segmentation_dataset(source)
        assert sizes(loaded) == {"train": 1, "validation": 1} and "label_encoding" not in loaded["train"].column_names
        assert (masks_of(loaded["train"])[0] == masks["training"]).all()
        data = SegmentationDataset(
            loaded["validation"], JointTransform(reduce_labels=True, keep_label_size=True), num_labels=150
        )
        assert (data[0]["labels"].numpy() == np.where(masks["validation"] == 0, 255, masks["validation"] - 1)).all()
        assert data[0]["name"].endswith(
            "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
        ) or "flat" in str(source)


@pytest.mark.parametrize("packed", ["", "both", "images"])
@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes(tmp_path, write, ids, packed, train_ids):
    expected = {}
    for split, city, frame in (("train", "ulm", 1), ("train", "bonn", 1), ("val", "lindau", 2), ("test", "berlin", 3)):
        stem = f"{city}/{city}_00000{frame}_000019"
        write(f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
        mask = ids(34) if split != "test" else np.zeros(SIZE, np.uint8)
        write(f"gtFine/{split}/{stem}_gtFine_labelIds.png", mask)
        write(f"gtFine/{split}/{stem}_gtFine_color.png")
        expected[stem] = CITYSCAPES_LABEL_IDS.decode_ids(mask)
        if train_ids:
            write(f"gtFine/{split}/{stem}_gtFine_labelTrainIds.png", expected[stem])
    root = tmp_path / "däta set"
    for name in {"both": ("leftImg8bit", "gtFine"), "images": ("leftImg8bit",), "": ()}[packed]:
        zipped(root / name, root / f"{name}_trainvaltest.zip", prefix=f"{name}/")
        shutil.rmtree(root / name)
    assert detect_facts(root) is DATASETS["cityscapes"]
    loaded = load_segmentation_dataset(root)
    assert sizes(loaded) == {"train": 2, "validation": 1}
    assert ("label_encoding" in loaded["train"].column_names) == (not train_ids)
    for rows in loaded.values():
        data = SegmentationDataset(rows, JointTransform(keep_label_size=True), num_labels=19)
        for item, mask in zip(data, masks_of(rows), strict=True):
            stem = next(stem for stem in expected if stem in item["name"])
            assert (item["labels"].numpy() == expected[stem]).all() and (mask == expected[stem]).all()
        stored = decode_example({**rows[0], "label_encoding": None})[1]
        assert (stored != expected[next(s for s in expected if s in rows[0]["image_path"])]).any() == (not train_ids)


def test_cityscapes_ids():
    """As the data set's page lists them: 7 road ... 33 bicycle; the others do not count."""
    mapped = CITYSCAPES_LABEL_IDS.decode_ids(np.arange(256, dtype=np.uint8))
    names = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"}
    names |= {20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"}
    names |= {27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
    classes = DATASETS["cityscapes"].id2label | {255: None}
    assert {stored: classes[int(mapped[stored])] for stored in range(256)} == dict.fromkeys(range(256)) | names
    wide = CITYSCAPES_LABEL_IDS.decode_ids(np.array([[-1, 7, 26, 300]], dtype=np.int32))
    assert wide.tolist() == [[255, 0, 13, 255]]


def test_half_of_cityscapes(tmp_path, write):
    write("gtFine/train/ulm/a_gtFine_labelIds.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(
        SegZooError, match="it has gtFine but not leftImg8bit. Put leftImg8bit/ or leftImg8bit_trainvaltest.zip"
    ):
        load_segmentation_dataset(tmp_path / "däta set")


def voc(write, ids, tmp_path, stems, root="VOCdevkit/VOC2012"):
    masks = {stem: ids(21) for stem in stems}
    for stem, mask in masks.items():
        write(f"{root}/JPEGImages/{stem}.jpg")
        write(f"{root}/SegmentationClass/{stem}.png", mask, palette=True)
    write(f"{root}/JPEGImages/2007_999999.jpg")  # most pictures have no mask
    lists = tmp_path / "däta set" / root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:2]) + "\n")
    (lists / "val.txt").write_text("\r\n".join(stems[2:]) + "\r\n")
    (lists / "trainval.txt").write_text("\n".join(stems))
    (lists / "test.txt").write_text("2008_000001\n")
    return masks


def test_pascal_voc(tmp_path, write, ids):
    stems = ["2007_000032", "2007_000039", "2007_000033"]
    masks = voc(write, ids, tmp_path, stems)
    root = tmp_path / "däta set"
    for source in (root / "VOCdevkit/VOC2012", root / "VOCdevkit", *both_ways(root, tmp_path)):
        assert detect_facts(source) is DATASETS["pascal_voc"]
        loaded = load_segmentation_dataset(source)
        assert sizes(loaded) == {"train": 2, "validation": 1}
        found = [*masks_of(loaded["train"]), *masks_of(loaded["validation"])]
        assert all((mask == masks[stem]).all() for mask, stem in zip(found, stems, strict=True))
        assert (
            SegmentationDataset(loaded["train"], JointTransform(keep_label_size=True), num_labels=21)[1]["labels"][
                0, 0
            ]
            == 255
        )


@pytest.mark.parametrize("with_list", [False, True])
def test_pascal_voc_with_further_masks(tmp_path, write, ids, with_list):
    masks = voc(write, ids, tmp_path, ["2007_000032", "2007_000039", "2007_000033"], root="VOC2012")
    more = {stem: ids(21) for stem in ("2007_000032", "2007_000033", "2008_000002", "2008_000003")}
    for stem, mask in more.items():
        write(f"VOC2012/SegmentationClassAug/{stem}.png", mask)
        if stem not in masks:
            write(f"VOC2012/JPEGImages/{stem}.jpg")
    root = tmp_path / "däta set"
    if with_list:
        lines = ["/JPEGImages/2008_000002.jpg /SegmentationClassAug/2008_000002.png", "2007_000039"]
        (root / "VOC2012/ImageSets/Segmentation/trainaug.txt").write_text("\n".join(lines))
    loaded = load_segmentation_dataset(root)
    stems = ["2008_000002", "2007_000039"] if with_list else ["2007_000032", "2008_000002", "2008_000003"]
    found = masks_of(loaded["train"])
    assert all(
        (mask == (more | masks if s == "2007_000039" else more)[s]).all() for mask, s in zip(found, stems, strict=True)
    )
    assert (masks_of(loaded["validation"])[0] == masks["2007_000033"]).all()


def test_pascal_voc_with_gaps(tmp_path, write, ids):
    voc(write, ids, tmp_path, ["a", "b", "c"])
    root = tmp_path / "däta set/VOCdevkit/VOC2012"
    (root / "SegmentationClass/a.png").unlink()
    (root / "JPEGImages/b.jpg").unlink()
    with pytest.raises(
        SegZooError, match=r"train: 1 picture\(s\) without mask: a.jpg; train: 1 mask\(s\) without picture: b.png"
    ):
        load_segmentation_dataset(root)
    (root / "ImageSets").rename(root / "Lists")
    with pytest.raises(SegZooError, match="looks like Pascal VOC.*ImageSets/Segmentation is not there"):
        load_segmentation_dataset(root)


def test_pascal_voc_with_names_of_any_kind(tmp_path, write, ids):
    """Blanks and dots are parts of names; an extension, folders and further words of a line are not."""
    stems = ["a.v2", "my photo 1", "b", "a", "frame.0001", "c"]
    masks = voc(write, ids, tmp_path, stems)
    lists = tmp_path / "däta set/VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "train.txt").write_text("a.v2\nJPEGImages/my photo 1.jpg SegmentationClass/my photo 1.png\nb  -1\n")
    (lists / "val.txt").write_text("a\nframe.0001.jpg\n/JPEGImages/c.jpg /SegmentationClass/c.png\n")
    loaded = load_segmentation_dataset(tmp_path / "däta set")
    found = [*masks_of(loaded["train"]), *masks_of(loaded["validation"])]
    assert sizes(loaded) == {"train": 3, "validation": 3}
    assert all((mask == masks[stem]).all() for mask, stem in zip(found, stems, strict=True))
    (lists / "train.txt").write_text("a.v3\n")
    with pytest.raises(SegZooError, match=r"train: 1 mask\(s\) without picture: a.v3"):
        load_segmentation_dataset(tmp_path / "däta set")


def test_camvid_of_segnet(tmp_path, write, rng):
    masks = {}
    for split in ("train", "val", "test"):
        write(f"CamVid/{split}/0001TP_1.png")
        masks[split] = rng.integers(0, 12, SIZE, dtype=np.uint8)
        write(f"CamVid/{split}annot/0001TP_1.png", masks[split])
    root = tmp_path / "däta set"
    for source in (root, *both_ways(root / "CamVid", tmp_path)):
        assert detect_facts(source) is DATASETS["camvid"]
        loaded = load_segmentation_dataset(source)
        assert sizes(loaded) == {"train": 1, "validation": 1, "test": 1}
        for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
            assert (masks_of(loaded[split])[0] == np.where(masks[name] == 11, 255, masks[name])).all()
        assert SegmentationDataset(loaded["train"], JointTransform(keep_label_size=True), num_labels=11)[0][
            "labels"
        ].max() in (
            *range(11),
            255,
        )


def painted(rng):
    colors = list(CAMVID_COLORS.colors)
    index = rng.integers(0, len(colors), SIZE)
    labels = np.array(list(CAMVID_COLORS.colors.values()))[index]
    return np.array(colors, dtype=np.uint8)[index], labels


@pytest.mark.parametrize("packed", [False, True])
def test_camvid_in_colours(tmp_path, write, rng, packed):
    expected = {}
    frames = {
        "0001TP_006690": "train",
        "0006R0_f00930": "train",
        "0016E5_08190": "train",
        "0016E5_07959": "validation",
    }
    frames |= {"0016E5_08159": "validation", "0001TP_008550": "test", "Seq05VD_f05100": "test"}
    for stem in frames:
        write(f"701_StillsRaw_full/{stem}.png")
        mask, expected[stem] = painted(rng)
        write(f"LabeledApproved_full/{stem}_L.png", mask)
    root = tmp_path / "däta set"
    if packed:
        zipped(root / "701_StillsRaw_full", root / "701_StillsRaw_full.zip", prefix="701_StillsRaw_full/")
        zipped(root / "LabeledApproved_full", root / "LabeledApproved_full.zip")  # as it is published
        shutil.rmtree(root / "701_StillsRaw_full")
        shutil.rmtree(root / "LabeledApproved_full")
    assert detect_facts(root) is DATASETS["camvid"]
    loaded = load_segmentation_dataset(root)
    found = {}
    for split, rows in loaded.items():
        for item in SegmentationDataset(rows, JointTransform(keep_label_size=True), num_labels=11):
            stem = os.path.splitext(os.path.basename(item["name"]))[0]
            found[stem] = split
            assert (item["labels"].numpy() == expected[stem]).all()
    assert found == frames


def test_camvid_colours():
    """The eleven classes have their usual colours, and 32 names share them out."""
    assert len(CAMVID_COLORS.colors) == 32 and set(CAMVID_COLORS.colors.values()) == {*range(11), 255}
    for index, color in enumerate(DATASETS["camvid"].palette):
        assert CAMVID_COLORS.colors[(192, 128, 128) if index == 6 else color] == index


def test_camvid_with_label_folders(tmp_path, write, rng):
    for split in ("train", "val"):
        write(f"{split}/0001TP_1.png")
        mask, labels = painted(rng)
        write(f"{split}_labels/0001TP_1_L.png", mask)
    root = tmp_path / "däta set"
    (root / "class_dict.csv").write_text("name,r,g,b\n")
    assert (masks_of(load_segmentation_dataset(root)["validation"])[0] == labels).all()
    mask[2, 3] = (1, 2, 3)
    write("val_labels/0001TP_1_L.png", mask)
    with pytest.raises(
        SegZooError, match=r"0001TP_1_L.png: 1 colour\(s\) of the mask are not in the palette: \(1, 2, 3\) x 1"
    ):
        masks_of(load_segmentation_dataset(root)["validation"])


def odgt(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")


def test_odgt(tmp_path, write, rng):
    records = {}
    for split in ("training", "validation"):
        image, label = (f"ADEChallengeData2016/{kind}/{split}/ä 1" for kind in ("images", "annotations"))
        write(f"{image}.jpg")
        write(f"{label}.png", rng.integers(0, 151, SIZE, dtype=np.uint8))
        records[split] = {"fpath_img": f"{image}.jpg", "fpath_segm": f"{label}.png", "width": 8, "height": 6}
    root = tmp_path / "däta set"
    lists = tmp_path / "lists"
    for split, record in records.items():
        odgt(root / f"{split}.odgt", [record])
        odgt(root / "more" / f"my_{split}.odgt", [record])
        odgt(lists / f"{split}.odgt", [record])
    for source, options in ((root, {}), (root / "more", {}), (lists, {"data_root": root})):
        loaded = load_segmentation_dataset(source, **options)
        assert sizes(loaded) == {"train": 1, "validation": 1}
        assert masks_of(loaded["train"])[0].shape == SIZE
        assert detect_facts(source) is DATASETS["ade20k"]
    assert sizes(load_segmentation_dataset(root / "validation.odgt")) == {"validation": 1}
    with pytest.raises(SegZooError, match=r"training.odgt, line 1: there is no ADE.*data_root"):
        load_segmentation_dataset(lists)


def test_odgt_with_faults(tmp_path, write):
    write("a.jpg")
    write("a.png", np.zeros(SIZE, np.uint8))
    root, good = tmp_path / "däta set", {"fpath_img": "a.jpg", "fpath_segm": "a.png"}
    odgt(root / "train.odgt", [good, {"fpath_img": "a.jpg", "fpath_segm": "b.png"}])
    assert detect_facts(root) is None
    with pytest.raises(SegZooError, match=r"1 picture\(s\) without mask: a.jpg"):
        load_segmentation_dataset(root)
    with pytest.warns(UserWarning, match="without mask"):
        assert sizes(load_segmentation_dataset(root, strict=False)) == {"train": 1}
    odgt(root / "train.odgt", [good, {"fpath_img": "a.jpg"}])
    with pytest.raises(SegZooError, match="train.odgt, line 2 should be like"):
        load_segmentation_dataset(root)
    (root / "train.odgt").write_text("[broken")
    with pytest.raises(SegZooError, match="train.odgt, line 1 is not JSON"):
        load_segmentation_dataset(root)


def test_a_zip_of_a_users_folder(make_folder, tmp_path):
    make_folder({"train": ["a", "ünï"], "val": ["b"]}, extension=".png")
    (tmp_path / "id2label.json").write_text('{"0": "sky", "1": "road"}')
    archive = zipped(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    loaded = load_segmentation_dataset(archive)
    assert sizes(loaded) == {"train": 2, "validation": 1} and load_id2label(archive) == {0: "sky", 1: "road"}
    plain = load_segmentation_dataset(tmp_path)
    for split in loaded:
        for ours, theirs in zip(loaded[split], plain[split], strict=True):
            assert all((a == b).all() for a, b in zip(decode_example(ours), decode_example(theirs), strict=True))
            assert ours["image"].size == theirs["image"].size  # `datasets` reads the addresses as well
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "x")
    with pytest.raises(SegZooError, match="other.zip holds no known data set: looked for .*; found readme.txt"):
        load_segmentation_dataset(tmp_path / "other.zip")


def test_hub_names_have_facts():
    assert detect_facts("merve/scene_parse_150") is DATASETS["ade20k"]
    assert detect_facts("somebody/something") is None


def test_every_module_of_a_layout_is_found_in_an_order_of_its_own():
    modules = {path.stem for path in Path(sources.__file__).parent.glob("*.py")} - {"__init__"}
    assert {source.find.__module__.rpartition(".")[2] for source in sources.SOURCES} == modules
    orders = [source.order for source in sources.SOURCES]
    assert orders == sorted(set(orders)) and sources.SOURCES[-1].layout == sources.LAYOUTS.partition("; ")[0]


def test_a_new_layout_is_one_new_module(tmp_path):
    """A copy of the package with one more file loads what only that file knows."""
    package = tmp_path / "segzoo"
    shutil.copytree(Path(segzoo.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data" / "sources" / "toy.py").write_text(
        "from segzoo.data.pairing import Listing, Source, SplitFiles, files_by_stem, pair_by_stem\n"
        "class Toy:\n"
        "    facts = None\n"
        "    def __init__(self, folder): self.folder = folder\n"
        "    def list_files(self):\n"
        "        listing = Listing()\n"
        "        parts = (files_by_stem(self.folder.child(name)) for name in ('toys', 'toy_masks'))\n"
        "        pair_by_stem(listing, 'train', *parts)\n"
        "        return listing\n"
        "def find(folder, data): return Toy(folder) if folder.child('toys') else None\n"
        "SOURCE = Source(layout='toys and toy_masks', find=find, order=15)\n"
    )
    for name in ("toys", "toy_masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
        PIL.Image.new("L", (4, 4)).save(tmp_path / "data" / name / "a.png")
    code = (
        "import sys; sys.argv[0] = 'segzoo'\n"
        "from segzoo.data.loading import load_segmentation_dataset\n"
        "print(load_segmentation_dataset(sys.argv[1])['train'].num_rows)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1", done.stderr

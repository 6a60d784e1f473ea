"""Small releases in their real layouts and file formats, drawn from a seed."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image

from segzoo.data import DATASETS
from segzoo.data.preparation.releases.aerial import _POTSDAM, _VAIHINGEN

RNG = np.random.default_rng(0)


def picture(path, size=(24, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, **options)


def mask(path, ids, size=(24, 32), **options):
    """A mask with the ids drawn at random."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.choice(np.array(list(ids), np.uint8), size)
    Image.fromarray(array).save(path, **options)
    return array


def colours(path, palette, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = RNG.integers(0, len(palette), size)
    Image.fromarray(np.array(palette, np.uint8)[ids]).save(path)
    return ids


def matlab(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content)


def lines(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def zipped(folder, archive):
    """Moves a folder into a zip archive beside it."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder))
                path.unlink()


def tarred(folder, archive):
    with tarfile.open(archive, "w") as file:
        file.add(folder, folder.name)
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def cityscapes(root):
    for part in ("train", "val"):
        for number in range(2):
            stem = f"city_{number:06d}_000019"
            picture(root / f"leftImg8bit/{part}/city/{stem}_leftImg8bit.png")
            mask(root / f"gtFine/{part}/city/{stem}_gtFine_labelIds.png", range(34))
            mask(root / f"gtFine/{part}/city/{stem}_gtFine_instanceIds.png", range(34))


def dark_zurich(root):
    place = "val/night/GOPR0356/GOPR0356_frame_000"
    for number in range(2):
        picture(root / f"rgb_anon/{place}{number}_rgb_anon.png")
        mask(root / f"gt/{place}{number}_gt_labelTrainIds.png", [*range(19), 255])
        mask(root / f"gt/{place}{number}_gt_labelIds.png", range(34))


def acdc(root):
    for condition in ("fog", "night", "rain", "snow"):
        for part in ("train", "val", "test", "train_ref"):
            place = (
                f"{condition}/{part}/GOPR0475/GOPR0475_frame_000041"  # twice, so that conditions must keep them apart
            )
            picture(root / f"rgb_anon/{place}_rgb_{'ref_' * ('ref' in part)}anon.png")
            if part in ("train", "val"):
                mask(root / f"gt/{place}_gt_labelTrainIds.png", [*range(19), 255])
                mask(root / f"gt/{place}_gt_labelIds.png", range(34))
    for name, archive in (("rgb_anon", "rgb_anon_trainvaltest"), ("gt", "gt_trainval")):
        (root / archive).mkdir()
        (root / name).rename(root / archive / name)
        zipped(root / archive, root / f"{archive}.zip")


def night_driving(root):
    for number in range(2):
        picture(root / f"leftImg8bit/test/night/0_{number}_leftImg8bit.png")
        mask(
            root / f"gtCoarse_daytime_trainvaltest/test/night/0_{number}_gtCoarse_labelTrainIds.png", [*range(19), 255]
        )


def chase_db1(root):
    for number in range(1, 13):
        for eye in "LR":
            picture(root / f"CHASEDB1/Image_{number:02d}{eye}.jpg", quality=95)
            for observer in ("1st", "2nd"):
                path = root / f"CHASEDB1/Image_{number:02d}{eye}_{observer}HO.png"
                Image.fromarray(RNG.integers(0, 2, (24, 32)) > 0).save(path)
    zipped(root / "CHASEDB1", root / "CHASEDB1.zip")


def drive(root):
    for folder, numbers in (("training", (21, 22)), ("test", (1, 2))):
        for number in numbers:
            picture(root / f"{folder}/images/{number:02d}_{folder}.tif")
            mask(root / f"{folder}/1st_manual/{number:02d}_manual1.gif", [0, 255])
            mask(root / f"{folder}/mask/{number:02d}_{folder}_mask.gif", [0, 255])
        zipped(root / folder, root / f"{folder}.zip")


def hrf(root):
    for kind, folder in (("h", "healthy"), ("g", "glaucoma"), ("dr", "diabetic_retinopathy")):
        for number in range(1, 8):
            suffix = ".JPG" if kind == "dr" else ".jpg"
            picture(root / f"{folder}/{number:02d}_{kind}{suffix}", format="JPEG")
            mask(root / f"{folder}_manualsegm/{number:02d}_{kind}.tif", [0, 255])
        for name in (folder, f"{folder}_manualsegm"):
            zipped(root / name, root / f"{name}.zip")


def stare(root):
    for folder, middle in (("stare-images", ""), ("labels-ah", ".ah")):
        (root / folder).mkdir(parents=True)
        for number in range(1, 13):
            if middle and number == 3:
                continue  # of most pictures no vessels are drawn
            content = io.BytesIO()
            grey = RNG.choice(np.array([0, 255], np.uint8), (24, 32)) if middle else None
            array = grey[..., None].repeat(3, -1) if middle else RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(array).save(content, format="PPM")
            (root / folder / f"im{number:04d}{middle}.ppm.gz").write_bytes(gzip.compress(content.getvalue()))
        tarred(root / folder, root / f"{folder}.tar")


def loveda(root):
    number = 0
    for part in ("Train", "Val", "Test"):
        for scene in ("Rural", "Urban"):
            picture(root / f"{part}/{scene}/images_png/{number}.png")
            if part != "Test":
                mask(root / f"{part}/{scene}/masks_png/{number}.png", range(8))
            number += 1


def _areas(root, parts, size, picture_name, mask_name, palette):
    for area in " ".join(parts.values()).split():
        picture(root / picture_name.format(area), size)
        colours(root / mask_name.format(area), palette, size)


def potsdam(root):
    palette = [(0, 0, 0), *DATASETS["potsdam"].palette]
    _areas(
        root,
        _POTSDAM,
        (520, 600),
        "2_Ortho_RGB/top_potsdam_{}_RGB.tif",
        "5_Labels_all_noBoundary/top_potsdam_{}_label_noBoundary.tif",
        palette,
    )


def vaihingen(root):
    palette = [(0, 0, 0), *DATASETS["vaihingen"].palette]
    names = "top/top_mosaic_09cm_area{}.tif", "eroded/top_mosaic_09cm_area{}_noBoundary.tif"
    _areas(root, _VAIHINGEN, (40, 513), *names, palette)


def isaid(root):
    for part in ("train", "val"):
        for number, size in enumerate(((40, 50), (100, 1500))):
            picture(root / f"{part}/images/P{number:04d}.png", size)
            place = root / f"{part}/Semantic_masks/P{number:04d}_instance_color_RGB.png"
            colours(place, DATASETS["isaid"].palette, size)
    picture(root / "test/images/P0009.png", (30, 1000))


def coco_stuff_10k(root):
    stems = [f"COCO_train2014_{number:012d}" for number in range(4)]
    for stem in stems:
        picture(root / f"images/{stem}.jpg")
        used = [0, *(i for i in range(1, 183) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))]
        matlab(root / f"annotations/{stem}.mat", {"S": RNG.choice(np.array(used, np.uint16), (24, 32))})
    lines(root / "imageLists/train.txt", stems[:3])
    lines(root / "imageLists/test.txt", stems[3:])


def coco_stuff_164k(root):
    for part in ("train2017", "val2017"):
        for number in range(2):
            picture(root / f"{part}/{number:012d}.jpg")
            unused = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
            ids = [i for i in range(182) if i not in unused] + [255]
            mask(root / f"stuffthingmaps_trainval2017/{part}/{number:012d}.png", ids)


def pascal_voc_aug(root):
    stems = [f"2008_{number:06d}" for number in range(6)]
    voc = root / "VOCdevkit/VOC2012"
    for stem in stems:
        picture(voc / f"JPEGImages/{stem}.jpg")
    for stem in stems[:4]:
        mask(voc / f"SegmentationClass/{stem}.png", [*range(21), 255])
    lines(voc / "ImageSets/Segmentation/train.txt", stems[:2])
    lines(voc / "ImageSets/Segmentation/val.txt", stems[2:4])
    for stem in (stems[1], stems[2], *stems[4:]):  # one of VOC's training part, one that VOC tests on
        ids = RNG.integers(0, 21, (24, 32), dtype=np.uint8)
        matlab(
            root / f"benchmark_RELEASE/dataset/cls/{stem}.mat",
            {"GTcls": {"Segmentation": ids, "Boundaries": np.zeros((2, 2)), "CategoriesPresent": np.unique(ids)}},
        )


def pascal_context(root):
    voc = root / "VOCdevkit/VOC2010"
    for number in range(3):
        picture(voc / f"JPEGImages/2008_{number:06d}.jpg")
        matlab(root / f"trainval/2008_{number:06d}.mat", {"LabelMap": RNG.integers(1, 460, (24, 32), np.uint16)})
    lines(voc / "ImageSets/Main/train.txt", ["2008_000000 1", "2008_000001"])
    lines(voc / "ImageSets/Main/val.txt", ["2008_000002"])


def run_length_text(inside):
    """A region, bool (height, width), in COCO's compressed form."""
    flat = np.concatenate(([False], inside.T.reshape(-1)))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate(([0], changes, [inside.size]))).tolist()
    text = ""
    for place, length in enumerate(lengths):
        number = length - (lengths[place - 2] if place > 2 else 0)
        more = True
        while more:
            group = number & 31
            number >>= 5
            more = number != (-1 if group & 16 else 0)
            text += chr(group + 32 * more + 48)
    return text


def pascal_in_detail(root):
    """PASCAL in Detail's file beside the pictures; returns the 459 labels by name."""
    drawn, images, regions = {}, [], []
    for number, phase in enumerate(("train", "val", "val", "test")):
        name, image_id = f"2008_{number:06d}", 2008000000 + number
        picture(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg")
        labels = drawn[name] = np.zeros((24, 32), int)
        images.append({"image_id": image_id, "file_name": f"{name}.jpg", "phase": phase, "height": 24, "width": 32})
        for category in (2, 1, 454) * (number != 2):  # of the third, nothing is drawn
            inside = RNG.random((24, 32)) < 0.3
            labels[inside] = category
            rle = {"size": [24, 32], "counts": run_length_text(inside)}
            regions.append({"id": len(regions), "image_id": image_id, "category_id": category, "segmentation": rle})
    content = {"info": {}, "images": images, "annos_segmentation": regions, "annos_boundary": []}
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return drawn


RELEASE_OF = {
    "acdc": acdc,
    "cityscapes": cityscapes,
    "dark_zurich": dark_zurich,
    "night_driving": night_driving,
    "chase_db1": chase_db1,
    "drive": drive,
    "hrf": hrf,
    "stare": stare,
    "loveda": loveda,
    "potsdam": potsdam,
    "vaihingen": vaihingen,
    "isaid": isaid,
    "coco_stuff_10k": coco_stuff_10k,
    "coco_stuff_164k": coco_stuff_164k,
    "pascal_voc_aug": pascal_voc_aug,
    "pascal_context_59": pascal_context,
    "pascal_context_60": pascal_context,
}

COUNTS = {
    "acdc": {"train": 4, "val": 4, "test": 4},
    "cityscapes": {"train": 2, "val": 2},
    "dark_zurich": {"val": 2},
    "night_driving": {"test": 2},
    "chase_db1": {"train": 20, "val": 4},
    "drive": {"train": 2, "val": 2},
    "hrf": {"train": 15, "val": 6},
    "stare": {"train": 10, "val": 1},
    "loveda": {"train": 2, "val": 2, "test": 2},
    "potsdam": {"train": 24 * 4, "val": 14 * 4},
    "vaihingen": {"train": 16 * 2, "val": 17 * 2},
    "isaid": {"train": 1 + 3, "val": 1 + 3, "test": 1},
    "coco_stuff_10k": {"train": 3, "test": 1},
    "coco_stuff_164k": {"train": 2, "val": 2},
    "pascal_voc_aug": {"train": 4, "val": 2},
    "pascal_context_59": {"train": 2, "val": 1},
    "pascal_context_60": {"train": 2, "val": 1},
}
"""Prepared pictures of the small releases, by hand."""

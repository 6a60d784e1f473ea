"""Small exports as the tools write them: one picture of 12x10 pixels (width x height) or two."""

import json

import numpy as np
import PIL.Image

from segzoo.commands.cli import main

SIZE = (12, 10)


def save_picture(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def square(x, y, width, height):
    """The corners of a rectangle of so many pixels, as x and y in turn; the drawn outline takes part of it."""
    right, low = x + width - 1, y + height - 1
    return [x, y, right, y, right, low, x, low]


def block(x, y, width, height):
    """The corners of a rectangle of so many pixels, whose outline goes around them, as COCO has it."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco_object(number, image, category, segmentation, **more):
    entry = {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
    return {**entry, "area": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0], "attributes": {"occluded": False}, **more}


def write_coco(path, images, categories, objects):
    """A file with the keys of CVAT's 'COCO 1.0'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [
        {"id": number, "width": size[0], "height": size[1], "file_name": name, "license": 0, "date_captured": 0}
        for number, name, size in images
    ]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in categories],
        "images": named,
        "annotations": objects,
    }
    path.write_text(json.dumps(content))
    return path


def labelme_shape(label, points, kind="polygon"):
    return {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}


def write_labelme(path, picture, shapes, size=SIZE):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture, "imageData": "A" * 9000}
    path.write_text(json.dumps({**content, "imageHeight": size[1], "imageWidth": size[0]}, indent=2))


def write_yolo(root, split="train", name="a", lines=()):
    save_picture(root / "images" / split / f"{name}.jpg")
    labels = root / "labels" / split / f"{name}.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("".join(f"{line}\n" for line in lines))
    (root / "data.yaml").write_text(
        "names:\n  0: road\n  1: roof\npath: .\ntrain: images/train\nval: images/val\n", encoding="utf-8"
    )


def yolo_line(label, points, size=SIZE):
    pairs = zip(points[::2], points[1::2], strict=True)
    return " ".join([str(label), *(f"{x / size[0]:.6f} {y / size[1]:.6f}" for x, y in pairs)])


def make_masks(*arguments):
    """Exit status of `segzoo data masks`."""
    return main(["data", "masks", *map(str, arguments)])


def written(target, folder="images"):
    """Paths of the files in one of the folders of a target, without it and their extension."""
    files = (path.relative_to(target / folder) for path in (target / folder).rglob("*") if path.is_file())
    return sorted(path.with_suffix("").as_posix() for path in files)

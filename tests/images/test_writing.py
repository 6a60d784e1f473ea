"""PNG files that any reader takes, with the pixels that were given, and JPEG files that look like them."""

import io

import numpy as np
import pytest
from PIL import Image

from segzoo.images.drawing import default_palette, label_image
from segzoo.images.writing import write_jpeg, write_png


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 33)])
def test_pictures_are_the_same_pixels(size, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = write_png(tmp_path / "a.png", Image.fromarray(picture))
    with Image.open(path) as image:
        image.verify()  # of the check sums, too
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), picture)


def test_label_maps_keep_their_ids_and_colours(tmp_path):
    palette = default_palette(150)
    labels = np.random.default_rng(0).integers(0, 150, (9, 8)).repeat(5, 0).repeat(5, 1)
    for array, colours, mode in ((labels, palette, "P"), (labels + 1000, [], "I;16")):
        with Image.open(write_png(tmp_path / "a.png", label_image(array, colours))) as image:
            assert image.mode == mode and np.array_equal(np.asarray(image), array)
            assert mode != "P" or image.getpalette()[: 3 * 150] == sum(palette, [])
    with Image.open(write_png(tmp_path / "a.png", Image.fromarray(labels.astype(np.uint8)))) as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), labels)


def test_areas_of_one_colour_are_small(tmp_path):
    picture = np.zeros((400, 300, 3), np.uint8)
    picture[100:200, 50:120] = 200, 30, 10
    usual = io.BytesIO()
    Image.fromarray(picture).save(usual, format="PNG")
    assert write_png(tmp_path / "a.png", Image.fromarray(picture)).stat().st_size < max(
        4 * len(usual.getvalue()), picture.size // 50
    )


def test_thin_coloured_lines_stay_sharp_in_a_jpeg(tmp_path):
    picture = np.full((64, 80, 3), 120, np.uint8)
    picture[:, 40] = 220, 30, 40  # an outline of one pixel
    path = write_jpeg(tmp_path / "a.jpg", Image.fromarray(picture))
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        written = np.asarray(image).astype(int)
    assert np.abs(written - picture).max() <= 12
    smaller = write_jpeg(tmp_path / "b.jpg", Image.fromarray(picture), quality=30)
    assert smaller.stat().st_size < path.stat().st_size

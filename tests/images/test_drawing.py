"""Label PNGs, overlays, legends, contact sheets, tables and curves."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.errors import SegZooError
from segzoo.images import drawing as vis
from segzoo.images.legend import FAINT, Legend

PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
NAMES = ["wall", "grass", "water"]


def labels(height=30, width=40):
    """Three upright bands, and a corner without a class."""
    array = np.repeat(np.arange(3), [20, 15, 5])[:width][None].repeat(height, 0)
    array[:6, -5:] = 255
    return array


def colours(image):
    return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_default_palette_tells_classes_apart():
    palette = vis.default_palette(150)
    assert palette == vis.default_palette(150) and palette[:19] == vis.default_palette(19)
    assert len({tuple(colour) for colour in palette}) == 150
    assert all(0 <= value <= 255 for colour in palette for value in colour)
    for a, b in zip(palette[:-1], palette[1:], strict=True):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 100


def test_class_areas():
    areas = vis.class_areas(torch.from_numpy(labels()), 3)
    assert [(a["id"], a["pixels"]) for a in areas] == [(0, 600), (1, 450), (2, 120)]
    assert [a["fraction"] for a in areas] == [0.5, 0.375, 0.1]
    assert vis.class_areas(labels().astype(np.uint8), 3) == areas, "255 is no class, but counts as a pixel"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64, bool])
def test_label_image_holds_the_ids(dtype):
    array = labels().astype(dtype)
    file = io.BytesIO()
    vis.label_image(array, PALETTE).save(file, "PNG")
    image = Image.open(file)
    assert image.mode == "P" and np.array_equal(np.asarray(image), array.astype(np.uint8))
    assert image.getpalette()[:9] == [v for colour in PALETTE for v in colour]


def test_label_image_of_many_classes():
    array = labels() + 1000
    file = io.BytesIO()
    vis.label_image(array, vis.default_palette(2000)).save(file, "PNG")
    assert np.array_equal(np.asarray(Image.open(file)), array)
    for wrong in (array - 2000, array + 70000):
        with pytest.raises(SegZooError, match="ids from 0 to 65535"):
            vis.label_image(wrong, PALETTE)


def test_overlay_mixes_picture_and_colours():
    picture = np.full((30, 40, 3), 100, dtype=np.uint8)
    mixed = np.asarray(vis.overlay(picture, labels(), PALETTE, alpha=0.5, outline=False))
    assert mixed[0, 0].tolist() == [150, 50, 50] and mixed[20, 39].tolist() == [50, 50, 150]
    assert mixed[0, 39].tolist() == [100, 100, 100], "no class: the picture itself"
    outlined = np.asarray(vis.overlay(picture, labels(), PALETTE, alpha=0.5))
    assert outlined[0, 0].tolist() == [150, 50, 50]
    assert outlined[0, 20].tolist() == [5, 195, 5], "the border between two classes"
    assert np.array_equal(np.asarray(vis.overlay(picture, labels(), PALETTE, alpha=0, outline=False)), picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("alpha", [0, 0.3, 0.55, 1])
def test_overlay_rounds_every_mixture_to_the_nearest_grey_level(dtype, alpha):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    array = rng.choice([0, 1, 2, 3, 255], (12, 14)).repeat(5, 0).repeat(5, 1).astype(dtype)
    edge = np.zeros(array.shape, dtype=bool)
    edge[:, 1:] |= array[:, 1:] != array[:, :-1]
    edge[1:] |= array[1:] != array[:-1]
    strength = np.where(edge, np.float32(max(alpha, 0.95)), np.float32(alpha))[..., None]
    base, colour = picture.astype(np.float32), np.array(PALETTE, dtype=np.float32)[np.where(array < 3, array, 0)]
    expected = np.where((array < 3)[..., None], np.rint(base + (colour - base) * strength), base)
    assert np.array_equal(np.asarray(vis.overlay(picture, array, PALETTE, alpha=alpha)), expected)


@pytest.mark.parametrize("count", [255, 256, 300])
def test_overlay_of_any_number_of_classes(count):
    palette = vis.default_palette(count)
    array = np.arange(320).reshape(16, 20)
    drawn = np.asarray(vis.overlay(np.full((16, 20, 3), 255, np.uint8), array, palette, alpha=1, outline=False))
    expected = [*palette, *[[255, 255, 255]] * (320 - count)]
    assert np.array_equal(drawn.reshape(-1, 3), expected)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.zeros((30, 40, 3), np.uint8), labels(), PALETTE, 1.5), "alpha is 1.5"),
        ((np.zeros((40, 30, 3), np.uint8), labels(), PALETTE), "30x40 and the label map 40x30"),
        ((np.zeros((30, 40, 3), np.float32), labels(), PALETTE), "uint8 array; this one is float32"),
        ((np.zeros((30, 40, 3), np.uint8), labels().astype(np.float32), PALETTE), "integer array"),
        ((np.zeros((30, 40, 3), np.uint8), labels()[None], PALETTE), r"integer array \(height, width\)"),
    ],
)
def test_overlay_refuses(arguments, words):
    with pytest.raises(SegZooError, match=words):
        vis.overlay(*arguments)


def test_colour_map_hatches_what_has_no_class():
    image = vis.colour_map(labels(), PALETTE)
    assert {tuple(colour) for colour in PALETTE} < colours(image)
    assert len(colours(image.crop((35, 0, 40, 6)))) == 2


@pytest.mark.parametrize("size", [(20, 30), (640, 480), (1200, 300), (200, 900), (1, 1)])
def test_overlay_with_legend_shows_every_class(size):
    width, height = size
    array = np.arange(width * height).reshape(height, width) * 3 // (width * height)
    image = vis.overlay_with_legend(np.zeros((height, width, 3), np.uint8), array, PALETTE, NAMES)
    key = {tuple(PALETTE[i]) for i in np.unique(array)}
    assert key <= colours(image), "the legend has the colours at full strength"
    assert image.width >= width and image.height >= height
    assert image.width * image.height < 40 * max(width * height, 160**2), "in proportion"


def test_legend_sums_up_what_does_not_fit():
    palette, names = vis.default_palette(60), [f"class {i}" for i in range(60)]
    array = np.arange(3600).reshape(60, 60) // 60
    entries = vis._area_entries(array, palette, names, max_entries=20)
    assert len(entries) == 20 and entries[-1] == ("41 more", None, "68.3 %")
    array[:6] = 255
    assert vis._area_entries(array, palette, names, max_entries=20)[-1] == ("no label", None, "10.0 %")


def test_legend_of_odd_names():
    for names in (["", "名前 と 説明", "a very long name that no legend has room for at all"], ["x"] * 3):
        image = Legend([(name, colour, "1 %") for name, colour in zip(names, PALETTE, strict=True)], title="T").draw()
        assert {tuple(colour) for colour in PALETTE} <= colours(image)
    assert Legend([]).draw().width > 0


def test_a_legend_is_as_large_as_it_says_in_any_number_of_columns():
    entries = [(f"class {i}", colour, "") for i, colour in enumerate(vis.default_palette(12))]
    legend = Legend(entries, 20, "title")
    sizes = [legend.draw(columns).size for columns in (1, 3, 12)]
    assert sizes == [legend.extent(columns) for columns in (1, 3, 12)]
    assert sizes[0][0] < sizes[1][0] < sizes[2][0] and sizes[0][1] > sizes[1][1] > sizes[2][1]
    wide = vis.overlay_with_legend(
        np.zeros((90, 900, 3), np.uint8), np.arange(90 * 900).reshape(90, 900) % 4, PALETTE, NAMES
    )
    assert wide.width < 900 + 100 and wide.height > 90, "the legend of a wide picture lies below it"


def test_contact_sheet():
    picture = Image.new("RGB", (40, 30), (9, 9, 9))
    rows = [[picture, labels(), labels()], [picture, torch.from_numpy(labels()), vis.label_image(labels(), PALETTE)]]
    headings = ["picture", "label", "model"]
    sheet = vis.contact_sheet(rows, headings, PALETTE, NAMES, captions=["first", "second"], cell_width=120)
    assert sheet.width >= 360 and {tuple(colour) for colour in PALETTE} | {(9, 9, 9)} <= colours(sheet)
    plain = vis.contact_sheet(rows, headings, PALETTE, NAMES, cell_width=120)
    assert plain.height < sheet.height
    with pytest.raises(SegZooError, match="needs 2 cells"):
        vis.contact_sheet(rows, headings[:2], PALETTE, NAMES)


def test_confusion_matrix_shades_tell_right_from_wrong(tmp_path):
    matrix = torch.tensor([[30, 10, 0], [0, 5, 0], [0, 7, 0]])
    path = vis.draw_confusion_matrix(matrix, NAMES, tmp_path / "matrix.png", title="validation")
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    cell = 56
    grey = np.argwhere((pixels == FAINT).all(axis=-1))  # the frame: the longest line of its colour
    rows, counts = np.unique(grey[:, 0], return_counts=True)
    top, bottom = rows[counts >= 3 * cell]
    left = grey[grey[:, 0] == top][:, 1].min()
    assert bottom - top == 3 * cell - 1

    def shade(row, column):  # beside the number
        return pixels[top + row * cell + 8, left + column * cell + 8]

    def expected(share, colour):
        return [round(255 + (c - 255) * share**0.5) for c in colour]

    assert np.abs(shade(0, 0) - expected(0.75, vis._RIGHT)).max() <= 1
    assert np.abs(shade(0, 1) - expected(0.25, vis._WRONG)).max() <= 1
    assert list(shade(1, 1)) == list(vis._RIGHT) and list(shade(2, 1)) == list(vis._WRONG)
    assert list(shade(0, 2)) == list(shade(2, 2)) == [255, 255, 255]


def test_confusion_matrix_hatches_classes_without_pixels(tmp_path):
    for absent, hatched in (([1, 2], False), ([0, 0], True)):
        path = vis.draw_confusion_matrix(np.array([[3, 4], absent]), ["a", "b"], tmp_path / "m.png")
        assert (vis._HATCH in colours(Image.open(path))) == hatched
    empty = vis.draw_confusion_matrix(np.zeros((2, 2), dtype=int), ["a", "b"], tmp_path / "m.png")
    assert vis._RIGHT in colours(Image.open(empty))  # the key alone


@pytest.mark.parametrize("count", [1, 11, 45, 150, 400])
def test_confusion_matrix_of_many_classes(count, tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 100, (count, count)) + 1000 * np.eye(count, dtype=int)
    names = [f"class with a long name {i}" for i in range(count)]
    with Image.open(vis.draw_confusion_matrix(matrix, names, tmp_path / "m.png")) as image:
        assert 400 < image.width < 3000 and 180 < image.height < 3500


def test_confusion_notes_are_sorted_by_pixels():
    shares = np.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.0, 1.0, 0.0]])
    notes = vis._confusion_notes(shares, np.array([10.0, 1000.0, 1.0]), NAMES)
    assert notes == [
        "grass as wall: 10.0 % of the class",
        "wall as grass: 50.0 % of the class",
        "water as grass: 100.0 % of the class",
    ]


@pytest.mark.parametrize("matrix", [np.ones((2, 2)), np.ones((3, 2)), -np.ones((3, 3)), np.ones(3)])
def test_confusion_matrix_must_fit_the_names(matrix, tmp_path):
    with pytest.raises(SegZooError, match="3 x 3 counts"):
        vis.draw_confusion_matrix(matrix, NAMES, tmp_path / "m.png")

"""Polygons and runs of COCO become the pixels that COCO's own tools give them."""

import numpy as np
import PIL.Image
import pytest
from support.annotation_exports import block, coco_object, make_masks, save_picture, write_coco

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def drawn(tmp_path):
    """`drawn(*shapes)`: exit status and the mask of objects, each of a class of its own."""

    def draw(*shapes):
        export, target = tmp_path / "export", tmp_path / f"target{len(list(tmp_path.iterdir()))}"
        save_picture(export / "a.png", size=(WIDTH, HEIGHT))
        objects = [coco_object(number, 1, number, shape) for number, shape in enumerate(shapes, 1)]
        names = [(number, f"class {number}") for number, _ in enumerate(shapes, 1)]
        write_coco(export / "train.json", [(1, "a.png", (WIDTH, HEIGHT))], names, objects)
        status = make_masks(export, target)
        return status, np.asarray(PIL.Image.open(target / "annotations" / "train" / "a.png"))

    return draw


@pytest.fixture
def coco():
    return pytest.importorskip("pycocotools.mask")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_are_those_of_pycocotools(drawn, coco, rng):
    angles = np.sort(rng.uniform(0, 2 * np.pi, (5, 12)))
    for radius, angle in zip((1, 3, 6, 12, 25), angles, strict=True):
        points = np.stack([20 + radius * np.cos(angle), 15 + radius * np.sin(angle)], axis=1).ravel().tolist()
        parts = [points, block(0.5, 0.5, 3.2, 2.7)]
        expected = coco.decode(coco.merge(coco.frPyObjects(parts, HEIGHT, WIDTH)))
        np.testing.assert_array_equal(drawn(parts)[1], expected)


def test_neighbours_share_no_pixel(drawn, capsys):
    status, mask = drawn([block(10, 10, 10, 10)], [block(20, 10, 20, 10)])
    assert status == 0 and np.bincount(mask.ravel()).tolist() == [900, 100, 200]
    assert "share pixels" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("compressed", [True, False])
def test_runs_are_those_of_pycocotools(drawn, coco, rng, compressed):
    mask = rng.random((HEIGHT, WIDTH)) < 0.4
    mask[:, 5:30] = 1
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, *([] if edges[-1] == mask.size else [mask.size])]).tolist()
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    shape = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode() if compressed else counts}
    status, found = drawn(shape)
    assert status == 0
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"size": [WIDTH, HEIGHT], "counts": [300, 300, 600]}, "runs of (height, width) [40, 30]"),
        ({"size": [HEIGHT, WIDTH], "counts": [300, 300]}, "the sum of the number of pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [300, -300, 1200]}, "object 1"),
        ({"size": [HEIGHT, WIDTH], "counts": "34"}, "the sum of the number of pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "zz!!"}, "object 1"),
        ({"size": [HEIGHT, WIDTH]}, "counts"),
        ({"size": 5, "counts": [1200]}, "object 1"),
        ("a word", "object 1"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "a point is farther than"),
    ],
)
def test_shapes_that_cannot_be_drawn(drawn, capsys, shape, words):
    status, mask = drawn(shape, [block(0, 0, 2, 2)])
    told = capsys.readouterr().err
    assert status == 1 and "1 x outline that cannot be drawn" in told and words in told
    assert set(np.unique(mask)) == {0, 2}

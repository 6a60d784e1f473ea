"""Class ids from masks, however they are stored."""

import io
import warnings

import datasets
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from segzoo import SegZooError, SegZooImageProcessor
from segzoo.data import SegmentationDataset, build_processor_transform
from segzoo.images.masks import MaskOfColoursError, class_ids
from segzoo.images.reading import is_lossy, open_picture

IDS = np.random.default_rng(0).integers(0, 5, (12, 16), dtype=np.uint8)
GREY = PIL.Image.fromarray(IDS)


def stored(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def array_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff_file(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


SIX = np.repeat(IDS[..., None], 6, axis=-1)
EQUAL = {
    "RGB": stored(GREY.convert("RGB"), "PNG"),
    "RGBA": stored(GREY.convert("RGBA"), "PNG"),
    "grey and alpha": stored(GREY.convert("LA"), "PNG"),
    "lossless WebP": stored(GREY.convert("RGB"), "WEBP", lossless=True),
    "lossless WebP with metadata": stored(GREY.convert("RGB"), "WEBP", lossless=True, exif=PIL.Image.Exif(), xmp=b"<x/>"),
    "RGB TIFF": stored(GREY.convert("RGB"), "TIFF"),
    "six bands": tiff_file(SIX, photometric="minisblack", planarconfig="contig"),
    "an array": np.repeat(IDS[..., None], 3, axis=-1),
    "an array with alpha": np.dstack([IDS, IDS, IDS, np.full_like(IDS, 255)]),
}  # fmt: skip
WHOLE = {
    "float TIFF": stored(PIL.Image.fromarray(IDS.astype(np.float32)), "TIFF"),
    "double TIFF": tiff_file(IDS.astype(np.float64)),
    "float array file": array_file(IDS.astype(np.float32)),
    "integer array file": array_file(IDS.astype(np.int64)),
    "float array": IDS.astype(np.float16),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_the_first_of_equal_channels(kind):
    notes = []
    assert np.array_equal(class_ids(open_picture(EQUAL[kind], name="a"), notes.append), IDS)
    assert len(notes) == 1 and notes[0].startswith("a: a mask whose channels are all equal (")


@pytest.mark.parametrize("kind", WHOLE)
def test_floats_that_are_whole_numbers(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(class_ids(open_picture(WHOLE[kind])), IDS)


def _with_alpha():
    image = GREY.convert("RGBA")
    image.putpixel((3, 3), (1, 1, 1, 0))
    return image


@pytest.mark.parametrize(
    ("source", "message", "of_colours"),
    [
        (stored(PIL.Image.merge("RGB", [GREY, GREY, GREY.rotate(180)]), "PNG"), r"picture of colours \(RGB\)", True),
        (stored(_with_alpha(), "PNG"), r"\(RGBA\) is grey with an alpha channel that varies", False),
        (stored(GREY.convert("RGB"), "JPEG", quality=95), "compressed with losses", False),
        (stored(PIL.Image.new("RGB", (16, 12), (3, 3, 3)), "WEBP", quality=90), "compressed with losses", False),
        (array_file(IDS + 0.5), "192 of these floats are not", False),
        (array_file(np.arange(24).reshape(2, 3, 4)), "picture of colours .an array of 4 channels.", True),
        (array_file(np.zeros((2, 2, 2, 2))), r"shape \(2, 2, 2, 2\) is no picture", False),
    ],
)
def test_what_is_refused_is_named(source, message, of_colours):
    with pytest.raises(SegZooError, match=message) as caught:
        class_ids(open_picture(source, name="a", what="mask"))
    assert isinstance(caught.value, MaskOfColoursError) == of_colours and str(caught.value).startswith("a: ")


def test_losses_are_seen_in_the_file():
    image = GREY.convert("RGB")
    for form, options, lossy in (
        ("WEBP", {"quality": 80}, True),
        ("WEBP", {"quality": 80, "xmp": b"<x/>"}, True),
        ("WEBP", {"lossless": True, "xmp": b"<x/>"}, False),
        ("JPEG", {}, True),
        ("PNG", {}, False),
    ):
        file = io.BytesIO(stored(image, form, **options))
        assert is_lossy(file, form) == lossy and file.tell() == 0


def test_a_table_tells_one_note():
    """Rows of a table hold the bytes of masks; all rows, epochs and loading processes together tell one note."""
    rows = [
        {"image": {"path": None, "bytes": EQUAL["RGB"]}, "label": {"path": "m.png", "bytes": EQUAL["RGB"]}}
        for _ in range(4)
    ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table = table.cast_column("label", datasets.Image())
    processor = SegZooImageProcessor(do_resize=False)
    data = SegmentationDataset(table, build_processor_transform(processor), num_labels=5)
    with pytest.warns(UserWarning) as told:
        for row in range(4):
            assert np.array_equal(data[row]["labels"].numpy(), IDS)
    assert [str(warning.message) for warning in told] == [
        "m.png (row 0): a mask whose channels are all equal (RGB); the first one is read as class ids (told once for this data set)"
    ]
    wrong = SegmentationDataset(table, build_processor_transform(processor), num_labels=2)
    with pytest.raises(SegZooError, match=r"^m.png \(row 2\): label ids outside 0..1"), pytest.warns(UserWarning):
        wrong[2]


def test_the_image_processor():
    image = np.zeros((12, 16, 3), np.uint8)
    processor = SegZooImageProcessor(do_resize=False)
    for mask in (IDS.astype(np.float32), torch.from_numpy(IDS).double(), GREY.convert("RGB"), EQUAL["an array"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            labels = processor(image, mask, return_tensors="pt")["labels"]
        assert labels.dtype == torch.int64 and np.array_equal(labels[0].numpy(), IDS)
    with pytest.warns(UserWarning, match="channels are all equal"):
        processor(image, GREY.convert("RGB"))

import io
import zlib

import numpy as np
import PIL.Image
import pytest
import torch

from segzoo.data.decoding import (
    CorruptImageError,
    colors_to_ids,
    decode_example,
    decode_grey_png,
    decode_image,
    decode_jpeg,
    decode_mask,
    decode_pair,
)
from segzoo.data.label_encodings import LABEL_ENCODINGS
from segzoo.data.loading import load_segmentation_dataset
from segzoo.errors import SegZooError

SIZE = (12, 20)


@pytest.fixture
def ids(rng):
    return rng.integers(0, 7, SIZE, dtype=np.uint8)


def test_masks_of_every_kind(tmp_path, ids):
    PIL.Image.fromarray(ids).save(tmp_path / "grey.png")
    palette = PIL.Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([3 * i % 256 for i in range(768)])
    palette.save(tmp_path / "palette.png")
    wide = ids.astype(np.uint16) * 1000
    PIL.Image.fromarray(wide).save(tmp_path / "wide.png")
    PIL.Image.fromarray(ids > 3).save(tmp_path / "two.png")
    assert (decode_mask(tmp_path / "grey.png") == ids).all()
    assert (decode_mask(tmp_path / "palette.png") == ids).all()
    assert decode_mask(tmp_path / "palette.png").dtype == np.uint8
    assert (decode_mask(tmp_path / "wide.png") == wide).all() and decode_mask(tmp_path / "wide.png").dtype == np.int32
    assert (decode_mask(tmp_path / "two.png") == (ids > 3)).all()
    data = (tmp_path / "grey.png").read_bytes()
    for source in (data, {"path": None, "bytes": data}, PIL.Image.open(io.BytesIO(data)), ids):
        assert (decode_mask(source) == ids).all()


def test_float_masks_of_whole_numbers(tmp_path, ids):
    PIL.Image.fromarray(ids.astype(np.float32) * 100).save(tmp_path / "gis.tif")
    mask = decode_mask(tmp_path / "gis.tif")
    assert (mask == ids * 100.0).all() and mask.dtype == np.int32
    assert (decode_pair(None, ids.astype(np.float64))[1] == ids).all()
    for value, words in ((1.5, "1 of these floats are not.*1.5"), (np.nan, "nan.*ignore index"), (3e9, "32 bits")):
        wrong = ids.astype(np.float32)
        wrong[2, 3] = value
        PIL.Image.fromarray(wrong).save(tmp_path / "wrong.tif")
        with pytest.raises(SegZooError, match=f"wrong.tif: .*{words}"):
            decode_mask(tmp_path / "wrong.tif")


def test_coloured_masks_are_refused_with_the_fix(tmp_path, ids):
    PIL.Image.fromarray(np.stack([ids, ids, ids], axis=-1)).save(tmp_path / "grey.png")
    with pytest.warns(UserWarning, match=r"grey.png: a mask whose channels are all equal \(RGB\)"):
        assert (decode_mask(tmp_path / "grey.png") == ids).all()
    PIL.Image.fromarray(np.stack([ids, ids * 3, ids], axis=-1)).save(tmp_path / "colours.png")
    with pytest.raises(SegZooError, match=r"colours.png.*colors_to_ids"):
        decode_mask(tmp_path / "colours.png")


def test_colours_to_ids(ids, rng):
    palette = [(10, 20, 30), (200, 0, 0), (0, 0, 255), (1, 2, 3), (4, 5, 6), (7, 8, 9), (9, 9, 9)]
    painted = np.asarray(palette, dtype=np.uint8)[ids]
    assert (colors_to_ids(painted, palette) == ids).all()
    painted[0, 0] = 0
    assert colors_to_ids(PIL.Image.fromarray(painted), palette)[0, 0] == 255
    with pytest.raises(SegZooError, match=r"\(200, 0, 0\) x"):
        colors_to_ids(painted, palette[:1] + palette[2:])
    two = {color: int(index > 3) for index, color in enumerate(palette)}
    assert (colors_to_ids(painted, two)[1:] == (ids > 3)[1:]).all()
    assert colors_to_ids(painted, {(0, 0, 0): 300} | two).dtype == np.int32


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mask_is", ["upright", "as stored", "tagged"])
def test_exif_rotation_reaches_picture_and_mask(tmp_path, rng, orientation, mask_is):
    stored = rng.integers(0, 2, SIZE, dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    grey = np.kron(stored, np.ones((8, 8), dtype=np.uint8)) * 255
    PIL.Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    upright = decode_image(tmp_path / "photo.jpg")[..., 0] > 127
    raw = PIL.Image.fromarray(grey // 255)
    swapped = orientation >= 5
    if mask_is == "upright":
        PIL.Image.fromarray(upright.astype(np.uint8)).save(tmp_path / "mask.png")
    elif mask_is == "tagged":
        raw.save(tmp_path / "mask.png", exif=exif)
    else:
        if orientation != 1 and not swapped:
            pytest.skip("without a tag and with one size nothing tells such a mask from an upright one")
        raw.save(tmp_path / "mask.png")
    image, mask = decode_pair(tmp_path / "photo.jpg", tmp_path / "mask.png")
    assert image.shape[:2] == mask.shape == ((160, 96) if swapped else (96, 160))
    assert (mask == upright).all()


def test_exif_rotation_through_datasets(make_folder, tmp_path):
    make_folder({"train": ["a"]})
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.open(tmp_path / "images/train/a.jpg").save(tmp_path / "images/train/a.jpg", exif=exif)
    stored = np.asarray(PIL.Image.open(tmp_path / "annotations/train/a.png"))
    image, mask = decode_example(load_segmentation_dataset(tmp_path)["train"][0])
    assert image.shape[:2] == mask.shape == (32, 24)
    assert (mask == np.rot90(stored, -1)).all()


def test_different_sizes_name_both(tmp_path, ids):
    PIL.Image.new("RGB", (30, 40)).save(tmp_path / "a.jpg")
    PIL.Image.fromarray(ids).save(tmp_path / "a.png")
    with pytest.raises(SegZooError, match=r"a\.jpg is 30x40.*a\.png is 20x12"):
        decode_pair(tmp_path / "a.jpg", tmp_path / "a.png")


def test_masks_that_are_written_otherwise(tmp_path, ids):
    PIL.Image.fromarray(ids + 6).save(tmp_path / "a.png")  # Cityscapes' own ids 6..12
    expected = np.array([255, 0, 1, 255, 255, 2, 3])[ids]
    for label in (tmp_path / "a.png", PIL.Image.open(tmp_path / "a.png")):
        assert (decode_pair(None, label, encoding="cityscapes_label_ids")[1] == expected).all()
    with pytest.raises(SegZooError, match="'something'.*known are cityscapes_label_ids"):
        decode_pair(None, tmp_path / "a.png", encoding="something")


def test_jpeg_by_torchvision_has_the_pixels_of_pillow(tmp_path):
    rng = np.random.default_rng(0)
    smooth = PIL.Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((75, 50), PIL.Image.BICUBIC)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    told = []

    def decoder(image, file):
        told.append(decode_jpeg(image, file))
        return told[-1]

    for subsampling, progressive in ((0, False), (1, True), (2, False)):
        options = {"quality": 80, "subsampling": subsampling, "progressive": progressive, "exif": exif}
        smooth.save(tmp_path / "a.jpg", **options)
        picture, _ = decode_pair(tmp_path / "a.jpg", None, decoder=decoder)
        assert told.pop().shape == (50, 75, 3)
        assert picture.shape == (75, 50, 3) and (picture == decode_image(tmp_path / "a.jpg")).all()
    smooth.convert("CMYK").save(tmp_path / "cmyk.jpg")
    smooth.convert("L").save(tmp_path / "grey.jpg")
    smooth.save(tmp_path / "a.png")
    for name in ("cmyk.jpg", "grey.jpg", "a.png"):  # Pillow's
        picture, _ = decode_pair(tmp_path / name, None, decoder=decoder)
        assert told.pop() is None and (picture == decode_image(tmp_path / name)).all()
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptImageError, match=r"a\.jpg: the image cannot be read \(.*truncated"):
        decode_pair(tmp_path / "a.jpg", None, decoder=decoder)
    assert told == [None]


def test_grey_png_by_torchvision_has_the_values_of_pillow(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (19, 23), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    told = []

    def decoder(image, file):
        told.append(decode_grey_png(image, file))
        return told[-1]

    def agree(name):
        mask = decode_pair(None, tmp_path / name, label_decoder=decoder)[1]
        assert (mask == decode_mask(tmp_path / name)).all()
        return told.pop() is not None, mask.shape

    for options in ({}, {"dpi": (72, 72)}, {"optimize": True}, {"bits": 4}, {"bits": 2}):
        PIL.Image.fromarray(ids).save(tmp_path / "a.png", **options)
        assert agree("a.png") == (True, (19, 23))
    for name, options in (
        ("gone", {"transparency": 3}),
        ("icc", {"icc_profile": b"no profile"}),
        ("exif", {"exif": exif}),
    ):
        PIL.Image.fromarray(ids).save(tmp_path / f"{name}.png", **options)
        assert agree(f"{name}.png") == (False, (23, 19) if name == "exif" else (19, 23))
    content, turn = (tmp_path / "a.png").read_bytes(), b"eXIf" + exif.tobytes()[6:]
    turn = (len(turn) - 4).to_bytes(4, "big") + turn + zlib.crc32(turn).to_bytes(4, "big")
    (tmp_path / "after.png").write_bytes(content[:-12] + turn + content[-12:])  # after the values
    assert agree("after.png") == (False, (23, 19))
    palette = PIL.Image.fromarray(ids % 4).convert("P")
    palette.save(tmp_path / "palette.png")
    PIL.Image.fromarray(ids.astype(np.uint16) * 3).save(tmp_path / "deep.png")
    PIL.Image.fromarray(ids % 2 == 0).save(tmp_path / "bits.png")
    PIL.Image.fromarray(ids).save(tmp_path / "a.bmp")
    for name in ("palette.png", "deep.png", "bits.png", "a.bmp"):  # Pillow's
        assert agree(name) == (False, (19, 23))
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptImageError, match=r"a\.png: the mask cannot be read"):
        decode_pair(None, tmp_path / "a.png", label_decoder=decoder)
    assert told.pop() is None
    (tmp_path / "a.png").write_bytes(content.replace(b"IDAT", b"IDAT!", 1))  # libpng refuses it, Pillow does not
    assert agree("a.png") == (False, (19, 23))


def test_grey_masks_of_colours_are_left_to_pillow(tmp_path, ids):
    """In a data set whose masks are colours, a mask of greys alone is stored as grey by some programs."""
    grey = PIL.Image.fromarray(np.zeros_like(ids))
    grey.save(tmp_path / "a.png")
    name = next(name for name, known in LABEL_ENCODINGS.items() if known.colors is not None)
    expected = decode_pair(None, tmp_path / "a.png", encoding=name)[1]
    assert (decode_pair(None, tmp_path / "a.png", encoding=name, label_decoder=decode_grey_png)[1] == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1)])
def test_turned_pictures_of_one_row_or_column_become_tensors(tmp_path, size, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    for name, shape in (("a.png", (*size, 3)), ("b.png", size)):
        PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name, exif=exif)
    for array in decode_pair(tmp_path / "a.png", tmp_path / "b.png"):
        assert torch.from_numpy(array).shape[:2] == (size if orientation < 5 else size[::-1])

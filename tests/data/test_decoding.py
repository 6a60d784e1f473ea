import io
import multiprocessing
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from segzoo.data.decoding import (
    CorruptImageError,
    colors_to_ids,
    decode_example,
    decode_image,
    decode_mask,
    decode_pair,
    read_bytes,
)
from segzoo.data.loading import load_segmentation_dataset
from segzoo.errors import SegZooError

SIZE = (12, 20)


@pytest.fixture
def ids(rng):
    return rng.integers(0, 7, SIZE, dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pictures_of_any_kind_become_rgb(tmp_path, rng, mode):
    picture = PIL.Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("bild ü.tif" if mode == "CMYK" else "bild ü.png")
    picture.save(path)
    decoded = decode_image(path)
    assert decoded.shape == (*SIZE, 3) and decoded.dtype == np.uint8 and decoded.flags.writeable
    if mode in ("RGB", "L"):
        assert (decoded == np.asarray(picture.convert("RGB"))).all()


def test_16_bit_grey_pictures_are_scaled(tmp_path):
    wide = (np.arange(240, dtype=np.uint16).reshape(SIZE) * 256).astype(np.uint16)
    PIL.Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode_image(tmp_path / "wide.png")[..., 1] == wide >> 8).all()


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


def test_coloured_masks_are_refused_with_the_fix(tmp_path, ids):
    PIL.Image.fromarray(np.stack([ids, ids, ids], axis=-1)).save(tmp_path / "grey.png")
    with pytest.raises(SegZooError, match=r"grey.png.*getchannel\(0\)"):
        decode_mask(tmp_path / "grey.png")
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


def test_broken_files_are_named(tmp_path, rng):
    PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "page.jpg", "empty.jpg"):
        with pytest.raises(CorruptImageError, match=f"{name}: the image cannot be read"):
            decode_image(tmp_path / name)
    with pytest.raises(CorruptImageError, match="gone.png.*does not exist"):
        decode_mask(tmp_path / "gone.png")


def test_files_in_archives(tmp_path, ids):
    PIL.Image.fromarray(ids).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    archive = tmp_path / "größe 1.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("masks/ä b.png", data)
        opened.writestr("broken.png", data)
    raw = bytearray(archive.read_bytes())
    raw[raw.rindex(data) + len(data) // 2] ^= 1  # one bit of the second member
    archive.write_bytes(raw)
    address = f"zip://masks/ä b.png::{archive}"
    assert read_bytes(address) == read_bytes({"path": address, "bytes": None}) == data
    assert read_bytes(tmp_path / "a.png") == read_bytes(data) == read_bytes({"path": "x", "bytes": data}) == data
    assert (decode_mask(address) == ids).all() and (decode_mask({"path": address, "bytes": None}) == ids).all()
    with pytest.raises(CorruptImageError, match=r"größe 1.zip/broken.png: the mask cannot be read \(Bad CRC"):
        decode_mask(f"zip://broken.png::{archive}")
    with pytest.raises(CorruptImageError, match=r"größe 1.zip/gone.png: the mask file does not exist"):
        decode_mask(f"zip://gone.png::{archive}")
    with pytest.raises(CorruptImageError, match="gone.zip/a.png: the file does not exist"):
        read_bytes(f"zip://a.png::{tmp_path}/gone.zip")
    with pytest.raises(CorruptImageError, match="neither a path nor bytes"):
        read_bytes({"path": None, "bytes": None})


def test_archives_are_read_by_threads_and_forks(tmp_path, rng):
    """Each process opens an archive anew: a shared place in the file would give one another's bytes."""
    contents = {f"{i}.bin": rng.bytes(20_000) for i in range(8)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name, data in contents.items():
            opened.writestr(name, data)
    addresses = [f"zip://{name}::{tmp_path}/a.zip" for name in contents] * 25
    expected = list(contents.values()) * 25
    assert read_bytes(addresses[0]) == expected[0]  # open before the fork
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_bytes, addresses)) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_bytes, addresses, chunksize=1) == expected


def test_masks_that_are_written_otherwise(tmp_path, ids):
    PIL.Image.fromarray(ids + 6).save(tmp_path / "a.png")  # Cityscapes' own ids 6..12
    expected = np.array([255, 0, 1, 255, 255, 2, 3])[ids]
    for label in (tmp_path / "a.png", PIL.Image.open(tmp_path / "a.png")):
        assert (decode_pair(None, label, encoding="cityscapes_label_ids")[1] == expected).all()
    with pytest.raises(SegZooError, match="'something'.*known are cityscapes_label_ids"):
        decode_pair(None, tmp_path / "a.png", encoding="something")

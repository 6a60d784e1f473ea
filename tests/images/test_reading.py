"""Files, bytes and images are read upright, and errors name them."""

import multiprocessing
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from segzoo.data.decoding import decode_mask, decode_pair
from segzoo.errors import SegZooError
from segzoo.images.reading import (
    CorruptImageError,
    decode_image,
    in_colour,
    open_picture,
    read_bytes,
    read_header,
    upright,
)
from segzoo.images.values import EIGHT_BITS, FLOATS, OTHER_INTEGERS, SIXTEEN_BITS, grey_levels, value_rule

SIZE = (12, 20)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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


# Values


def test_each_type_has_one_rule():
    types = {
        EIGHT_BITS: (bool, np.uint8),
        SIXTEEN_BITS: (np.uint16, ">u2"),
        OTHER_INTEGERS: (np.int8, np.int16, np.int32, np.uint32, np.int64),
        FLOATS: (np.float16, np.float32, np.float64),
    }
    for rule, members in types.items():
        assert all(value_rule(dtype) is rule for dtype in members)
    with pytest.raises(SegZooError, match="complex64 are not read"):
        value_rule(np.complex64)


def test_a_value_becomes_the_same_grey_level_in_every_picture():
    """Dark pictures stay dark: nothing depends on the largest value that a picture happens to have."""
    dark, bright = np.array([0, 255, 256, 1000]), np.array([0, 255, 256, 1000, 65535])
    for values in (dark, bright):
        assert grey_levels(values.astype(np.uint16), "x").tolist() == [0, 0, 1, 3, 255][: len(values)]
    for values in ([0, 0.25], [0, 0.25, 1]):
        assert grey_levels(np.array(values, np.float32), "x").tolist() == [0, 64, 255][: len(values)]
    for values in ([0, 1], [0, 1, 255]):
        assert grey_levels(np.array(values, np.int32), "x").tolist() == values
    assert grey_levels(np.array([False, True]), "x").tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0, 256]], np.int32), "int32 values from 0 to 256.*save them as 8 bits"),
        (np.array([[-1, 3]], np.int32), "int32 values from -1 to 3"),
        (np.array([[0, 1.01]], np.float32), "float values from 0 to 1.01.*divide them"),
        (np.array([[-0.1, 1]], np.float32), "float values from -0.1 to 1"),
        (np.array([[0, np.nan, 1, np.inf]], np.float32), "2 of its float values are NaN or infinite.*nan_to_num"),
    ],
)
def test_values_without_a_place_are_refused_by_name(tmp_path, values, words):
    PIL.Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(SegZooError, match=f"odd.tif: {words}") as refusal:
        decode_image(tmp_path / "odd.tif")
    assert not isinstance(refusal.value, CorruptImageError)


def test_headers_name_the_rule_and_the_size(tmp_path, rng):
    wide = rng.integers(0, 65536, (*SIZE, 3), dtype=np.uint16)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray((wide >> 8).astype(np.uint8)).save(tmp_path / "rgb.png", exif=exif)
    PIL.Image.fromarray(wide[..., 0]).save(tmp_path / "grey.png")
    PIL.Image.fromarray(wide[..., 0]).save(tmp_path / "grey.pgm")
    tifffile.imwrite(tmp_path / "rgb.tif", wide, photometric="rgb")
    tifffile.imwrite(tmp_path / "seven.tif", np.zeros((*SIZE, 7), np.float32), planarconfig="contig")
    rules = {"rgb.png": EIGHT_BITS, "seven.tif": FLOATS}
    for name in ("rgb.png", "grey.png", "grey.pgm", "rgb.tif", "seven.tif"):
        header = read_header(tmp_path / name)
        assert header.size == SIZE[::-1] and header.rule is rules.get(name, SIXTEEN_BITS), name
        assert header.upright_size == (SIZE if name == "rgb.png" else SIZE[::-1])
    assert (header.channels, header.mode, header.format) == (7, "7 x float32", "TIFF")
    for name in ("grey.png", "grey.pgm"):
        assert open_picture(tmp_path / name).rule is SIXTEEN_BITS
        assert (decode_image(tmp_path / name)[..., 1] == wide[..., 0] >> 8).all()
    assert (decode_image(tmp_path / "rgb.tif") == wide >> 8).all()


# Channels


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [2, 4, 5, 13])
def test_tiff_files_of_many_bands(tmp_path, rng, capfd, bands, dtype, planar):
    values = rng.random((*SIZE, bands), dtype=np.float32)
    values = values if dtype == np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    path = tmp_path / "bänder.tif"
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
    expected = grey_levels(values, "x")
    for source in (path, path.read_bytes(), {"path": "x.tif", "bytes": path.read_bytes()}):
        assert (decode_image(source, num_channels=bands) == expected).all()
    with pytest.raises(SegZooError, match=f"bänder.tif has {bands} channels, .* expect 6; .*num_channels"):
        decode_image(path, num_channels=6)
    if bands == 4:
        assert (decode_image(path) == expected[..., :3]).all()
    else:
        with pytest.raises(SegZooError, match=f"bänder.tif has {bands} channels, .* expect 3"):
            decode_image(path)
    assert capfd.readouterr().err == "", "Pillow complains of more than six bands"


def test_bands_are_turned_and_broken_bands_are_named(tmp_path, rng):
    values = rng.integers(0, 256, (*SIZE, 5), dtype=np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "turned.tif", values, extratags=[(274, 3, 1, 6, True)], **options)
    assert (decode_image(tmp_path / "turned.tif", num_channels=5) == np.rot90(values, -1)).all()
    tifffile.imwrite(tmp_path / "zipped.tif", values, compression="zlib", **options)
    assert (decode_image(tmp_path / "zipped.tif", num_channels=5) == values).all()
    data = bytearray((tmp_path / "zipped.tif").read_bytes())
    data[-400:-300] = bytes(100)
    (tmp_path / "broken.tif").write_bytes(data)
    with pytest.raises(CorruptImageError, match="broken.tif: the image cannot be read"):
        decode_image(tmp_path / "broken.tif", num_channels=5)


def test_without_the_library_the_command_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "five.tif", np.zeros((*SIZE, 5), np.uint8), planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SegZooError, match="five.tif: .*pip install tifffile"):
        decode_image(tmp_path / "five.tif", num_channels=5)


def test_channels_that_a_model_reads(tmp_path, rng):
    rgba = rng.integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    picture = PIL.Image.fromarray(rgba)
    picture.save(tmp_path / "rgba.png")
    picture.convert("RGB").save(tmp_path / "rgb.png")
    assert (decode_image(tmp_path / "rgba.png", num_channels=4) == rgba).all()
    assert (decode_image(tmp_path / "rgba.png") == rgba[..., :3]).all()
    grey = np.asarray(picture.convert("RGB").convert("L"))[..., None]
    for source in (tmp_path / "rgb.png", picture.convert("RGB"), rgba[..., :3], rgba):
        assert (decode_image(source, num_channels=1) == grey).all()
    with pytest.raises(SegZooError, match="rgb.png has 3 channels, .* expect 4"):
        decode_image(tmp_path / "rgb.png", num_channels=4)
    with pytest.raises(SegZooError, match="has 3 channels"):
        open_picture(tmp_path / "rgb.png").grey_levels(1 + 1)
    assert not np.shares_memory(decode_image(rgba, num_channels=4), rgba)
    assert (in_colour(rgba) == rgba[..., :3]).all()
    assert (in_colour(rgba[..., :2]) == rgba[..., [0, 0, 0]]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_as_pillow_turns(tmp_path, rng, orientation, suffix):
    """Pillow itself turns a TIFF file while it decodes it."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path, exif=exif)
    with PIL.Image.open(path) as image:
        expected = np.asarray(PIL.ImageOps.exif_transpose(image))
    for source in (path, path.read_bytes()):
        assert (decode_image(source) == expected).all()
        header, picture = read_header(source), open_picture(source)
        assert header.orientation == picture.orientation == orientation
        assert header.size == picture.stored_size[::-1] == SIZE[::-1]
        assert header.upright_size == expected.shape[1::-1]
    with PIL.Image.open(path) as image:
        assert (decode_image(image) == expected).all()
        assert (decode_image(image) == expected).all(), "decoded before"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_in_tiff_files_are_turned_once(tmp_path, rng, orientation):
    ids = rng.integers(0, 7, SIZE, dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(ids).save(tmp_path / "a.tif", exif=exif)
    assert (decode_mask(tmp_path / "a.tif") == upright(ids, orientation)).all()
    # A mask without a tag is turned with its picture.
    PIL.Image.fromarray(ids).save(tmp_path / "a.png")
    _, mask = decode_pair(tmp_path / "a.tif", tmp_path / "a.png", num_channels=1)
    if orientation >= 5:
        assert (mask == upright(ids, orientation)).all()


# Files


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

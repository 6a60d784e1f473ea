"""Plain JPEG and PNG files are known from their bytes, as Pillow knows them."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzoo.data.decoding import decode_grey_png, decode_jpeg
from segzoo.images import reading
from segzoo.images.plain import may_be_plain, plain_file
from segzoo.images.reading import open_picture

RNG = np.random.default_rng(0)
COLOURS = PIL.Image.fromarray(RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8))
IDS = PIL.Image.fromarray(RNG.integers(0, 16, (9, 14), dtype=np.uint8))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
EXIF = PIL.Image.Exif()
EXIF[0x0112] = 6


def saved(image, form, **options):
    with io.BytesIO() as file:
        image.save(file, form, **options)
        return file.getvalue()


PLAIN = {
    "jpeg": saved(COLOURS, "JPEG"),
    "progressive": saved(COLOURS, "JPEG", progressive=True, subsampling=0),
    "restarts": saved(COLOURS, "JPEG", restart_marker_rows=1),
    "comment": saved(COLOURS, "JPEG", comment=b"\xff\xda a comment"),
    "profile": saved(COLOURS, "JPEG", icc_profile=bytes(70_000)),
    "png": saved(IDS, "PNG"),
    "four bits": saved(IDS, "PNG", bits=4),
}
OTHERS = {
    "exif": saved(COLOURS, "JPEG", exif=EXIF),
    "xmp": saved(COLOURS, "JPEG", xmp=XMP),
    "grey": saved(IDS, "JPEG"),
    "cmyk": saved(COLOURS.convert("CMYK"), "JPEG"),
    "several": saved(COLOURS, "MPO", save_all=True, append_images=[COLOURS]),
    "adobe": PLAIN["jpeg"][:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0" + PLAIN["jpeg"][2:],
    "colours": saved(COLOURS, "PNG"),
    "palette": saved(IDS.convert("P"), "PNG"),
    "alpha": saved(IDS.convert("LA"), "PNG"),
    "deep": saved(PIL.Image.fromarray(np.zeros((9, 14), np.uint16)), "PNG"),
    "bits": saved(IDS.convert("1"), "PNG"),
    "bmp": saved(COLOURS, "BMP"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_what_pillow_says(name):
    with PIL.Image.open(io.BytesIO(PLAIN[name])) as image:
        found = plain_file(PLAIN[name])
        assert (found.format, found.mode, found.size) == (image.format, image.mode, image.size)
        assert may_be_plain(PLAIN[name][:8]) and image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_all_others_are_left_to_pillow(name):
    assert plain_file(OTHERS[name]) is None


@pytest.mark.parametrize("name", [*PLAIN, *(name for name in OTHERS if name != "nothing")])
def test_decoded_they_are_the_same(name):
    content = (PLAIN | OTHERS)[name]
    decoder = decode_grey_png if content.startswith(b"\x89PNG") else decode_jpeg
    found, expected = open_picture(content, decoder=decoder), open_picture(content)
    assert isinstance(found.stored, np.ndarray) or name in OTHERS
    assert (found.orientation, found.lossy, found.stored_size, found.rule) == (
        expected.orientation,
        expected.lossy,
        expected.stored_size,
        expected.rule,
    )
    channels = len(COLOURS.getbands()) if expected.stored.mode in ("RGB", "CMYK") else 1
    assert (found.grey_levels(channels) == expected.grey_levels(channels)).all()


def test_pillow_is_not_asked_about_them(monkeypatch):
    monkeypatch.setattr(reading, "_image", lambda file: pytest.fail("asked"))
    for name, decoder in (("jpeg", decode_jpeg), ("png", decode_grey_png)):
        assert open_picture(PLAIN[name], decoder=decoder).stored_size == (9, 14)


def test_pictures_beyond_pillows_limit_are_left_to_it(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(reading.CorruptImageError, match="decompression bomb"):
        open_picture(PLAIN["jpeg"], decoder=decode_jpeg)


def test_broken_files_are_decoded_once():
    tries = []

    def decoder(kind, file):
        tries.append(decode_jpeg(kind, file))
        return tries[-1]

    with pytest.raises(reading.CorruptImageError, match="truncated"):
        open_picture(PLAIN["jpeg"][:-60], decoder=decoder)
    assert tries == [None]


@given(st.data())
def test_no_bytes_are_an_error(data):
    content = bytearray(data.draw(st.sampled_from([PLAIN["jpeg"], PLAIN["png"], OTHERS["exif"]])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for part in (content, content[:cut]):
        found = plain_file(part)
        assert found is None or min(found.size) > 0

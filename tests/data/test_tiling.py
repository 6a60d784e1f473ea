"""Large GeoTIFF files are trained and evaluated by windows, without being cut and in little memory."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from segzoo.commands.cli import main
from segzoo.data import Augmentation, DataSource, SegmentationDataset, build_train_transform
from segzoo.data.decoding import decode_example, decode_mask
from segzoo.data.loading import load_source
from segzoo.data.splits import load_splits
from segzoo.errors import SegZooError
from segzoo.evaluation.fingerprints import rows_fingerprint
from segzoo.images.reading import decode_image, open_picture, read_header
from segzoo.images.windows import split_window, window_address, windows_of

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul", "ignore:Dataset has no geotransform")
HEIGHT, WIDTH = 70, 100


def write_tiff(path, array, **options):
    """A file (height, width) or (bands, height, width) with coordinates, in blocks of 16 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = array[None] if array.ndim == 2 else array
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(400000, 5000000, 0.5, 0.5)}
    with rasterio.open(path, "w", dtype=bands.dtype, **profile, **blocks, **place, **options) as file:
        file.write(bands)
    return path


@pytest.fixture
def scene(tmp_path, rng):
    """A folder with one picture of five bands of 16 bits, and its mask."""
    picture = rng.integers(0, 65536, (5, HEIGHT, WIDTH), dtype=np.uint16)
    mask = rng.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)
    write_tiff(tmp_path / "images" / "train" / "a.tif", picture)
    write_tiff(tmp_path / "annotations" / "train" / "a.tif", mask)
    return tmp_path


def rows(folder, **options):
    return load_source(DataSource(folder, **options))["train"]


def test_windows_hold_every_pixel_once_and_are_what_the_whole_file_holds(scene):
    picture = decode_image(scene / "images/train/a.tif", num_channels=5)
    mask = np.asarray(PIL.Image.open(scene / "annotations/train/a.tif"))
    seen = np.zeros((HEIGHT, WIDTH), dtype=int)
    cut = rows(scene, tile=32)
    assert len(cut) == 3 * 4
    for row, (top, left, height, width) in zip(cut, windows_of(HEIGHT, WIDTH, 32, 32), strict=True):
        assert f"a.tif::{top},{left},{height},{width}" in row["image_path"]
        row = {**row, "image": row["image_path"], "label": row["label_path"]}
        image, ids = decode_example(row, num_channels=5)
        place = np.s_[top : top + height, left : left + width]
        np.testing.assert_array_equal(image, picture[place])
        np.testing.assert_array_equal(ids, mask[place])
        seen[place] += 1
    assert (seen == 1).all()


def test_overlapping_windows_reach_the_edges():
    for size in (5, 32, 33, 64, 70, 100):
        windows = list(windows_of(size, size, 32, 16))
        seen = np.zeros((size, size), dtype=int)
        for top, left, height, width in windows:
            seen[top : top + height, left : left + width] += 1
        assert seen.min() >= 1 and len(windows) == len(set(windows))
        assert all(height == 32 or top + height == size for top, _, height, _ in windows)


def test_windows_that_share_pixels_stay_on_one_side(tmp_path, rng):
    """Whatever the seed; windows that share none are set aside one by one, and other groups stay a user's."""
    for number in range(5):
        for folder, bands in (("images", 3), ("annotations", 1)):
            values = rng.integers(0, 4, (bands, 40, 40), dtype=np.uint8)
            write_tiff(tmp_path / folder / f"{number}.tif", values if bands > 1 else values[0])

    def files(part):
        return {split_window(path)[0] for path in part["image_path"]}

    overlapping, chosen = DataSource(tmp_path, tile=16, tile_stride=8), set()
    for seed in range(4):
        train, evaluation = load_splits(overlapping, train_val_split=0.3, seed=seed)
        assert len(files(train)) == 3 and len(files(evaluation)) == 2 and not files(train) & files(evaluation)
        assert len(train) + len(evaluation) == 5 * 16
        chosen.add(tuple(sorted(files(evaluation))))
    assert len(chosen) > 1
    train, evaluation = load_splits(DataSource(tmp_path, tile=16), train_val_split=0.3)
    assert files(train) & files(evaluation)
    train, evaluation = load_splits(overlapping, train_val_split=0.3, train_val_groups=r"([0-9])\.tif")
    assert not files(train) & files(evaluation)
    for folder in ("images", "annotations"):
        for number in range(1, 5):
            (tmp_path / folder / f"{number}.tif").unlink()
    with pytest.raises(SegZooError, match="--tile_stride 8: windows share pixels.* one file alone; leave"):
        load_splits(overlapping)


def test_a_changed_file_makes_other_data(scene, rng):
    """So that scores of two files are not mixed in an evaluation that goes on; so does another size of tiles."""
    before = rows_fingerprint(rows(scene, tile=32))
    assert rows_fingerprint(rows(scene, tile=32)) == before != rows_fingerprint(rows(scene, tile=50))
    write_tiff(scene / "images" / "train" / "a.tif", rng.integers(0, 9, (5, HEIGHT, WIDTH), dtype=np.uint16))
    assert rows_fingerprint(rows(scene, tile=32)) != before


def test_training_samples_and_names(scene):
    dataset = SegmentationDataset(
        rows(scene, tile=32),
        build_train_transform(
            Augmentation(crop_size=(16, 16), photometric_distortion=False),
            image_mean=[0.0] * 5,
            image_std=[1.0] * 5,
            num_channels=5,
        ),
        num_labels=4,
    )
    sample = dataset[5]
    assert sample["pixel_values"].shape == (5, 16, 16)
    assert sample["name"].endswith("images/train/a.tif (rows 32-63, columns 32-63)")


def test_check_reads_windows(scene, capsys):
    arguments = ["data", "check", str(scene), "--num_labels", "4", "--num_channels", "5", "--num_workers", "0"]
    assert main([*arguments, "--tile", "32"]) == 0
    assert "all 12 pairs checked" in capsys.readouterr().out
    mask = np.asarray(PIL.Image.open(scene / "annotations/train/a.tif")).copy()
    mask[40, 70] = 9
    write_tiff(scene / "annotations" / "train" / "a.tif", mask)
    assert main([*arguments, "--tile", "32"]) == 1
    out = capsys.readouterr().out
    assert "annotations/train/a.tif (rows 32-63, columns 64-95): 9 (1 pixel)" in out


def test_a_float_file_and_one_of_another_layout(tmp_path, rng):
    """A file that is not in blocks and has no coordinates; colours of 8 bits are read as RGB."""
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.tif")
    address = window_address(str(tmp_path / "a.tif"), 3, 5, 7, 11)
    np.testing.assert_array_equal(decode_image(address), picture[3:10, 5:16])
    header = read_header(address)
    assert header.size == (11, 7) and header.channels == 3
    floats = rng.random((2, 20, 20), dtype=np.float32)
    write_tiff(tmp_path / "b.tif", floats)
    stored = open_picture(window_address(str(tmp_path / "b.tif"), 0, 0, 20, 4)).stored
    np.testing.assert_array_equal(stored, np.moveaxis(floats, 0, -1)[:, :4])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 0}, "--tile is 0; it must be 1 or more"),
        ({"tile_stride": 4}, "--tile_stride 4 is for --tile, which is missing"),
        ({"tile": 8, "tile_stride": 9}, "--tile_stride is 9; it must be from 1 to --tile"),
    ],
)
def test_options_that_make_no_sense(scene, options, words):
    with pytest.raises(SegZooError, match=words):
        rows(scene, **options)


def test_the_library_is_missing(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SegZooError, match=r'pip install "segzoo\[geo\]"'):
        rows(scene, tile=8)


@pytest.mark.parametrize(
    ("mode", "tag", "words"),
    [
        (
            "P",
            None,
            "windows of a picture hold its values as stored .--tile., and here these are a palette; .* -expand rgb",
        ),
        ("CMYK", None, "these are CMYK"),
        ("1", None, "these have 1 bit; save"),
        ("RGB", 3, "the picture is stored with orientation 3, .*; save it upright"),
    ],
)
def test_pictures_that_are_read_otherwise_than_they_are_stored(scene, mode, tag, words):
    exif = PIL.Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    PIL.Image.new("RGB", (WIDTH, HEIGHT), "red").convert(mode).save(scene / "images" / "train" / "a.tif", exif=exif)
    with pytest.raises(SegZooError, match=f"a.tif: .*{words}"):
        rows(scene, tile=32)


def test_masks_that_are_read_otherwise_than_they_are_stored(scene, rng):
    path = scene / "annotations" / "train" / "a.tif"
    ids = rng.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)
    palette = PIL.Image.fromarray(ids, "P")
    palette.putpalette(bytes(range(12)))
    palette.save(path)
    windows = rows(scene, tile=100)
    assert (decode_mask(windows[0]["label"]) == ids).all()
    write_tiff(path, ids, photometric="MINISWHITE")
    with pytest.raises(SegZooError, match="a.tif: windows of a mask .* white at 0; save it as class ids"):
        rows(scene, tile=32)


def test_files_that_have_no_windows(scene, make_folder, tmp_path_factory, rng):
    other = make_folder({"train": ["b"]})
    with pytest.raises(SegZooError, match=r"b.jpg: --tile reads windows of unpacked TIFF files alone"):
        rows(other, tile=8)
    (other / "images" / "train" / "b.jpg").unlink()
    (other / "annotations" / "train" / "b.png").unlink()
    write_tiff(scene / "annotations" / "train" / "a.tif", np.zeros((HEIGHT, 50), np.uint8))
    with pytest.raises(SegZooError, match="Image and mask differ in size"):
        rows(scene, tile=8)
    (scene / "images" / "train" / "a.tif").write_bytes(b"II*\0 damaged")
    with pytest.raises(SegZooError, match="a.tif: cannot be opened to be read by windows"):
        rows(scene, tile=8)
    with pytest.raises(SegZooError, match="the image cannot be read"):
        open_picture(window_address(str(scene / "images/train/a.tif"), 0, 0, 8, 8))
    with pytest.raises(SegZooError, match="the image file does not exist"):
        open_picture(window_address(str(scene / "gone.tif"), 0, 0, 8, 8))


def test_a_huge_file_is_named_with_the_way_out_and_read_in_little_memory(tmp_path, capsys):
    """20,000 x 20,000 pixels of three bands would take 1.2 GB; windows of it take some megabytes."""
    size = 20_000
    for kind, count in (("images", 3), ("annotations", 1)):
        path = tmp_path / kind / "train" / "a.tif"
        path.parent.mkdir(parents=True)
        blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True, "compress": "deflate"}
        profile = {"driver": "GTiff", "count": count, "height": size, "width": size, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, **blocks) as file:
            file.write(np.full((count, 512, 512), 3, np.uint8), window=((512, 1024), (512, 1024)))
    assert main(["data", "check", str(tmp_path), "--num_workers", "0"]) == 1
    assert capsys.readouterr().out.count("by windows (--tile 1024)") == 2
    cut = rows(tmp_path, tile=512)
    assert len(cut) == 40 * 40
    pages, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not pages.exists():
        pytest.skip("the peak of memory is measured on Linux alone")
    pages.write_text("5")  # the peak begins anew
    before = _peak(status)
    for index in (0, 41, 900):
        image = decode_image(cut["image_path"][index])
        assert image.shape == (512, 512, 3) and image.min() == 3 * (index == 41)
    assert _peak(status) - before < 150 * 1024


def _peak(status):
    """The largest memory of this process in KiB."""
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])

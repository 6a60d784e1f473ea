"""The same picture gives the same pixel values in every form and through every entry point."""

import json
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.commands.cli import main
from segzoo.data import decode_image
from segzoo.hub import save_model_folder
from segzoo.inference import InferenceSettings, Predictor, ViewMaker

SIZE = (20, 33)


def noise(channels=0, dtype=np.uint8):
    shape = (*SIZE, channels) if channels else SIZE
    values = np.random.default_rng(channels).random(shape)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


def image(array, mode=None):
    picture = PIL.Image.fromarray(array)
    return picture if mode is None else picture.convert(mode)


def in_three(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


class Case(NamedTuple):
    """A file, what is in it (a PIL image, or bands for tifffile), the model's channels, and the levels where they are known."""

    file: str
    source: PIL.Image.Image | np.ndarray
    channels: int = 3
    levels: np.ndarray | None = None

    def write(self, folder):
        path = folder / self.file
        if isinstance(self.source, np.ndarray):
            kind = "rgb" if self.source.shape[-1] == 3 else "minisblack"
            tifffile.imwrite(path, self.source, photometric=kind, planarconfig="contig")
        else:
            self.source.save(path)
        return path

    def in_memory(self, path):
        """Floats are left out: in memory they are the caller's, see below."""
        if isinstance(self.source, np.ndarray):
            return [self.source] if self.source.dtype.kind == "u" else []
        with PIL.Image.open(path) as opened:
            opened.load()
        return [opened, np.array(opened)] if opened.mode in ("L", "RGB", "RGBA", "I;16", "I") else [opened]


WIDE, UNIT = noise(0, np.uint16), noise(0, np.float32)
CASES = {
    "grey": Case("a.png", image(noise()), levels=in_three(noise())),
    "rgb": Case("a.png", image(noise(3)), levels=noise(3)),
    "rgb bmp": Case("a.bmp", image(noise(3)), levels=noise(3)),
    "rgba": Case("a.png", image(noise(4)), levels=noise(4)[..., :3]),
    "palette": Case("a.png", image(noise(3), "P")),
    "black and white": Case("a.png", image(noise(3), "1")),
    "grey with alpha": Case("a.png", image(noise(3), "LA")),
    "cmyk": Case("a.tif", image(noise(3), "CMYK")),
    "jpeg": Case("a.jpg", image(noise(3))),
    "16-bit grey png": Case("a.png", image(WIDE), levels=in_three(WIDE >> 8)),
    "16-bit grey tiff": Case("a.tif", image(WIDE), levels=in_three(WIDE >> 8)),
    "16-bit and dark": Case("a.png", image(WIDE >> 8), levels=in_three(WIDE * 0)),
    "16-bit rgb tiff": Case("a.tif", noise(3, np.uint16), levels=noise(3, np.uint16) >> 8),
    "32-bit grey": Case("a.tif", image(noise().astype(np.int32)), levels=in_three(noise())),
    "float grey": Case("a.tif", image(UNIT), levels=in_three(np.rint(UNIT * 255))),
    "float rgb": Case("a.tif", noise(3, np.float32), levels=np.rint(noise(3, np.float32) * 255)),
    "grey for one channel": Case("a.png", image(noise()), 1, noise()[..., None]),
    "16-bit for one channel": Case("a.png", image(WIDE), 1, (WIDE >> 8)[..., None]),
    "float for one channel": Case("a.tif", image(UNIT), 1, np.rint(UNIT * 255)[..., None]),
    "rgb for one channel": Case("a.png", image(noise(3)), 1),
    "rgba for four channels": Case("a.png", image(noise(4)), 4, noise(4)),
    "five bands": Case("a.tif", noise(5), 5, noise(5)),
    "five bands of 16 bits": Case("a.tif", noise(5, np.uint16), 5, noise(5, np.uint16) >> 8),
    "six float bands": Case("a.tif", noise(6, np.float32), 6, np.rint(noise(6, np.float32) * 255)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_form_and_every_door(tmp_path, case):
    (tmp_path / "bilder ü").mkdir()
    path = case.write(tmp_path / "bilder ü")
    levels = decode_image(path, num_channels=case.channels)
    assert levels.dtype == np.uint8 and levels.shape == (*SIZE, case.channels)
    if case.levels is not None:
        assert np.array_equal(levels, case.levels)

    data = path.read_bytes()
    rows = [{"path": str(path), "bytes": None}, {"path": None, "bytes": data}]
    forms = [path, str(path), data, *rows, *case.in_memory(path)]
    settings = {"num_channels": case.channels, "image_mean": 0.4, "image_std": 0.2, "size": {"shortest_edge": 16}}
    processor = SegZooImageProcessor(**settings)
    pixels = processor(levels, return_tensors="pt")["pixel_values"]
    for form in forms:
        assert np.array_equal(decode_image(form, num_channels=case.channels), levels)
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], pixels)
        (view,) = ViewMaker(processor, InferenceSettings())(form)
        assert torch.equal(view, processor(levels, do_rescale=False, do_normalize=False)["pixel_values"][0].byte())
    assert torch.equal(processor(forms, return_tensors="pt")["pixel_values"], pixels.repeat(len(forms), 1, 1, 1))


def test_floats_in_memory_are_the_callers():
    """An array of 0..1 with do_rescale=False is what its file is, but for the rounding to 8 bits."""
    values = noise(3, np.float32)
    processor = SegZooImageProcessor(do_resize=False)
    pixels = processor(np.rint(values * 255).astype(np.uint8), return_tensors="pt")["pixel_values"]
    unscaled = processor(values, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(unscaled, pixels, atol=0.5 / 255 / 0.224 + 1e-6, rtol=0)
    with pytest.warns(UserWarning, match="do_rescale"):
        processor(values)


@pytest.mark.parametrize(
    ("channels", "kind"), [(1, "16-bit for one channel"), (3, "16-bit grey png"), (5, "five bands of 16 bits")]
)
def test_predict_sees_the_same(tmp_path, channels, kind):
    path = CASES[kind].write(tmp_path)
    config = SegZooConfig.tiny()
    config.backbone_config.num_channels = channels
    settings = {"num_channels": channels, "image_mean": 0.4, "image_std": 0.2, "size": {"shortest_edge": 32}}
    torch.manual_seed(0)
    model, processor = SegZooForSemanticSegmentation(config).eval(), SegZooImageProcessor(**settings)
    folder = save_model_folder(model, processor, tmp_path / "model")
    assert main(["predict", str(path), "--model", str(folder), "--output", str(tmp_path / "out")]) == 0
    with torch.no_grad():
        outputs = model(**processor(path, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[SIZE])
    found = np.asarray(PIL.Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(found, expected.numpy()) and len(np.unique(found)) > 1
    assert json.loads((tmp_path / "out" / "a.json").read_text())["width"] == SIZE[1]
    assert np.array_equal(Predictor(model, processor).label_map(str(path), SIZE).numpy(), found)


def test_a_picture_that_does_not_fit_the_model_is_named(tmp_path):
    PIL.Image.fromarray(noise(3)).save(tmp_path / "street.png")
    processor = SegZooImageProcessor(num_channels=4, image_mean=0.4, image_std=0.2)
    with pytest.raises(ValueError, match="street.png has 3 channels, .* expect 4; .*num_channels"):
        processor(tmp_path / "street.png")

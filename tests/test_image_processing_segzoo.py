import json
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    pipeline,
)
from transformers.utils import ModelOutput

import segzoo
from segzoo import AutoBackbone, SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ConvNeXtConfig, ResNetConfig, ViTConfig
from segzoo.image_processing_segzoo import reduce_labels
from segzoo.images.resizing import keep_ratio_size, resize_bilinear, resize_steps

RECORDS = json.loads((Path(__file__).parent / "records" / "test_pipelines.json").read_text())
NO_CHANGE = {"do_resize": False, "do_rescale": False, "do_normalize": False}


def random_image(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def random_mask(height, width, classes=151, seed=1):
    return np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint8)


def settings_of(pipeline):
    """The processor's fields for the steps of an original pipeline."""
    short, long = min(pipeline["img_scale"]), max(pipeline["img_scale"])
    settings = {}
    for step in pipeline["steps"]:
        if step["type"] == "Resize":
            settings["size"] = {"shortest_edge": short, "longest_edge": long}
        elif step["type"] == "SETR_Resize":
            settings["size"] = {"shortest_edge": max(short, step["crop_size"][0])}
        elif step["type"] == "ResizeToMultiple":
            settings["size_multiple"] = step["size_divisor"]
        elif step["type"] == "PadShortSide":
            settings["pad_size"] = {"height": step["size"], "width": step["size"]}
        else:
            settings["image_mean"] = [value / 255 for value in step["mean"]]
            settings["image_std"] = [value / 255 for value in step["std"]]
    return settings


# ------------------------------------------------------------ against the originals


def test_keep_ratio_sizes_equal_mmcv():
    for width, height, scale, ratio, (new_width, new_height) in RECORDS["keep_ratio"]["rows"]:
        bounds = [int(value * ratio) for value in scale]
        assert keep_ratio_size((height, width), min(bounds), max(bounds)) == (new_height, new_width)


@pytest.mark.parametrize("pipeline", RECORDS["pipelines"], ids=lambda p: f"{p['name']}-{min(p['img_scale'])}")
def test_original_pipelines_sizes(pipeline):
    processor = SegZooImageProcessor(**settings_of(pipeline))
    for sizes in pipeline["sizes"]:
        resized, batch = processor.input_sizes([sizes["image"]])
        assert [list(resized[0]), list(batch)] == [sizes["resized"], sizes["input"]]


@pytest.mark.parametrize(
    "pipeline", [p for p in RECORDS["pipelines"] if "values" in p], ids=lambda p: f"{p['name']}-{min(p['img_scale'])}"
)
def test_original_pipelines_pixels(pipeline):
    height, width = pipeline["image"]
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"img:{height}x{width}".encode())))
    bgr = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    processor = SegZooImageProcessor(**settings_of(pipeline))
    pixels = processor(PIL.Image.fromarray(bgr[..., ::-1].copy()), return_tensors="pt")["pixel_values"][0]
    positions = [(k * 2654435761 + 12345) % pixels.numel() for k in range(128)]
    # Equal to rounding: uint8 pictures go through OpenCV's own arithmetic.
    torch.testing.assert_close(pixels.flatten()[positions], torch.tensor(pipeline["values"]), atol=2e-5, rtol=0)
    assert abs(float(pixels.double().mean()) - pipeline["mean"]) < 1e-6


def test_uint8_resizing_halves_like_opencv():
    image = torch.tensor([[[0, 1, 10, 20], [2, 3, 30, 41]]], dtype=torch.uint8)
    assert resize_bilinear(image, (1, 2)).tolist() == [[[2, 25]]]


@pytest.mark.parametrize("size", [(37, 41), (200, 150), (64, 300), (30, 300), (1, 1)])
def test_uint8_resizing_is_within_a_grey_level_of_exact(size):
    image = torch.from_numpy(random_image(75, 100)).permute(2, 0, 1)
    exact = F.interpolate(image[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    resized = resize_bilinear(image, size)
    assert resized.dtype == torch.uint8
    assert (resized.double() - exact).abs().max() <= 1.0


def mit_settings(short, multiple):
    return {
        "size": {"shortest_edge": short, "longest_edge": 1000},
        "rounding": "down",
        "size_multiple": multiple,
        "size_multiple_mode": "round_up",
        "antialias": True,
    }


@pytest.mark.parametrize("short", [300, 375, 450, 525, 600])
@pytest.mark.parametrize("multiple", [8, 32])
@pytest.mark.parametrize("image_size", [(512, 683), (683, 512), (300, 1900), (97, 131)])
def test_mit_sizes(short, multiple, image_size):
    height, width = image_size
    scale = min(short / float(min(height, width)), 1000 / float(max(height, width)))
    expected = tuple(((int(side * scale) - 1) // multiple + 1) * multiple for side in (height, width))
    processor = SegZooImageProcessor(**mit_settings(short, multiple))
    assert processor.input_sizes([image_size]) == ([expected], expected)


@pytest.mark.parametrize("image_size", [(120, 163), (700, 1200)])
def test_mit_pixels_are_pillows(image_size):
    picture = PIL.Image.fromarray(random_image(*image_size))
    processor = SegZooImageProcessor(**mit_settings(300, 8), do_rescale=False, do_normalize=False)
    pixels = processor(picture, return_tensors="pt")["pixel_values"][0]
    expected = np.array(picture.resize((pixels.shape[2], pixels.shape[1]), PIL.Image.Resampling.BILINEAR))
    difference = (pixels.permute(1, 2, 0).int() - torch.from_numpy(expected).int()).abs()
    assert difference.max() <= 1


# ------------------------------------------------------------ resizing and padding


def test_resize_modes():
    assert resize_steps((100, 133), size={"height": 64, "width": 96}) == [(64, 96)]
    assert resize_steps((100, 133), size={"shortest_edge": 50}) == [(50, 67)]
    assert resize_steps((100, 133), size={"longest_edge": 50}) == [(38, 50)]
    assert resize_steps((100, 133), size={"shortest_edge": 50}, rounding="down") == [(50, 66)]
    assert resize_steps((100, 133), size={"shortest_edge": 50}, size_multiple=32) == [(50, 67), (64, 96)]
    assert resize_steps((100, 133), size={"shortest_edge": 64}, size_multiple=1) == [(64, 85)]
    assert resize_steps((5, 5000), size={"longest_edge": 100}) == [(1, 100)]


@pytest.mark.parametrize("mode", ["stretch", "round_up"])
def test_pictures_of_their_own_size_are_resized_to_multiples(mode):
    image, mask = random_image(61, 93), random_mask(61, 93)
    processor = SegZooImageProcessor(**NO_CHANGE, size_multiple=32, size_multiple_mode=mode)
    batch = processor(image, mask, return_tensors="pt")
    expected = resize_bilinear(torch.from_numpy(image).permute(2, 0, 1), (64, 96))
    assert torch.equal(batch["pixel_values"][0], expected.float())
    assert batch["labels"].shape == (1, 64, 96)
    assert processor.input_sizes([(61, 93)]) == ([(64, 96)], (64, 96))


@pytest.mark.parametrize("size", [(40, 50), (120, 150)])
def test_bicubic_pixels_are_opencvs(size):
    """Not torchvision's for bytes, which are up to 15 grey levels away."""
    image = random_image(75, 100)
    settings = {"do_resize": True, "size": {"height": size[0], "width": size[1]}, "resample": 3}
    pixels = SegZooImageProcessor(**(NO_CHANGE | settings))(image, return_tensors="pt")["pixel_values"]
    values = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    exact = F.interpolate(values, size=size, mode="bicubic", align_corners=False).clamp(0, 255)
    assert (pixels - exact).abs().max() <= 0.501


def test_without_resizing_and_scaling_pixels_are_unchanged():
    image, mask = random_image(31, 47), random_mask(31, 47)
    batch = SegZooImageProcessor(**NO_CHANGE)(image, mask, return_tensors="pt")
    assert torch.equal(batch["pixel_values"][0], torch.from_numpy(image).permute(2, 0, 1))
    assert torch.equal(batch["labels"][0], torch.from_numpy(mask).long())


def test_normalisation_and_channel_order():
    image = random_image(8, 9)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    processor = SegZooImageProcessor(do_resize=False, image_mean=mean, image_std=std)
    scaled = torch.from_numpy(image).permute(2, 0, 1) / 255
    expected = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], expected)
    expected = (scaled.flip(0) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    pixels = processor(image, channel_order="bgr", return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels, expected)
    unscaled = processor(scaled, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(unscaled, scaled)


def test_values_that_nothing_changes_are_floats(tmp_path):
    """A pipeline of transformers and the model take them as they are."""
    config = SegZooConfig.tiny()
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegZooImageProcessor(**NO_CHANGE, pad_size={"height": 64, "width": 80}, pad_value=0.5).save_pretrained(tmp_path)
    image = random_image(60, 70)
    processor, model = (
        SegZooImageProcessor.from_pretrained(tmp_path),
        AutoModelForSemanticSegmentation.from_pretrained(tmp_path),
    )
    values = processor(image, return_tensors="pt")["pixel_values"]
    assert values.dtype == torch.float32 and values[0, 0, 0, 79] == 0.5
    assert np.array_equal(values[0, :, :60, :70].permute(1, 2, 0), image)
    assert processor(image, return_tensors="np")["pixel_values"].dtype == np.float32
    assert processor(image)["pixel_values"][0].dtype == torch.float32
    assert model(values).logits.shape[1] == config.num_labels
    assert pipeline("image-segmentation", model=str(tmp_path), device="cpu")(PIL.Image.fromarray(image))


def test_padding_to_a_multiple_is_right_and_bottom_after_normalisation():
    image, mask = random_image(30, 50), random_mask(30, 50)
    processor = SegZooImageProcessor(do_resize=False, size_multiple=32, size_multiple_mode="pad", pad_value=[1, 2, 3])
    batch = processor(image, mask, return_tensors="pt")
    plain = SegZooImageProcessor(do_resize=False)(image, return_tensors="pt")["pixel_values"]
    assert batch["pixel_values"].shape == (1, 3, 32, 64)
    assert torch.equal(batch["pixel_values"][..., :30, :50], plain)
    assert batch["pixel_values"][0, :, 31, 63].tolist() == [1, 2, 3]
    assert (batch["labels"][0, 30:] == 255).all() and (batch["labels"][0, :, 50:] == 255).all()
    assert processor(image, return_tensors="pt", do_pad=False)["pixel_values"].shape == (1, 3, 30, 50)


def test_batches_of_different_sizes_are_padded_together():
    images, masks = [random_image(30, 50), random_image(44, 20)], [random_mask(30, 50), random_mask(44, 20)]
    batch = SegZooImageProcessor(**NO_CHANGE)(images, masks, return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 44, 50) and batch["labels"].shape == (2, 44, 50)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        height, width = mask.shape
        inside = batch["pixel_values"][index, :, :height, :width]
        assert torch.equal(inside, torch.from_numpy(image).permute(2, 0, 1))
        assert torch.equal(batch["labels"][index, :height, :width], torch.from_numpy(mask).long())
        assert (batch["labels"][index, height:] == 255).all() and (batch["labels"][index, :, width:] == 255).all()
    assert len(SegZooImageProcessor(**NO_CHANGE)(images, do_pad=False)["pixel_values"]) == 2
    with pytest.raises(SegZooError, match="do_pad"):
        SegZooImageProcessor(**NO_CHANGE)(images, do_pad=False, return_tensors="pt")


# ------------------------------------------------------------ kinds of input


def test_the_same_picture_in_every_form(tmp_path):
    image = random_image(20, 33)
    PIL.Image.fromarray(image).save(tmp_path / "image.png")
    processor = SegZooImageProcessor(size={"shortest_edge": 32})
    expected = processor(PIL.Image.fromarray(image), return_tensors="pt")["pixel_values"]
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for form in (image, image.transpose(2, 0, 1), tensor, tensor[None], [image], str(tmp_path / "image.png")):
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], expected)
    pair = processor([PIL.Image.fromarray(image), tmp_path / "image.png"], return_tensors="np")["pixel_values"]
    assert isinstance(pair, np.ndarray) and np.array_equal(pair[1], expected[0].numpy())


def test_pictures_of_other_kinds_become_rgb():
    grey = random_image(10, 12, 1)[..., 0]
    rgba = random_image(10, 12, 4)
    processor = SegZooImageProcessor(**NO_CHANGE)

    def channels(image):
        return processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()

    for image in (PIL.Image.fromarray(grey), grey, grey[None], grey[..., None]):
        assert np.array_equal(channels(image), np.repeat(grey[..., None], 3, axis=2))
    for image in (PIL.Image.fromarray(rgba), rgba, rgba.transpose(2, 0, 1)):
        assert np.array_equal(channels(image), rgba[..., :3])
    palette = PIL.Image.fromarray(rgba[..., :3]).quantize(8)
    assert np.array_equal(channels(palette), np.array(palette.convert("RGB")))
    # As wide as it has channels: the exact count goes before what a conversion could use.
    assert np.array_equal(channels(rgba[:4, :, :3]), rgba[:4, :, :3])


def test_other_numbers_of_channels():
    image = random_image(40, 60, 6)
    processor = SegZooImageProcessor(num_channels=6, size={"shortest_edge": 32}, image_mean=0.5, image_std=[0.25] * 6)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 6, 32, 48)
    assert torch.equal(
        pixels, processor(torch.from_numpy(image).permute(2, 0, 1), return_tensors="pt")["pixel_values"]
    )
    grey = SegZooImageProcessor(num_channels=1, image_mean=0.5, image_std=0.5, do_resize=False)
    assert grey(PIL.Image.fromarray(image[..., :3]), return_tensors="pt")["pixel_values"].shape == (1, 1, 40, 60)
    with pytest.raises(SegZooError, match="3 channels.*expect 6.*num_channels"):
        processor(image[..., :3])


# ------------------------------------------------------------ labels


def test_reduce_labels():
    mask = torch.tensor([[0, 1, 2, 150, 255]], dtype=torch.uint8)
    assert reduce_labels(mask).tolist() == [[255, 0, 1, 149, 255]]
    assert reduce_labels(torch.tensor([0, 1, 300, 65535]), 65535).tolist() == [65535, 0, 299, 65535]


def test_labels_are_reduced_once_and_the_image_never():
    image, mask = random_image(21, 34), random_mask(21, 34)
    mask[:3] = 255
    plain = SegZooImageProcessor(**NO_CHANGE)
    reducing = SegZooImageProcessor(**NO_CHANGE, do_reduce_labels=True)
    batch = reducing(image, mask, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], plain(image, return_tensors="pt")["pixel_values"])
    expected = mask.astype(np.int64) - 1
    expected[(mask == 0) | (mask == 255)] = 255
    assert np.array_equal(batch["labels"][0].numpy(), expected)


def test_masks_are_resized_to_the_nearest_pixel():
    mask = random_mask(30, 41)
    processor = SegZooImageProcessor(size={"shortest_edge": 64}, size_multiple=32)
    batch = processor(random_image(30, 41), mask, return_tensors="pt")
    assert batch["labels"].shape[-2:] == batch["pixel_values"].shape[-2:] == (64, 96)
    rows = ((np.arange(64) + 0.5) * 30 / 64).astype(int)
    columns = ((np.arange(96) + 0.5) * 41 / 96).astype(int)
    assert np.array_equal(batch["labels"][0].numpy(), mask[rows][:, columns])


def test_the_same_mask_in_every_form(tmp_path):
    mask = random_mask(15, 22)
    palette = PIL.Image.fromarray(mask).convert("P")
    palette.putdata(mask.flatten().tolist())
    palette.save(tmp_path / "mask.png")
    processor = SegZooImageProcessor(**NO_CHANGE)
    forms = (
        mask,
        mask[None],
        mask[..., None],
        torch.from_numpy(mask),
        mask.astype(np.int32),
        PIL.Image.fromarray(mask),
    )
    for form in (*forms, palette, [mask], tmp_path / "mask.png", PIL.Image.fromarray(mask.astype(np.uint16))):
        labels = processor(random_image(15, 22), form, return_tensors="pt")["labels"]
        assert labels.dtype == torch.int64 and np.array_equal(labels[0].numpy(), mask)
    pair = processor([random_image(15, 22)] * 2, np.stack([mask, mask]), return_tensors="pt")["labels"]
    assert pair.shape == (2, 15, 22)


# ------------------------------------------------------------ wrong input

IMAGE = random_image(16, 24)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (random_mask(24, 16), "segmentation map 0 is 24 x 16.*image 16 x 24"),
        (
            random_mask(16, 24).astype(np.float32) / 255,
            "float32 values that are no whole numbers; class ids are integers",
        ),
        (torch.full((16, 24), 0.5), "class ids are integers"),
        (IMAGE, r"a picture of colours \(an array of 3 channels\)"),
        (PIL.Image.fromarray(IMAGE), r"a picture of colours \(RGB\)"),
        ([random_mask(16, 24)] * 2, "1 images came with 2 segmentation maps"),
        ("missing.png", "cannot read the segmentation map 'missing.png'"),
        ([3], "segmentation map 0 is of type int"),
    ],
)
def test_wrong_masks(masks, message):
    with pytest.raises(SegZooError, match=message):
        SegZooImageProcessor()(IMAGE, masks)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_image(16, 24, 5), "image 0 has 5 channels.*expect 3"),
        ([IMAGE, random_image(9, 9, 2)], "image 1 has 2 channels"),
        ("missing.png", "cannot read the image 'missing.png'"),
        (None, "image 0 is of type NoneType"),
        ([], "no images"),
        (np.zeros(5), r"image 0 has the shape \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 5, 3), bool), "torch.bool values"),
        (PIL.Image.fromarray(random_mask(4, 4).astype(np.int32) + 200), "image 0: int32 values"),
        (np.full((4, 5, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(SegZooError, match=message):
        SegZooImageProcessor()(images, return_tensors="pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shortest_edge": 512}, "no setting shortest_edge"),
        ({"size": {"max_height": 4, "max_width": 4}}, "size is .*shortest_edge"),
        ({"rounding": "up"}, "rounding is 'up'; use one of nearest, down"),
        ({"size_multiple_mode": "crop"}, "size_multiple_mode"),
        ({"size_multiple": 0}, "size_multiple is 0"),
        ({"size_multiple": "32"}, "wrong type.*size_multiple"),
        ({"channel_order": "gbr"}, "channel_order"),
        ({"channel_order": "bgr", "num_channels": 5}, "needs num_channels 3 or 4"),
        ({"window_size": [512, 512]}, "belong together"),
        ({"window_size": [512, 0], "window_stride": [1, 1]}, "window_size"),
        ({"do_center_crop": True, "crop_size": 5}, "do_center_crop"),
        ({"pad_size": {"shortest_edge": 5}}, "pad_size"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SegZooError, match=message):
        SegZooImageProcessor(**settings)
    with pytest.raises(SegZooError, match=message):
        SegZooImageProcessor()(IMAGE, **settings)


def test_mean_for_another_number_of_channels():
    with pytest.raises(SegZooError, match="image_mean has 2 numbers.*3 channels"):
        SegZooImageProcessor(image_mean=[0.1, 0.2])(IMAGE)


# ------------------------------------------------------------ saving and windows


def test_save_and_load(tmp_path):
    processor = SegZooImageProcessor(
        size={"shortest_edge": 504},
        size_multiple=14,
        image_mean=[0.5] * 3,
        channel_order="bgr",
        do_reduce_labels=True,
        align_corners=True,
        pad_size={"height": 32, "width": 64},
        window_size=[504, 504],
        window_stride=(322, 322),
    )
    processor.save_pretrained(tmp_path)
    SegZooConfig().save_pretrained(tmp_path)  # the Auto class goes by the model type
    for loaded in (SegZooImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SegZooImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        image = random_image(60, 90)
        expected = processor(image, return_tensors="pt")
        batch = loaded(image, return_tensors="pt")
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert batch["window_size"] == (504, 504) and batch["window_stride"] == (322, 322)
    assert SegZooImageProcessor.from_pretrained(tmp_path, size_multiple=16).size_multiple == 16


def test_misspelt_settings_of_from_pretrained(tmp_path):
    SegZooImageProcessor().save_pretrained(tmp_path)
    for name, meant in (("reduce_labels", "do_reduce_labels"), ("channel_ordr", "channel_order")):
        with pytest.raises(SegZooError, match=f"no setting '{name}'; did you mean '{meant}'"):
            AutoImageProcessor.from_pretrained(tmp_path, **{name: True})
        unused = SegZooImageProcessor.from_pretrained(tmp_path, **{name: True}, return_unused_kwargs=True)[1]
        assert unused[name] is True
    # a pipeline gives it what is for the model
    of_model = {"device_map": "cpu", "tp_size": 2, "num_labels": 3, "dtype": "auto", "attn_implementation": "eager"}
    assert AutoImageProcessor.from_pretrained(tmp_path, **of_model, do_reduce_labels=True).do_reduce_labels


def test_windows_only_without_masks():
    processor = SegZooImageProcessor(window_size=[32, 48], window_stride=[16, 24])
    assert processor(IMAGE, return_tensors="pt").to(torch.bfloat16)["window_size"] == (32, 48)
    assert "window_size" not in processor(IMAGE, random_mask(16, 24), return_tensors="pt")
    assert "window_size" not in SegZooImageProcessor()(IMAGE, return_tensors="pt")


# ------------------------------------------------------------ post-processing


def output(*shape):
    return ModelOutput(logits=torch.randn(shape))


@pytest.mark.parametrize("align_corners", [False, True])
def test_label_maps_equal_interpolation_and_argmax(align_corners):
    processor = SegZooImageProcessor(align_corners=align_corners)
    outputs = output(1, 150, 64, 81)
    [labels] = processor.post_process_semantic_segmentation(outputs, [(333, 427)])
    upsampled = F.interpolate(outputs.logits, size=(333, 427), mode="bilinear", align_corners=align_corners)
    assert labels.dtype == torch.int64 and labels.device.type == "cpu"
    assert torch.equal(labels, upsampled[0].argmax(0))
    plain = processor.post_process_semantic_segmentation({"logits": outputs.logits})
    assert torch.equal(plain[0], outputs.logits[0].argmax(0))


def test_padding_of_a_batch_is_cut():
    sizes = [(60, 100), (90, 50), (80, 80)]
    processor = SegZooImageProcessor(size={"shortest_edge": 64}, size_multiple=32, size_multiple_mode="pad")
    inputs = processor([random_image(*size) for size in sizes], return_tensors="pt")["pixel_values"]
    assert inputs.shape == (3, 3, 128, 128)
    outputs = output(3, 7, 32, 32)
    maps = processor.post_process_semantic_segmentation(outputs, torch.tensor(sizes))
    padded = F.interpolate(outputs.logits, size=(128, 128), mode="bilinear")
    for index, (size, inside) in enumerate(zip(sizes, [(64, 107), (115, 64), (64, 64)], strict=True)):
        cut = padded[index : index + 1, :, : inside[0], : inside[1]]
        expected = F.interpolate(cut.contiguous(), size=size, mode="bilinear")[0].argmax(0)
        assert torch.equal(maps[index], expected)


def test_two_steps_as_in_mmsegmentation():
    processor = SegZooImageProcessor(size={"shortest_edge": 64}, size_multiple=32, resize_logits_to_input=True)
    outputs = output(1, 9, 16, 24)
    [labels] = processor.post_process_semantic_segmentation(outputs, [(90, 113)])
    step = F.interpolate(outputs.logits, size=(64, 96), mode="bilinear")
    assert torch.equal(labels, F.interpolate(step, size=(90, 113), mode="bilinear")[0].argmax(0))


def test_probabilities():
    outputs = output(2, 5, 8, 8)
    before = outputs.logits.clone()
    processor = SegZooImageProcessor(size={"height": 32, "width": 32})
    results = processor.post_process_semantic_segmentation(outputs, [(20, 30), (8, 8)], return_probabilities=True)
    for index, (result, size) in enumerate(zip(results, [(20, 30), (8, 8)], strict=True)):
        upsampled = F.interpolate(outputs.logits[index : index + 1], size=size, mode="bilinear")[0]
        torch.testing.assert_close(result.probabilities, upsampled.softmax(0))
        assert torch.equal(result.segmentation, upsampled.argmax(0))
    assert torch.equal(outputs.logits, before)


@pytest.mark.parametrize("sizes", [[(20, 30), (8, 8)], None])
def test_segmentation_scores(sizes):
    """With the names that transformers' image processors give them."""
    outputs = output(2, 5, 8, 8)
    processor = SegZooImageProcessor(size={"height": 32, "width": 32})
    results = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    for index, (result, size) in enumerate(zip(results, sizes or [(8, 8)] * 2, strict=True)):
        upsampled = F.interpolate(outputs.logits[index : index + 1], size=size, mode="bilinear")[0]
        assert result.keys() == {"segmentation", "segmentation_scores"}
        torch.testing.assert_close(result.segmentation_scores, upsampled)
        assert torch.equal(result.segmentation, upsampled.argmax(0))


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 5, 8, 8), [(20, 30)], "target_sizes has 1 entries for 2 predictions"),
        ((1, 5, 8, 8), [(20, 0)], r"target_sizes\[0\] is \(20, 0\)"),
        ((1, 5, 8, 8), [(20, 30, 3)], r"target_sizes\[0\]"),
        ((5, 8, 8), [(20, 30)], "logits have the shape"),
        ((2, 5, 64, 64), [(100, 900), (100, 800)], "do not belong to an input of 256 x 2048"),
    ],
)
def test_wrong_post_processing(shape, sizes, message):
    with pytest.raises(SegZooError, match=message):
        SegZooImageProcessor().post_process_semantic_segmentation(output(*shape), sizes)


def segformer():
    sizes = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1] * 4}
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16))


NEIGHBOURS = {
    "nothing": lambda: None,
    "segzoo": lambda: SegZooForSemanticSegmentation(SegZooConfig.tiny()),
    "segformer": segformer,
    # classes of these names have image processors in transformers
    "resnet": lambda: AutoBackbone.from_config(ResNetConfig.tiny()),
    "vit": lambda: AutoBackbone.from_config(ViTConfig.tiny()),
    "convnext": lambda: AutoBackbone.from_config(ConvNeXtConfig.tiny()),
}


@pytest.mark.parametrize("first", ["model", "processor"])
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_it_is_found_whatever_stands_beside_it(neighbour, first, tmp_path, monkeypatch):
    # whether to trust the code of the folder
    monkeypatch.setattr("builtins.input", lambda text: pytest.fail(text))
    processor = SegZooImageProcessor(size={"height": 32, "width": 48}, channel_order="bgr", size_multiple=16)
    model = NEIGHBOURS[neighbour]()
    for part in (model, processor) if first == "model" else (processor, model):
        if part is not None:
            part.save_pretrained(tmp_path)
    found = [AutoImageProcessor.from_pretrained(tmp_path, **more) for more in ({}, {"trust_remote_code": True})]
    if neighbour in ("segzoo", "segformer"):
        found.append(segzoo.load(str(tmp_path)).processor)
        found.append(pipeline("image-segmentation", str(tmp_path)).image_processor)
    found[0].save_pretrained(tmp_path)
    found.append(AutoImageProcessor.from_pretrained(tmp_path))
    for again in found:
        assert type(again) is SegZooImageProcessor and again.to_dict() == processor.to_dict()


@pytest.mark.parametrize("config", ["", "{", "[]", "{}"])
def test_beside_a_damaged_config_it_names_its_class(config, tmp_path):
    (tmp_path / "config.json").write_text(config)
    SegZooImageProcessor().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "SegZooImageProcessor"

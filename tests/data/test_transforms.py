import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from segzoo.data import joint_steps
from segzoo.data.augmentation import Augmentation
from segzoo.data.dataset import SegmentationDataset
from segzoo.data.joint_steps import (
    CROP_SHARE,
    FromTorchvision,
    PhotometricDistortion,
    RandomCrop,
    RandomFlip,
    Scale,
    _shift_colors,
)
from segzoo.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    JointTransform,
    build_processor_transform,
    build_train_transform,
)
from segzoo.errors import SegZooError
from segzoo.images.loading import reduce_labels

PLAIN = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3, "rescale_factor": 1.0}


def pair(rng, height=40, width=56, classes=5):
    """A picture whose red channel repeats the mask, so that they can be seen to move together."""
    mask = rng.integers(0, classes, (height // 8, width // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[..., 0] = mask * 40
    return image, mask


def tensors(image, mask):
    return tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(mask))


def test_scale_resizes_like_interpolate_and_masks_stay_ids(rng):
    image, mask = pair(rng)
    scaled, ids = Scale((60, 500))(*tensors(image, mask), rng)
    assert scaled.shape[-2:] == ids.shape == (60, 84)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), (60, 84), mode="bilinear"
    )
    assert (scaled.double() - exact[0]).abs().max() <= 1.5
    nearest = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], (60, 84), mode="nearest")
    assert (ids == nearest[0, 0]).all()
    assert Scale((30, 20), (0.5, 0.5), keep_ratio=False)(*tensors(image, mask), rng)[0].shape[-2:] == (15, 10)
    assert Scale(None, (0.5, 0.5))(*tensors(image, mask), rng)[0].shape[-2:] == (20, 28)


def test_crop_avoids_boxes_of_one_class(rng):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 1
    image = np.repeat(mask[..., None], 3, axis=2)
    free, limited = RandomCrop((32, 32), 1.0), RandomCrop((32, 32), 0.75)

    def mixed(crop):
        shares = [crop(*tensors(image, mask), np.random.default_rng(i))[1].float().mean().item() for i in range(100)]
        return np.mean([0.25 < share < 0.75 for share in shares])

    assert mixed(free) < 0.6 and mixed(limited) > 0.97
    cropped, ids = limited(*tensors(image, mask), rng)
    assert (cropped[0] == ids).all()


@pytest.mark.parametrize("scale", [(), (Scale(ratio_range=(0.5, 0.5)),)])
def test_crop_looks_for_the_class_that_was_drawn(rng, scale):
    """Until it holds half of what the picture has of it, or 0.57 % of the crop."""
    image, mask = pair(rng, 240, 320)
    mask[:] = 0
    mask[40:60, 200:220] = 2  # 400 pixels, a quarter of them after scaling
    transform = JointTransform(steps=(*scale, RandomCrop((96, 96) if not scale else (48, 48))))

    def pixels(wanted, name):
        draws = (transform(image, mask, np.random.default_rng(seed), wanted)["labels"] for seed in range(100))
        return np.array([(ids == name).sum().item() for ids in draws])

    by_chance, wanted = pixels(None, 2), pixels(2, 2)
    enough = CROP_SHARE * 96**2 / 4 ** len(scale)
    assert (by_chance >= enough).mean() < 0.35 and (wanted >= enough).mean() > 0.8
    assert (pixels(7, 2) == by_chance).all(), "a class that is not there changes nothing"


def test_half_of_a_small_object_is_enough(rng):
    crop, ids = RandomCrop((32, 32)), np.zeros((40, 40), np.uint8)
    ids[20, 20:24] = 1  # less than the share of the crop
    held = [(crop.drawn((40, 40), ids, np.random.default_rng(seed), 1)[1] == 1).sum() for seed in range(50)]
    assert min(held) >= 2


def test_crop_ignores_what_does_not_count(rng):
    crop = RandomCrop((4, 4), 0.75, ignore_index=255)
    assert not crop._mixed(np.array([[255, 255, 1, 1]], dtype=np.uint8))
    assert crop._mixed(np.array([[255, 0, 1, 1]], dtype=np.uint8))
    assert not crop._mixed(np.array([[0, 1, 1, 1]], dtype=np.uint8))  # exactly the share is too much
    assert not RandomCrop((4, 4), 0.75, ignore_index=-1)._mixed(np.array([[-1, 3, 3]]))
    assert not crop._mixed(np.full((2, 2), 255, dtype=np.uint8))


def test_flip_moves_both(rng):
    image, mask = pair(rng)
    flipped, ids = RandomFlip(1.0)(*tensors(image, mask), rng)
    assert (flipped.numpy() == image[:, ::-1].transpose(2, 0, 1)).all() and (ids.numpy() == mask[:, ::-1]).all()
    kept, _ = RandomFlip(0.0)(*tensors(image, mask), rng)
    assert (kept.numpy() == image.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("saturation, degrees", [(1.4, 30.0), (0.5, -36.0), (1.5, 0.0), (0.6, 0.0), (1.0, 34.0)])
def test_colour_shift_equals_the_way_through_hsv(rng, saturation, degrees):
    image = rng.integers(0, 256, (3, 12, 12), dtype=np.uint8)
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0, 255, 90
    shifted = _shift_colors(torch.from_numpy(image), saturation, degrees).numpy()
    for y, x in np.ndindex(12, 12):
        hue, sat, value = colorsys.rgb_to_hsv(*(image[:, y, x] / 255))
        exact = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, min(1.0, sat * saturation), value)
        assert np.abs(np.asarray(exact) * 255 - shifted[:, y, x]).max() <= 0.51


def test_distortion_stays_in_its_ranges(rng):
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    values = []
    for i in range(400):
        out, mask = PhotometricDistortion()(tv_tensors.Image(grey), None, np.random.default_rng(i))
        assert mask is None and len(out.unique()) == 1  # grey has no hue or saturation
        values.append(int(out[0, 0, 0]))
    assert 33 <= min(values) < 50 and 150 < max(values) <= 198
    assert np.mean(np.array(values) == 100) == pytest.approx(0.25, abs=0.08)
    still = PhotometricDistortion(brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0)
    image, _ = tensors(*pair(rng))
    assert (still(image, None, rng)[0] == image).all()


def test_train_transform_moves_mask_with_image(rng):
    transform = build_train_transform(
        Augmentation(crop_size=(32, 24), scale_range=(1.0, 1.0), photometric_distortion=False), **PLAIN
    )
    for seed in range(8):
        out = transform(*pair(rng), np.random.default_rng(seed))
        assert out["pixel_values"].shape == (3, 32, 24) and out["pixel_values"].dtype == torch.float32
        assert out["labels"].shape == (32, 24) and out["labels"].dtype == torch.int64
        assert (out["pixel_values"][0] == out["labels"] * 40).all()


def test_small_pictures_are_padded(rng):
    transform = build_train_transform(
        Augmentation(crop_size=64, scale_range=(1.0, 1.0), flip_probability=0, photometric_distortion=False),
        ignore_index=-100,
        reduce_labels=True,
    )
    image, mask = pair(rng, 40, 48)
    out = transform(image, mask, rng)
    assert out["pixel_values"].shape == (3, 64, 64)
    assert (out["pixel_values"][:, 40:] == 0).all() and (out["pixel_values"][:, :, 48:] == 0).all()
    assert (out["labels"][40:] == -100).all() and (out["labels"][:, 48:] == -100).all()
    assert (out["labels"][:40, :48].numpy() == np.where(mask == 0, -100, mask.astype(int) - 1)).all()
    expected = v2.functional.normalize(
        torch.from_numpy(image).permute(2, 0, 1) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert torch.allclose(out["pixel_values"][:, :40, :48], expected, atol=1e-6)


def test_same_generator_same_result(rng):
    transform = build_train_transform(Augmentation(crop_size=(32, 32)))
    image, mask = pair(rng)
    first, second, other = (transform(image, mask, np.random.default_rng(s)) for s in (5, 5, 6))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_bgr_order(rng):
    image, _ = pair(rng)
    rgb = JointTransform(keep_label_size=True)(image)["pixel_values"]
    bgr = JointTransform(keep_label_size=True, mean=IMAGENET_MEAN[::-1], std=IMAGENET_STD[::-1], channel_order="bgr")(
        image
    )["pixel_values"]
    assert torch.equal(rgb.flip(0), bgr)


def test_eval_transform_keeps_the_label_size(rng):
    image, mask = pair(rng)
    out = JointTransform(steps=(Scale((20, 80)),), reduce_labels=True, keep_label_size=True)(image, mask)
    assert out["pixel_values"].shape == (3, 20, 28) and out["labels"].shape == mask.shape
    assert (out["labels"].numpy() == reduce_labels(mask)).all()


def test_processor_transform(rng):
    class Processor:
        do_reduce_labels, ignore_index = True, 9

        def __call__(self, images, return_tensors):
            assert images.shape == (40, 56, 3) and return_tensors == "pt"
            return {"pixel_values": torch.zeros(1, 3, 5, 7), "window_size": (3, 3)}

    image, mask = pair(rng)
    out = build_processor_transform(Processor())(image, mask)
    assert set(out) == {"pixel_values", "labels"} and out["pixel_values"].shape == (3, 5, 7)
    assert (out["labels"].numpy() == reduce_labels(mask, 9)).all()


def test_steps_of_torchvision_follow_the_generator(rng):
    step = FromTorchvision(v2.RandomRotation(30))
    transform = build_train_transform(
        Augmentation(crop_size=(32, 32), photometric_distortion=False), extra_steps=[step]
    )
    image, mask = pair(rng)
    state = torch.get_rng_state()
    first, second, other = (transform(image, mask, np.random.default_rng(s)) for s in (5, 5, 6))
    assert torch.equal(first["labels"], second["labels"]) and not torch.equal(first["labels"], other["labels"])
    assert torch.equal(state, torch.get_rng_state())


def test_with_transform(make_folder):
    from segzoo.data.loading import load_segmentation_dataset

    table = load_segmentation_dataset(make_folder({"train": ["a", "b", "c"]}))["train"]
    batch = table.with_transform(build_train_transform(Augmentation(crop_size=(16, 16))))[:2]
    assert [tuple(item.shape) for item in batch["pixel_values"]] == [(3, 16, 16)] * 2


@pytest.mark.parametrize(
    "kwargs",
    [
        {"crop_size": 0},
        {"crop_size": (3, 4, 5)},
        {"crop_size": 8, "scale_range": (2.0, 1.0)},
        {"crop_size": 8, "cat_max_ratio": 2},
    ],
)
def test_settings_that_cannot_be_used(kwargs):
    with pytest.raises(SegZooError):
        build_train_transform(Augmentation(**kwargs))


def test_pictures_of_the_wrong_kind_are_refused():
    with pytest.raises(SegZooError, match="uint8"):
        JointTransform(keep_label_size=True)(np.zeros((4, 4, 3), dtype=np.float32))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_numbers_of_channels(rng, channels):
    """Every channel is scaled, cropped and mirrored as the first one is, and has its own mean."""
    image = np.repeat(rng.integers(0, 256, (40, 56, 1), dtype=np.uint8), channels, axis=-1)
    mean, std = [0.1 * i for i in range(channels)], [0.2] * channels
    options = {"image_mean": mean, "image_std": std, "num_channels": channels}
    augmentation = Augmentation(crop_size=32, scale_range=(1, 1.5), photometric_distortion=False)
    transform = build_train_transform(augmentation, **options)
    pixels = transform(image, image[..., 0], np.random.default_rng(3))["pixel_values"]
    assert pixels.shape == (channels, 32, 32) and pixels[0].std() > 0
    for index in range(channels):
        torch.testing.assert_close(pixels[index] + (mean[index] - mean[0]) / 0.2, pixels[0], rtol=0, atol=1e-5)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    assert (transform(tensor, image[..., 0], np.random.default_rng(3))["pixel_values"] == pixels).all()
    with pytest.raises(SegZooError, match=f"of {channels} channel.*got torch.uint8 .40, 56, 3."):
        transform(np.zeros((40, 56, 3), np.uint8))
    assert SegmentationDataset([{"image": image}], transform).num_channels == channels


def test_photometric_distortion_is_for_rgb():
    options = {"image_mean": [0.5], "image_std": [0.5], "num_channels": 4}
    with pytest.raises(SegZooError, match="have 4 channel.*photometric_distortion=False"):
        build_train_transform(Augmentation(), **options)
    steps = [type(step) for step in build_train_transform(**options).steps]
    assert RandomFlip in steps and PhotometricDistortion not in steps
    assert PhotometricDistortion in [type(step) for step in build_train_transform().steps]
    assert Augmentation(flip_probability=0.2).for_channels(3) == Augmentation(flip_probability=0.2)


def test_as_many_means_as_channels():
    with pytest.raises(SegZooError, match="mean has 3 numbers, the image has 4 channels"):
        build_train_transform(num_channels=4)


@pytest.mark.parametrize("size", [(0.5, 0.9), (1.0, 1.0), (1.2, 2.0)])
def test_scale_and_crop_at_once_are_scale_and_then_crop(rng, size):
    """The same draws, ids and pixels, with boxes drawn anew because one class fills them."""
    scale, crop = Scale(ratio_range=size), RandomCrop((32, 24), cat_max_ratio=0.6)
    both = JointTransform(steps=(scale, crop), mean=(0.0,) * 3, std=(1.0,) * 3, rescale_factor=1.0)
    image, mask = pair(rng)
    mask[:, 10:] = 3
    for seed in range(6):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        found = both(image, mask, first)
        expected = crop(*scale(*tensors(image, mask), second), second)
        assert torch.equal(found["pixel_values"], expected[0].float())
        assert torch.equal(found["labels"], expected[1].long())
        assert first.random() == second.random()
    found = both(image, None, np.random.default_rng(1))
    assert set(found) == {"pixel_values"}


def test_colours_are_shifted_in_blocks_as_in_one(rng, monkeypatch):
    image, _ = tensors(*pair(rng, 64, 48))
    for saturation, degrees in ((1.4, 0.0), (0.6, 34.0), (1.0, -36.0)):
        whole = _shift_colors(image, saturation, degrees)
        monkeypatch.setattr(joint_steps, "_BLOCK", 100)
        assert torch.equal(_shift_colors(image, saturation, degrees), whole)
        monkeypatch.undo()

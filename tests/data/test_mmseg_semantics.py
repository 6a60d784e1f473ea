"""What mmsegmentation 0.27's training pipeline does step by step, with scripted random numbers and plain arithmetic."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from segzoo.data.joint_steps import PhotometricDistortion, RandomCrop, Scale


class Script:
    """A generator whose numbers are given; fails when a step asks for more than there are."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def _next(self, *_):
        return self.numbers.pop(0)

    random = uniform = integers = _next


def picture_of(values):
    return tv_tensors.Image(torch.as_tensor(values, dtype=torch.uint8).reshape(1, 1, -1).repeat(3, 1, 1))


def cut(values):
    """``clip(0, 255).astype(uint8)``, which mmseg does after every step."""
    return np.clip(values, 0, 255).astype(np.uint8).astype(np.float64)


GREY = np.array([0.0, 7, 60, 101, 180, 250])
YES, NO = 0.1, 0.9


@pytest.mark.parametrize("contrast_last", [False, True])
def test_distortion_goes_in_mmsegs_order(contrast_last):
    """Brightness; then contrast, unless it comes last; grey pictures leave saturation and hue without effect."""
    script = Script(YES, 20.7, YES if contrast_last else NO, YES, 1.3, YES, 0.5, YES, 9)
    image, _ = PhotometricDistortion()(picture_of(GREY), None, script)
    expected = cut(cut(GREY + 20.7) * 1.3)
    assert image[0, 0].numpy() == pytest.approx(expected, abs=1 if contrast_last else 0)
    assert script.numbers == []


def test_contrast_comes_before_or_after_saturation():
    """A saturated colour that contrast cuts at 255 tells the two orders apart."""
    colour = tv_tensors.Image(torch.tensor([200, 100, 100], dtype=torch.uint8).reshape(3, 1, 1))
    first = PhotometricDistortion()(colour, None, Script(NO, NO, YES, 1.5, YES, 0.5, NO))[0].flatten().tolist()
    last = PhotometricDistortion()(colour, None, Script(NO, YES, YES, 1.5, YES, 0.5, NO))[0].flatten().tolist()
    # (200, 100, 100) * 1.5 is cut to (255, 150, 150); half the saturation keeps the value: 255 - 105 / 2
    assert first == pytest.approx([255, 202.5, 202.5], abs=1)
    # half the saturation first: (200, 150, 150); times 1.5 and cut
    assert last == pytest.approx([255, 225, 225], abs=1)


@pytest.mark.parametrize(("classes", "boxes"), [(1, 11), (7, 1)])
def test_crop_draws_ten_boxes_and_keeps_the_eleventh_untested(classes, boxes):
    image = tv_tensors.Image(torch.arange(3 * 40 * 40).reshape(3, 40, 40).to(torch.uint8))
    mask = tv_tensors.Mask((torch.arange(1600).reshape(40, 40) % classes).to(torch.uint8))
    script = Script(*range(22))  # tops 0, 2, 4 ... and lefts 1, 3, 5 ...
    cropped, _ = RandomCrop((4, 4), cat_max_ratio=0.75)(image, mask, script)
    top = 2 * (boxes - 1)
    expected = image.as_subclass(torch.Tensor)[:, top : top + 4, top + 1 : top + 5]
    assert torch.equal(cropped.as_subclass(torch.Tensor), expected)
    assert len(script.numbers) == 22 - 2 * boxes


def test_a_share_equal_to_the_limit_is_drawn_again():
    """mmseg keeps a box whose commonest class has LESS than cat_max_ratio of the pixels that count."""
    crop = RandomCrop((2, 2), cat_max_ratio=0.75, ignore_index=9)
    three_of_four = np.array([[1, 1], [1, 2]], np.uint8)
    half = np.array([[1, 1], [2, 2]], np.uint8)
    two_of_three = np.array([[1, 1], [9, 2]], np.uint8)
    assert [crop._mixed(mask) for mask in (three_of_four, half, two_of_three)] == [False, True, True]


@pytest.mark.parametrize(
    ("scale", "numbers", "expected"),
    [
        # img_scale=(2048, 512), ratio 0.7: limits int(1433.6) and int(358.4); 480x360 pictures follow the short edge
        (Scale((512, 2048), (0.5, 2.0)), [0.7], (358, 477)),
        # without the ratio kept: both sides cut to whole pixels
        (Scale((512, 640), (0.5, 2.0), keep_ratio=False), [0.7], (358, 448)),
        # multiscale_mode="value": the third of the short edges
        (Scale((None, 1000), short_edges=(300, 375, 450)), [2], (450, 600)),
        # stretched up to multiples of 32
        (Scale((360, None), multiple=32), [], (384, 480)),
    ],
)
def test_sizes(scale, numbers, expected):
    script = Script(*numbers)
    image = tv_tensors.Image(torch.zeros(3, 360, 480, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(360, 480, dtype=torch.uint8))
    image, mask = scale(image, mask, script)
    assert image.shape[-2:] == mask.shape == expected
    assert script.numbers == []

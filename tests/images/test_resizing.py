import pytest
import torch

from segzoo.images.resizing import keep_ratio_size, resize_bicubic, resize_steps


@pytest.mark.parametrize(
    "width, height, scale, ratio, expected",  # from mmcv.rescale_size
    [
        (683, 512, (2048, 512), 0.5, (342, 256)),
        (683, 512, (2048, 640), 1.75, (1494, 1120)),
        (512, 683, (2560, 640), 0.75, (480, 640)),
        (512, 683, (520, 520), 0.5, (195, 260)),
        (640, 480, (2048, 512), 1.75, (1195, 896)),
        (500, 375, (520, 520), 1.75, (910, 683)),
        (333, 500, (2048, 640), 1.25, (800, 1201)),
        (1600, 1200, (2048, 1024), 1.75, (2389, 1792)),
        (2048, 1024, (520, 520), 0.75, (390, 195)),
        (4000, 100, (2048, 640), 1.0, (2048, 51)),
        (127, 255, (2048, 512), 0.5, (256, 514)),
        (127, 255, (2048, 640), 1.75, (1120, 2249)),
        (127, 255, (2048, 1024), 1.25, (1275, 2560)),
    ],
)
def test_sizes_are_those_of_mmcv(width, height, scale, ratio, expected):
    assert keep_ratio_size((height, width), min(scale), max(scale), ratio=ratio) == expected[::-1]


def test_bounds_alone_in_either_order_and_none():
    assert keep_ratio_size((100, 133), 50, None) == (50, 67)
    assert keep_ratio_size((100, 133), None, 50) == (38, 50)
    assert keep_ratio_size((100, 133), None, None, ratio=0.5) == (50, 67)
    assert keep_ratio_size((100, 133), 64, None, ratio=0.7) == (44, 59), "bounds are cut to whole pixels"
    both = [{"shortest_edge": 50, "longest_edge": 60}, {"shortest_edge": 60, "longest_edge": 50}]
    assert [resize_steps((100, 133), size=size) for size in both] == [[(45, 60)]] * 2


@pytest.mark.parametrize(
    "image_size, shortest, longest, expected",  # from mmsegmentation 1.2.2's ResizeShortestEdge
    [
        ((2935, 575), 512, 2048, (2047, 401)),
        ((527, 2946), 512, 2048, (366, 2046)),
        ((61, 93), 64, 80, (52, 79)),
        ((2666, 65), 800, 1333, (1312, 32)),
        ((2000, 250), 333, 500, (496, 62)),
        ((730, 1168), 333, 500, (312, 499)),
        ((480, 640), 512, 2048, (512, 683)),
        ((375, 500), 512, 683, (512, 683)),
        ((300, 300), 64, 64, (64, 64)),
    ],
)
def test_sizes_that_are_rounded_twice(image_size, shortest, longest, expected):
    assert keep_ratio_size(image_size, shortest, longest, "nearest_twice") == expected
    size = {"shortest_edge": shortest, "longest_edge": longest}
    assert resize_steps(image_size, size=size, rounding="nearest_twice") == [expected]


def test_the_pictures_own_size_is_raised_to_a_multiple():
    assert resize_steps((61, 93), size=None) == [(61, 93)]
    assert resize_steps((61, 93), size=None, size_multiple=32) == [(61, 93), (64, 96)]
    assert resize_steps((61, 93), size=None, size_multiple=32, size_multiple_mode="round_up") == [(64, 96)]
    assert resize_steps((61, 93), size=None, size_multiple=32, size_multiple_mode="pad") == [(61, 93)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_bicubic_values_are_those_of_opencv(dtype):
    image = torch.tensor([[0, 255, 0, 10], [255, 0, 200, 30], [7, 90, 255, 255]], dtype=torch.uint8)
    smaller = torch.tensor([[144, 11], [49, 245]])
    larger = torch.tensor(
        [
            [0, 156, 255, 26, 0, 10],
            [114, 140, 143, 91, 31, 0],
            [255, 109, 9, 182, 134, 15],
            [129, 59, 61, 223, 228, 162],
            [0, 26, 131, 238, 255, 255],
        ]
    )
    for expected in (smaller, larger):
        (found,) = resize_bicubic(image[None].to(dtype), tuple(expected.shape))
        assert found.dtype == dtype
        assert (found.double().clamp(0, 255) - expected).abs().max() <= 1
    beyond = found.min() < 0 and found.max() > 255
    assert beyond == (dtype != torch.uint8), "values beyond 0..255 are kept where the type has them"


@pytest.mark.parametrize("side", [512, 896, 333])
def test_a_short_side_rounded_down_as_setr_resize_does(side):
    """The bound of the longer side that SETR_Resize makes of it costs a pixel where it rounds below."""
    for height, width in [(375, 500), (97, 131), (683, 1024), (211, 1999)]:
        short, long = min(height, width), max(height, width)
        factor = min(side * long / short / long, side / short)
        expected = (int(height * factor), int(width * factor))
        assert keep_ratio_size((height, width), side, rounding="down") == expected

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo import SegZooError
from segzoo.inference import sliding_window_logits
from segzoo.inference.sliding_window import WindowRows, window_starts

LABELS = 5


@pytest.fixture
def network():
    """Strided and with a global average, so that a window's prediction depends on the window."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.last = nn.Conv2d(8, LABELS, 1)

        def forward(self, pixels):
            maps = self.first(pixels).relu()
            return self.last(maps + maps.mean((2, 3), keepdim=True))

    return Network().eval()


def one_pixel_at_a_time(predict, image, window, stride, align_corners):
    """An independent definition: list the windows, then average at each pixel those that cover it."""
    _, _, height, width = image.shape
    predictions = []
    for row in range(max(0, -(-(height - window[0]) // stride[0])) + 1):
        for column in range(max(0, -(-(width - window[1]) // stride[1])) + 1):
            bottom = min(row * stride[0] + window[0], height)
            right = min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            part = image[:, :, top:bottom, left:right]
            logits = F.interpolate(predict(part), size=part.shape[-2:], mode="bilinear", align_corners=align_corners)
            predictions.append((top, bottom, left, right, logits))
    result = torch.empty(image.shape[0], LABELS, height, width)
    for y in range(height):
        for x in range(width):
            covering = [
                logits[:, :, y - top, x - left]
                for top, bottom, left, right, logits in predictions
                if top <= y < bottom and left <= x < right
            ]
            result[:, :, y, x] = torch.stack(covering).mean(0)
    return result


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((20, 31), (12, 12), (8, 8)),
        ((20, 31), (12, 16), (5, 16)),
        ((24, 24), (12, 12), (12, 12)),
        ((9, 30), (12, 12), (8, 8)),
        ((9, 10), (12, 12), (8, 8)),
        ((12, 13), (12, 12), (1, 1)),
    ],
)
@torch.no_grad()
def test_equals_the_definition(network, size, window, stride, align_corners):
    image = torch.randn(2, 3, *size)
    expected = one_pixel_at_a_time(network, image, window, stride, align_corners)
    for windows_per_pass in (1, 3, 100):
        logits = sliding_window_logits(network, image, window, stride, LABELS, align_corners, windows_per_pass)
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("windows_per_pass", [1, 3])
@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("size", [(20, 31), (45, 13), (9, 30), (12, 12)])
@torch.no_grad()
def test_the_same_row_by_row(network, size, rows, windows_per_pass):
    image = torch.randn(1, 3, *size)
    arguments = {"window_size": (12, 12), "window_stride": (7, 8), "num_labels": LABELS}
    expected = sliding_window_logits(network, image, **arguments, windows_per_pass=windows_per_pass)[0]
    seen = []

    def predict(pixels):
        seen.append(len(pixels))
        return network(pixels)

    def read(top, left, height, width):
        return image[0, :, top : top + height, left : left + width]

    source = WindowRows(predict, read, size, **arguments, windows_per_pass=windows_per_pass)
    assert len(seen) == 1 and (source.size, source.classes, source.dtype) == (size, LABELS, torch.float32)
    found = torch.cat([source.read(first, min(first + rows, size[0])) for first in range(0, size[0], rows)])
    torch.testing.assert_close(found.permute(2, 0, 1), expected, rtol=1e-6, atol=1e-6)
    windows = len(window_starts(size[0], 12, 7)) * len(window_starts(size[1], 12, 8))
    assert sum(seen) == windows and max(seen) <= windows_per_pass


@torch.no_grad()
def test_windows_are_predicted_late_and_forgotten(network):
    image = torch.randn(3, 120, 20)

    def read(top, left, height, width):
        return image[:, top : top + height, left : left + width]

    source = WindowRows(network, read, (120, 20), window_size=(12, 12), window_stride=(8, 8), num_labels=LABELS)
    held = []
    for row in range(120):
        source.read(row, row + 1)
        held.append(len(source.ready))
    assert held[0] == 2 and max(held) == 4 and source.next == len(source.corners) == 30


def test_window_starts():
    assert window_starts(128, 64, 43) == [0, 43, 64]
    assert window_starts(160, 64, 43) == [0, 43, 86, 96]
    assert window_starts(64, 64, 43) == [0]
    assert window_starts(50, 64, 43) == [0]
    assert window_starts(65, 64, 64) == [0, 1]


def test_gradients_and_types(network):
    image = torch.randn(1, 3, 16, 20, requires_grad=True)
    sliding_window_logits(network, image, (12, 12), (8, 8), LABELS).sum().backward()
    assert (image.grad != 0).any()
    half = sliding_window_logits(network.bfloat16(), image.detach().bfloat16(), (12, 12), (8, 8), LABELS)
    assert half.dtype == torch.float32, "sums of half precision lose too much"
    double = sliding_window_logits(network.double(), image.detach().double(), [12, 12], [8, 8], LABELS)
    assert double.dtype == torch.float64


@torch.no_grad()
def test_sizes_of_a_batched_pipeline(network):
    image = torch.randn(2, 3, 16, 20)
    expected = sliding_window_logits(network, image, (12, 12), (8, 8), LABELS)
    sizes = [(12, 12), (12, 12)], [(8, 8), (8, 8)]
    assert torch.equal(sliding_window_logits(network, image, *sizes, LABELS), expected)


@pytest.mark.parametrize(
    ("window", "stride", "labels", "message"),
    [
        ((12, 12), (13, 8), LABELS, "window_stride 13 is larger than window_size 12 in height"),
        ((12, 0), (8, 8), LABELS, "window_size is"),
        ((12, 12), (8,), LABELS, "window_stride is"),
        ([(12, 12), (16, 16)], (8, 8), LABELS, "window_size is"),
        ((12, 12), (8, 8), 7, r"expected \(1, 7"),
    ],
)
def test_wrong_arguments(network, window, stride, labels, message):
    with pytest.raises(SegZooError, match=message):
        sliding_window_logits(network, torch.zeros(1, 3, 16, 16), window, stride, labels)

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.heads import FCNHead, FCNHeadConfig
from segzoo.losses import CrossEntropyLoss, DiceLoss
from segzoo.losses.resized import resized_cross_entropy

CLASSES = 9


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return result


def batch(small, large, *, dtype=torch.float64, images=2, classes=CLASSES):
    draw = torch.Generator().manual_seed(sum(small) + sum(large))
    logits = torch.randn(images, classes, *small, dtype=dtype, generator=draw) * 5
    labels = torch.randint(0, classes, (images, *large), generator=draw)
    labels[:, : large[0] // 3, : large[1] // 2] = 255
    return logits.requires_grad_(), labels, torch.randn(images, *large, dtype=dtype, generator=draw)


def usual(logits, labels, align_corners, ignore_index=255):
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")


SIZES = [
    *(((3, 5), (3 * down, 5 * across), False) for down in (1, 2, 3, 4) for across in (1, 3, 8)),
    *(((1, 1), (6, 5), False), ((7, 1), (28, 4), False)),
    *(((3, 5), (2 * down + 1, 4 * across + 1), True) for down in (1, 2, 3, 4) for across in (1, 3, 8)),
]
OTHER_SIZES = [((3, 5), (10, 15), False), ((3, 5), (2, 3), False), ((3, 5), (12, 20), True), ((1, 5), (4, 20), True)]


@pytest.mark.parametrize(("small", "large", "align_corners"), SIZES + OTHER_SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_equals_the_usual_way(small, large, align_corners, layout):
    logits, labels, upstream = batch(small, large)
    given = logits.detach().to(memory_format=layout).requires_grad_()
    found, expected = (
        resized_cross_entropy(given, labels, 255, align_corners=align_corners),
        usual(logits, labels, align_corners),
    )
    in_cells = "InCells" in type(found.grad_fn).__name__
    assert in_cells == ((small, large, align_corners) in SIZES)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (found[labels == 255] == 0).all()
    (gradient,), (right,) = (
        torch.autograd.grad(losses, x, upstream) for losses, x in ((found, given), (expected, logits))
    )
    torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-11)
    assert gradient.is_contiguous(memory_format=layout) or not in_cells


@pytest.mark.parametrize("strip", [1, 500, 2**20])
def test_strips_change_nothing(strip, monkeypatch):
    monkeypatch.setattr("segzoo.losses.resized._STRIP", strip)
    logits, labels, upstream = batch((6, 5), (24, 20))
    found, expected = resized_cross_entropy(logits, labels, 255, align_corners=False), usual(logits, labels, False)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(losses, logits, upstream)[0] for losses in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_gradients_of_gradients():
    logits, labels, _ = batch((2, 3), (4, 9))
    assert torch.autograd.gradgradcheck(
        lambda x: resized_cross_entropy(x, labels, 255, align_corners=False), [logits.detach().requires_grad_()]
    )


def test_can_be_transformed():
    logits, labels, _ = batch((2, 3), (4, 9))
    logits = logits.detach()

    def losses(logits, labels):
        return resized_cross_entropy(logits[None], labels[None], 255, align_corners=False)[0]

    found = torch.vmap(torch.func.grad(lambda *pair: losses(*pair).sum()))(logits, labels)
    expected = torch.func.grad(lambda logits: usual(logits, labels, False).sum())(logits)
    torch.testing.assert_close(found, expected)
    _, tangent = torch.func.jvp(lambda logits: losses(logits, labels[0]), (logits[0],), (logits[1],))
    torch.testing.assert_close(
        tangent, torch.func.jvp(lambda x: usual(x[None], labels[:1], False)[0], (logits[0],), (logits[1],))[1]
    )


def test_large_logits_overflow_nowhere():
    logits, labels, _ = batch((4, 4), (16, 16), dtype=torch.float32)
    large = (logits.detach() * 1e4).requires_grad_()
    found, expected = resized_cross_entropy(large, labels, 255, align_corners=False), usual(large, labels, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(large.detach().abs().max()))
    found.sum().backward()
    assert large.grad.isfinite().all()


def test_rounding_is_that_of_the_usual_way():
    logits, labels, upstream = batch((32, 32), (128, 128), classes=150)
    single = logits.detach().float().requires_grad_()
    exact, expected = usual(logits, labels, False), usual(single, labels, False)
    found = resized_cross_entropy(single, labels, 255, align_corners=False)
    (right,) = torch.autograd.grad(exact, logits, upstream)
    for losses in (found, expected):
        (gradient,) = torch.autograd.grad(losses, single, upstream.float())
        assert (losses - exact).abs().max() < 2e-5
        assert (gradient - right).abs().max() < 2e-6 * right.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average": "valid"},
        {"average": "weighted", "class_weights": [0.5 + i / 10 for i in range(CLASSES)]},
        {"average": "kept", "ohem": {"threshold": 0.4, "min_kept": 20}},
        {"ohem": {"min_kept": 30}, "weight": 0.4},
        {"sigmoid": True},
    ],
    ids=str,
)
def test_every_cross_entropy_takes_small_logits(options):
    loss = CrossEntropyLoss(**options)
    logits, labels, _ = batch((4, 5), (16, 20))
    large = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    found, expected = loss(logits, labels), loss(large, labels)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_align_corners_reaches_every_loss():
    logits, labels, _ = batch((3, 5), (9, 17))
    labels[labels == 255] = 0
    large = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=True)
    for loss in (CrossEntropyLoss(), CrossEntropyLoss(sigmoid=True), DiceLoss()):
        torch.testing.assert_close(loss(logits, labels, align_corners=True), loss(large, labels))
        assert not torch.allclose(loss(logits, labels), loss(large, labels))


def test_autocast_does_not_round():
    logits, labels, _ = batch((8, 8), (24, 24), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = resized_cross_entropy(logits, labels, 255, align_corners=False)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    expected = usual(logits, labels, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0], rtol=1e-5, atol=1e-5)


def test_resized_logits_are_never_in_memory(monkeypatch):
    monkeypatch.setattr("segzoo.losses.resized._STRIP", 2**18 // torch.get_num_threads())
    logits, labels, _ = batch((64, 64), (256, 256), dtype=torch.float32, classes=30)
    head = FCNHead(FCNHeadConfig(in_channels=[4], num_labels=30, channels=4))
    with Largest() as largest:
        (value,) = head.compare(logits, [CrossEntropyLoss()], labels, 255).values()
        value.backward()
    assert largest.elements < 2**19 < logits.numel() * 16
    with Largest() as largest:
        head.compare(logits, [CrossEntropyLoss(), DiceLoss()], labels, 255)
    assert largest.elements >= logits.numel() * 16


def test_labels_outside_the_classes_are_refused():
    logits, labels, _ = batch((4, 4), (16, 16))
    labels[0, -1, -1] = CLASSES
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        resized_cross_entropy(logits, labels, 255, align_corners=False)


def test_compiled_graphs_take_the_usual_way():
    logits, labels, _ = batch((4, 4), (16, 16))
    compiled = torch.compile(CrossEntropyLoss(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), CrossEntropyLoss()(logits, labels))

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from segzoo import SegZooError, SegZooImageProcessor
from segzoo.inference import label_map_from_logits, label_maps, probabilities_from_logits
from segzoo.inference.rows import MapRows, resized


def by_strips(logits, stages, align_corners):
    return label_maps.label_map_from_rows(resized(MapRows(logits), stages, align_corners))


ENGINES = {"strips": by_strips, "classes": label_maps._by_classes, "blocks": label_maps._by_blocks}


def two_steps(logits, size, align_corners, input_size=None, crop=None):
    """The definition: every class at full resolution."""
    maps = logits[None]
    if input_size is not None:
        maps = F.interpolate(maps, size=input_size, mode="bilinear", align_corners=align_corners)
        crop = crop or input_size
        maps = maps[:, :, : crop[0], : crop[1]].contiguous()
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((19, 16, 32), (64, 128)),
        ((150, 21, 13), (83, 51)),
        ((3, 1, 1), (5, 9)),
        ((3, 7, 2), (7, 40)),
        ((4, 2, 7), (40, 7)),
        ((11, 30, 40), (13, 17)),
        ((6, 20, 30), (20, 30)),
        ((1, 5, 5), (9, 9)),
        ((5, 9, 9), (1, 1)),
    ],
)
def test_equals_interpolate_and_argmax(engine, align_corners, dtype, shape, size):
    logits = torch.randn(shape, dtype=dtype)
    stages = label_maps.resize_stages(logits.shape, size)
    labels = ENGINES[engine](logits, stages, align_corners)
    assert torch.equal(labels, two_steps(logits, size, align_corners).argmax(0))
    assert torch.equal(label_map_from_logits(logits, size, align_corners), labels)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("input_size", "crop", "size"),
    [
        ((64, 96), (60, 77), (121, 154)),
        ((64, 96), (64, 96), (50, 70)),
        ((16, 24), (13, 20), (52, 80)),
        ((64, 96), (33, 50), (33, 50)),
        ((40, 40), None, (90, 100)),
    ],
)
def test_cuts_padding_and_resizes_twice(engine, align_corners, input_size, crop, size):
    logits = torch.randn(12, 16, 24)
    stages = label_maps.resize_stages(logits.shape, size, crop, input_size)
    expected = two_steps(logits, size, align_corners, input_size, crop)
    assert torch.equal(ENGINES[engine](logits, stages, align_corners), expected.argmax(0))
    arguments = {"align_corners": align_corners, "crop": crop, "input_size": input_size}
    assert torch.equal(label_map_from_logits(logits, size, **arguments), expected.argmax(0))
    torch.testing.assert_close(probabilities_from_logits(logits, size, **arguments), expected.softmax(0))


def test_large_maps_in_several_pieces(monkeypatch):
    logits = torch.randn(9, 32, 32)
    expected = two_steps(logits, (128, 128), False).argmax(0)
    monkeypatch.setattr(label_maps, "_STRIP_VALUES", 9 * 128 * 5)
    monkeypatch.setattr(label_maps, "_CHUNK_VALUES", 2 * 128 * 128)
    for engine in ENGINES.values():
        assert torch.equal(engine(logits, label_maps.resize_stages(logits.shape, (128, 128)), False), expected)


def test_argmax_comes_after_upsampling():
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]], [[2.6, 2.6]]])
    assert label_map_from_logits(logits, (1, 8)).tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_largest_class_with_ties_and_special_values(dtype):
    values = torch.randint(-2, 3, (3, 50, 37), dtype=dtype)
    values[0, :, ::5] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0], dtype=dtype).repeat(10)[:, None]
    values[1, 0] = -torch.inf
    assert torch.equal(label_maps.largest_class(values), values.argmax(-1))
    assert torch.equal(label_maps.largest_class(values[1, 0]), values[1, 0].argmax(-1))


def test_half_precision_and_gradients():
    logits = torch.randn(5, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    labels = label_map_from_logits(logits, (31, 31))
    assert torch.equal(labels, two_steps(logits.float(), (31, 31), False).argmax(0))
    before = logits.detach().clone()
    probabilities_from_logits(logits.detach(), (8, 8))
    assert torch.equal(logits.detach(), before)


def test_wrong_arguments():
    with pytest.raises(SegZooError, match="logits have the shape"):
        label_map_from_logits(torch.zeros(1, 2, 3, 4), (5, 5))
    with pytest.raises(SegZooError, match="needs input_size"):
        label_map_from_logits(torch.zeros(2, 3, 4), (5, 5), crop=(2, 2))
    with pytest.raises(SegZooError, match="larger than the input"):
        label_map_from_logits(torch.zeros(2, 3, 4), (5, 5), crop=(9, 2), input_size=(8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_class_that_is_switched_off_wins_nowhere(dtype):
    """Resized, 0 * -inf is NaN, which is the largest."""
    logits = torch.randn((2, 6, 16, 24), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[:, 3] = -torch.inf
    before = logits.clone()
    processor = SegZooImageProcessor(do_resize=False)
    found = processor.post_process_semantic_segmentation(
        SemanticSegmenterOutput(logits=logits),
        target_sizes=[(64, 96)] * 2,
        return_probabilities=True,
        return_segmentation_scores=True,
    )
    for one, part in zip(found, logits, strict=True):
        others = part[[0, 1, 2, 4, 5]].float()
        size = tuple(one["segmentation"].shape)
        expected = F.interpolate(others[None], size, mode="bilinear")[0]
        assert torch.equal(one["segmentation"], torch.tensor([0, 1, 2, 4, 5])[expected.argmax(0)])
        torch.testing.assert_close(one["probabilities"][[0, 1, 2, 4, 5]], expected.softmax(0), rtol=1e-4, atol=1e-6)
        assert (one["probabilities"][3] == 0).all() and (one["segmentation_scores"][3] <= -1e29).all()
    assert torch.equal(logits, before)

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data import SegmentationDataset, build_processor_transform
from segzoo.evaluation import metrics_from_confusion
from segzoo.inference import evaluate

SIZES = [(40, 56), (40, 56), (37, 64), (64, 37), (40, 56)]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    rows = []
    for height, width in SIZES:
        label = rng.integers(0, 5, (height, width), dtype=np.uint8)
        label[:3] = 255
        rows.append(
            {"image": PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), "label": label}
        )
    return rows


def make_model(**options):
    torch.manual_seed(0)
    config = SegZooConfig.tiny()
    for name, value in options.items():
        setattr(config, name, value)
    model = SegZooForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_heads[-1].classifier.weight, std=2.0)  # labels that are not all alike
    return model


def by_hand(model, processor, rows, **options):
    """One image at a time, counted pixel by pixel in NumPy."""
    matrix = np.zeros((5, 5), dtype=np.int64)
    model.eval()
    for row in rows:
        with torch.no_grad():
            outputs = model(**processor(images=row["image"], return_tensors="pt"), **options)
        label = row["label"]
        found = processor.post_process_semantic_segmentation(outputs, target_sizes=[label.shape])[0].numpy()
        np.add.at(matrix, (label[label != 255].astype(int), found[label != 255]), 1)
    model.train()
    return matrix


def run(model, processor, rows, **options):
    data = SegmentationDataset(rows, build_processor_transform(processor), num_labels=5)
    return evaluate(model, processor, data, accelerator=Accelerator(cpu=True), num_labels=5, **options)


PROCESSORS = {
    "own size": {"do_resize": False},
    "padded to multiples": {"do_resize": False, "size_multiple": 32, "size_multiple_mode": "pad"},
    "resized": {"size": {"shortest_edge": 48, "longest_edge": 80}},
}


@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 4}, {"batch_size": 2, "num_workers": 1, "channels_last": True}]
)
def test_scores_are_those_of_one_image_at_a_time(rows, settings, options):
    model, processor = make_model(), SegZooImageProcessor(**settings)
    expected = by_hand(model, processor, rows)
    assert (expected.sum(0) > 0).sum() > 1
    result = run(model, processor, rows, **options)
    changed = np.abs(result.confusion.matrix.numpy() - expected).sum()
    # Batched convolutions round differently: a pixel whose best two classes are equal to seven digits may flip.
    assert changed <= (0 if options == {} else 6)
    assert result.num_images == len(rows) and result.confusion.matrix.sum() == expected.sum()
    if changed == 0:
        assert result.metrics["mean_iou"] == metrics_from_confusion(expected)["mean_iou"]
    assert result.summary().keys() >= {"mean_iou", "mean_accuracy", "overall_accuracy"}


def test_windows_of_the_config_are_used(rows):
    model, processor = make_model(window_size=[32, 32], window_stride=[16, 16]), SegZooImageProcessor(do_resize=False)
    expected = by_hand(model, processor, rows, window_size=(32, 32), window_stride=(16, 16))
    assert np.array_equal(run(model, processor, rows).confusion.matrix.numpy(), expected)
    assert not np.array_equal(by_hand(model, processor, rows), expected)


def test_the_mode_and_the_random_numbers_stay(rows):
    model, processor = make_model().train(), SegZooImageProcessor(do_resize=False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model, processor, rows)
    assert model.training and torch.equal(torch.rand(3), expected)

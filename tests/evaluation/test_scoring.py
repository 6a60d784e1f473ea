import math
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.data import SegmentationDataset, build_processor_transform
from segzoo.evaluation import EvaluationOptions, evaluate
from segzoo.evaluation.scoring import EvaluationStopped, own_batches
from segzoo.inference import InferenceSettings, Predictor
from segzoo.metrics import ConfusionMatrix, metrics_from_confusion

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
    "options",
    [{}, {"batch_size": 4}, {"batch_size": 2, "num_workers": 1, "channels_last": True}, {"num_streams": 2}],
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


def one_of(process_index, num_processes):
    """An accelerator of one of several processes that never meet: each returns its own counts."""
    return SimpleNamespace(
        process_index=process_index,
        num_processes=num_processes,
        device=torch.device("cpu"),
        autocast=nullcontext,
        unwrap_model=lambda model: model,
        reduce=lambda matrix, reduction: matrix,
    )


def score_images(rows, settings=None, *, accelerator=None, **options):
    """All image scores in the order in which they came, and the evaluation."""
    model, processor = make_model(), SegZooImageProcessor(do_resize=False)
    data = SegmentationDataset(rows, build_processor_transform(processor), num_labels=5)
    scores = []
    accelerator = Accelerator(cpu=True) if accelerator is None else accelerator
    options = {"accelerator": accelerator, "num_labels": 5, "settings": settings, "on_image": scores.append, **options}
    return scores, evaluate(model, processor, data, **options)


def test_the_score_of_every_image(rows):
    settings = InferenceSettings(window_size=(32, 32), window_stride=(20, 20), scales=(0.8, 1.0), flip=True)
    scores, evaluation = score_images(rows, settings, batch_size=2)
    assert [score.index for score in scores] == [0, 1, 2, 3, 4] and scores[3].name == "image of row 3"
    predictor = Predictor(make_model(), SegZooImageProcessor(do_resize=False), settings)
    for score, row in zip(scores, rows, strict=True):
        label = row["label"]
        assert torch.equal(score.prediction, predictor.label_map(np.array(row["image"]), label.shape))
        counts = score.confusion.numpy()
        metrics = metrics_from_confusion(counts)
        assert (score.mean_iou, score.pixel_accuracy) == (metrics["mean_iou"], metrics["overall_accuracy"])
        right = (score.prediction.numpy() == label)[label != 255]
        assert score.num_pixels == right.size == counts.sum() and score.pixel_accuracy == right.mean()
    assert torch.equal(sum(score.confusion for score in scores), evaluation.confusion.matrix)
    assert evaluation.num_images == 5


def test_batches_at_the_same_time(rows, tmp_path, monkeypatch):
    """The scores come in the order of the images, and before an error all that there are."""
    alone, whole = score_images(rows[:4])
    both, original, threads = threading.Barrier(2), Predictor.label_maps, set()

    def together(self, images, sizes):
        threads.add(threading.current_thread().name)
        both.wait(timeout=60)
        return original(self, images, sizes)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "label_maps", together)
        scores, evaluation = score_images(rows[:4], num_streams=2)
    assert len(threads) == 2
    assert [score.index for score in scores] == [0, 1, 2, 3]
    assert torch.equal(evaluation.confusion.matrix, whole.confusion.matrix)
    assert all(torch.equal(one.prediction, other.prediction) for one, other in zip(scores, alone, strict=True))

    (tmp_path / "bad.png").write_bytes(b"no picture")
    found = []
    bad = [*rows[:3], {"image": {"path": str(tmp_path / "bad.png"), "bytes": None}, "label": rows[3]["label"]}]
    with pytest.raises(SegZooError, match=r"bad.png: the image cannot be read"):
        score_images(bad, num_streams=2, on_image=found.append)
    assert [score.index for score in found] == [0, 1, 2]
    with pytest.raises(SegZooError, match="num_streams is 0; it is at least 1"):
        EvaluationOptions(num_streams=0)


def test_an_image_without_pixels_that_count():
    row = {"image": PIL.Image.new("RGB", (40, 40)), "label": np.full((40, 40), 255, np.uint8)}
    with pytest.warns(UserWarning, match="no pixel of the 1 pictures counts, .*: all labels are 255"):
        (score,), evaluation = score_images([row])
    assert score.num_pixels == 0 and math.isnan(score.mean_iou) and math.isnan(score.pixel_accuracy)
    assert evaluation.num_images == 1


def test_going_on_where_an_earlier_run_stopped(rows):
    scores, whole = score_images(rows, batch_size=2)
    start = ConfusionMatrix(5)
    for index in (0, 1, 4):
        start.matrix += scores[index].confusion
    before = start.matrix.clone()
    rest, total = score_images(rows, batch_size=2, start=start, done=[0, 1, 4])
    assert [score.index for score in rest] == [2, 3] and total.num_images == 5
    assert torch.equal(total.confusion.matrix, whole.confusion.matrix) and torch.equal(start.matrix, before)
    none, total = score_images(rows, start=whole.confusion, done=range(5))
    assert none == [] and torch.equal(total.confusion.matrix, whole.confusion.matrix)


@pytest.mark.parametrize("num_processes", [2, 3, 8])
def test_processes_share_the_images(rows, num_processes):
    """Bit for bit the same counts, also with several images a batch."""
    _, whole = score_images(rows, batch_size=2)
    parts = [score_images(rows, batch_size=2, accelerator=one_of(i, num_processes)) for i in range(num_processes)]
    assert sorted(score.index for scores, _ in parts for score in scores) == [0, 1, 2, 3, 4]
    assert torch.equal(sum(part.confusion.matrix for _, part in parts), whole.confusion.matrix)


def test_fixed_batches():
    assert own_batches(7, 2, set(), 0, 1) == [[0, 1], [2, 3], [4, 5], [6]]
    assert own_batches(7, 2, set(), 1, 2) == [[2, 3], [6]]
    assert own_batches(7, 2, {2, 3, 6, 0}, 0, 2) == [[1], [4, 5]]
    assert own_batches(3, 5, set(), 1, 2) == []
    every = [index for process in range(3) for batch in own_batches(100, 7, {5}, process, 3) for index in batch]
    assert sorted(every) == [index for index in range(100) if index != 5]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_file_is_named_in_one_line(rows, tmp_path, num_workers):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = [*rows[:2], {"image": {"path": str(tmp_path / "bad.png"), "bytes": None}, "label": rows[2]["label"]}]
    with pytest.raises(SegZooError, match=r"bad.png: the image cannot be read") as caught:
        score_images(bad, num_workers=num_workers)
    assert "\n" not in str(caught.value)
    with pytest.raises(SegZooError, match="image of row 1: there is no mask"):
        score_images([rows[0], {"image": rows[1]["image"]}])


def test_what_the_caller_raises_ends_it(rows):
    def full(score):
        raise OSError("disk full")

    model = make_model().train()
    processor = SegZooImageProcessor(do_resize=False)
    data = SegmentationDataset(rows, build_processor_transform(processor), num_labels=5)
    with pytest.raises(OSError, match="disk full"):
        evaluate(model, processor, data, accelerator=Accelerator(cpu=True), num_labels=5, on_image=full)
    assert model.training


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_that_is_given_up(rows, num_workers):
    scores = []
    with pytest.raises(EvaluationStopped):
        score_images(
            rows, num_workers=num_workers, on_image=scores.append, is_stopped=lambda: len(scores) == 2, num_streams=1
        )
    assert [score.index for score in scores] == [0, 1]
    whole = score_images(rows)[1]
    assert torch.equal(score_images(rows, is_stopped=lambda: False)[1].confusion.matrix, whole.confusion.matrix)


def test_every_process_gives_up_when_one_does(rows):
    told = one_of(1, 2)
    told.reduce = lambda flag, reduction: flag + 1  # the other process says yes
    with pytest.raises(EvaluationStopped):
        score_images(rows, accelerator=told, is_stopped=lambda: False)


def test_the_label_rule_of_the_data_set():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, (40, 40), dtype=np.uint8)  # 0: no class
    row = {"image": PIL.Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), "label": label}
    model, processor = make_model(), SegZooImageProcessor(do_resize=False)
    data = SegmentationDataset([row], build_processor_transform(processor, reduce_labels=True), num_labels=5)
    evaluation = evaluate(model, processor, data, accelerator=Accelerator(cpu=True), num_labels=5)
    truth = np.bincount(label.ravel(), minlength=6)[1:]
    assert np.array_equal(evaluation.confusion.matrix.sum(1).numpy(), truth)

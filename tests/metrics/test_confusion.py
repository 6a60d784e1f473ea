import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.script_process import ScriptRun

from segzoo.errors import SegZooError
from segzoo.metrics import ConfusionMatrix, format_table, metrics_from_confusion
from segzoo.metrics.confusion import _byte_pairs_numpy, _byte_pairs_torch


def slow_scores(predictions, labels, num_labels, ignore_index):
    """The definition, pixel set by pixel set, without a confusion matrix."""
    scores = {"iou": [], "accuracy": [], "precision": [], "dice": []}
    right = total = 0
    for predicted, true in zip(predictions, labels, strict=True):
        valid = true != ignore_index
        right += np.sum(predicted[valid] == true[valid])
        total += np.sum(valid)
    for category in range(num_labels):
        both = either = is_true = is_predicted = 0
        for predicted, true in zip(predictions, labels, strict=True):
            valid = true != ignore_index
            p, t = (predicted == category) & valid, (true == category) & valid
            both, either = both + np.sum(p & t), either + np.sum(p | t)
            is_true, is_predicted = is_true + np.sum(t), is_predicted + np.sum(p)
        scores["iou"].append(both / either if either else np.nan)
        scores["accuracy"].append(both / is_true if is_true else np.nan)
        scores["precision"].append(both / is_predicted if is_predicted else np.nan)
        scores["dice"].append(2 * both / (is_true + is_predicted) if is_true + is_predicted else np.nan)
    return scores, right / total if total else np.nan


@st.composite
def label_maps(draw):
    num_labels = draw(st.sampled_from([1, 2, 5, 150, 300]))
    ignore_index = draw(st.sampled_from([255, 0, -100, 65535]))
    if ignore_index == 255 and num_labels == 300:
        ignore_index = 299
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
    few = draw(st.integers(1, num_labels))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.int64]))
    if num_labels == 300 or not 0 <= ignore_index <= 255:
        dtype = np.int64
    labels = [rng.integers(0, few, shape).astype(dtype) for shape in shapes]
    predictions = [np.where(rng.random(m.shape) < 0.5, m, rng.integers(0, num_labels, m.shape)) for m in labels]
    for label, prediction in zip(labels, predictions, strict=True):
        ignored = rng.random(label.shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
        label[ignored] = ignore_index
        prediction[ignored] = rng.integers(0, num_labels, ignored.sum())
    return [p.astype(dtype) for p in predictions], labels, num_labels, ignore_index


@settings(max_examples=150, deadline=None)
@given(label_maps())
def test_scores_equal_their_definition(maps):
    predictions, labels, num_labels, ignore_index = maps
    scores, overall = slow_scores(predictions, labels, num_labels, ignore_index)
    counted = ConfusionMatrix(num_labels, ignore_index)
    counted.update(predictions, labels)
    result = counted.compute()
    for name, expected in scores.items():
        np.testing.assert_allclose(result[f"per_category_{name}"], expected, rtol=1e-12)
        values = np.array(expected)[~np.isnan(expected)]
        np.testing.assert_allclose(result[f"mean_{name}"], values.mean() if len(values) else np.nan, rtol=1e-12)
    np.testing.assert_allclose(result["overall_accuracy"], overall, rtol=1e-12)
    np.testing.assert_allclose(result["overall_score"], (result["mean_iou"] + overall) / 2, rtol=1e-12)
    assert counted.matrix.dtype == torch.int64
    assert int(counted.matrix.sum()) == sum(int((label != ignore_index).sum()) for label in labels)


RECORD = json.loads((Path(__file__).parent / "records" / "metrics.json").read_text())
NAMES = {
    "IoU": "iou",
    "Acc": "accuracy",
    "Dice": "dice",
    "Fscore": "f_score",
    "Precision": "precision",
    "Recall": "recall",
}


def record_labels(label, shape, num_classes, ignore=255):
    count, height, width = shape
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(label.encode())))
    tiles = rng.integers(0, num_classes, size=(count, -(-height // 4), -(-width // 4)))
    tiles[rng.random(tiles.shape) < 0.05] = ignore
    return tiles.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]


def record_maps():
    prediction = record_labels("metric:pred", (3, 40, 50), 6, ignore=0)
    truth = record_labels("metric:gt", (3, 40, 50), 6)
    return prediction, np.where((prediction + truth) % 3 == 0, truth, np.where(truth == 255, 255, prediction))


def test_the_maps_are_those_of_the_record():
    prediction, truth = record_maps()
    assert zlib.crc32(prediction.astype(np.int64).tobytes()) == RECORD["prediction_crc32"]
    assert zlib.crc32(truth.astype(np.int64).tobytes()) == RECORD["truth_crc32"]


@pytest.mark.parametrize(
    "recorded",
    RECORD["results"],
    ids=[f"{r['function']}-{r['num_classes']}-{r['reduce_zero_label']}" for r in RECORD["results"]],
)
def test_scores_equal_mmsegmentation(recorded):
    from segzoo.images.loading import reduce_labels

    prediction, truth = record_maps()
    if recorded["reduce_zero_label"]:
        truth = reduce_labels(truth)
    size = recorded["num_classes"]
    if size == 5:  # there mmsegmentation drops what is predicted beyond its classes; here that is an error
        counted = ConfusionMatrix(6)
        counted.update(prediction, truth)
        with pytest.raises(SegZooError, match="prediction holds ids outside"):
            ConfusionMatrix(5).update(prediction, truth)
    else:
        counted = ConfusionMatrix(size)
        counted.update(prediction, truth)
    result = counted.compute()
    values = dict(recorded["values"])
    assert result["overall_accuracy"] == pytest.approx(values.pop("aAcc"), rel=1e-12)
    for name, expected in values.items():
        np.testing.assert_allclose(result[f"per_category_{NAMES[name]}"][:size], expected, rtol=1e-12)


def test_f_score_with_another_beta():
    result = metrics_from_confusion(np.array([[6, 2], [1, 3]]), beta=2.0)
    precision, recall = 6 / 7, 6 / 8
    assert result["per_category_f_score"][0] == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_nothing_counted_is_nan_without_a_warning(recwarn):
    result = ConfusionMatrix(3).compute()
    assert np.isnan(result["mean_iou"]) and np.isnan(result["overall_accuracy"])
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_ids_out_of_range_are_named(dtype):
    counted = ConfusionMatrix(3)
    good = torch.tensor([[0, 1, 2, 0]], dtype=dtype)
    with pytest.raises(SegZooError, match=r"label map holds ids outside 0\.\.2.*: 4 \(2 pixels\), 9 \(1 pixels\)"):
        counted.update(good, torch.tensor([[4, 4, 9, 255]], dtype=dtype))
    with pytest.raises(SegZooError, match=r"prediction holds ids.*: 7 \(1 pixels\)"):
        counted.update(torch.tensor([[7, 7, 0, 0]], dtype=dtype), torch.tensor([[1, 255, 0, 0]], dtype=dtype))
    assert counted.matrix.sum() == 0
    counted.update(torch.tensor([[0, 200, 2, 0]], dtype=dtype), torch.tensor([[0, 255, 2, 0]], dtype=dtype))
    assert counted.matrix.sum() == 3
    with pytest.raises(SegZooError, match=r"-1 \(1 pixels\)"):
        counted.update(torch.tensor([0]), torch.tensor([-1]))


def test_maps_that_do_not_fit():
    counted = ConfusionMatrix(3)
    with pytest.raises(SegZooError, match=r"\(2, 3\) and \(3, 2\)"):
        counted.update(np.zeros((2, 3), dtype=np.uint8), np.zeros((3, 2), dtype=np.uint8))
    with pytest.raises(SegZooError, match="argmax"):
        counted.update(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(SegZooError, match="1 predictions but 2"):
        counted.update([np.zeros((2, 3), int)], [np.zeros((2, 3), int)] * 2)
    with pytest.raises(SegZooError, match="3 and 4 classes"):
        counted.merge(ConfusionMatrix(4))
    with pytest.raises(SegZooError, match="at least 1"):
        ConfusionMatrix(0)
    counted.update(np.zeros((0, 3), dtype=np.uint8), np.zeros((0, 3), dtype=np.uint8))


def test_merge_and_reset():
    rng = np.random.default_rng(0)
    maps = [(rng.integers(0, 4, (5, 6)), rng.integers(0, 4, (5, 6))) for _ in range(4)]
    whole, left, right = ConfusionMatrix(4), ConfusionMatrix(4), ConfusionMatrix(4)
    for i, (prediction, label) in enumerate(maps):
        whole.update(prediction, label)
        (left if i % 2 else right).update(prediction, label)
    assert torch.equal(left.merge(right).matrix, whole.matrix)
    assert "pixels=120" in repr(whole)
    whole.reset()
    assert whole.matrix.sum() == 0


def test_arrays_of_other_machines_and_widths():
    for dtype in (">u2", ">i4", np.uint64, np.uint32):
        matrix = ConfusionMatrix(300, 65535)
        matrix.update(np.array([299, 7, 7], dtype=dtype), np.array([299, 65535, 7], dtype=dtype))
        assert matrix.matrix.nonzero().tolist() == [[7, 7], [299, 299]]


def test_read_only_and_unusual_arrays():
    label = np.arange(6, dtype=np.uint16).reshape(2, 3)
    label.flags.writeable = False
    counted = ConfusionMatrix(6)
    counted.update(label.astype(np.uint8)[:, ::-1][:, ::-1], label)
    counted.update(torch.arange(6, dtype=torch.int32).view(2, 3), label)
    counted.update(np.arange(6, dtype=np.int64).reshape(1, 6)[::-1], label.reshape(1, 6))
    assert counted.matrix.diagonal().tolist() == [3] * 6


@pytest.mark.parametrize("ignored", [-100, 65535, None])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64])
def test_an_ignored_id_that_does_not_fit_into_the_labels_type_is_not_taken_for_another(ignored, dtype):
    """In 8 bits, -100 equals 156 and 65535 equals 255."""
    label = torch.tensor([156, 255, 3], dtype=torch.int64).to(dtype)
    prediction = torch.tensor([299, 255, 3], dtype=torch.int16)
    matrix = ConfusionMatrix(300, ignored)
    matrix.update(prediction, label)
    assert matrix.matrix.nonzero().tolist() == [[3, 3], [156, 299], [255, 255]]


def test_table():
    result = metrics_from_confusion(np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    text = format_table(result, {0: "sky", 1: "road", 2: "car"})
    lines = text.splitlines()
    assert lines[2].split() == ["sky", "66.67", "75.00", "80.00", "80.00", "85.71", "75.00"]
    assert lines[4].split() == ["car", "-", "-", "-", "-", "-", "-"]
    assert lines[-1] == "pixel accuracy 75.00, overall score 66.67"
    assert format_table(result).splitlines()[2].startswith("0 ")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_both_ways_of_counting_bytes_agree(dtype):
    maps = torch.randint(0, 256, (2, 50, 60)).to(dtype)
    by_torch = _byte_pairs_torch(*maps)
    assert by_torch.dtype == torch.int64 and by_torch.sum() == 3000
    assert torch.equal(by_torch, torch.from_numpy(_byte_pairs_numpy(*maps)))


@pytest.mark.gpu
def test_counting_on_the_gpu():
    maps = torch.randint(0, 150, (2, 50, 60))
    for kind in (torch.uint8, torch.int64):
        on_gpu, on_cpu = ConfusionMatrix(150, device="cuda"), ConfusionMatrix(150)
        on_gpu.update(*maps.to(kind).cuda())
        on_cpu.update(*maps.to(kind))
        assert on_gpu.matrix.is_cuda and torch.equal(on_gpu.matrix.cpu(), on_cpu.matrix)
        with pytest.raises(SegZooError, match="ids outside"):
            on_gpu.update(*(maps.to(kind) + 100))


SUM = """
import torch
from accelerate import Accelerator
from segzoo.metrics import ConfusionMatrix

def main(argv):
    accelerator = Accelerator(cpu=True)
    counted = ConfusionMatrix(4)
    for index in range(accelerator.process_index, 7, accelerator.num_processes):  # 4 and 3 images
        counted.update(torch.full((2, 2), index % 4), torch.full((2, 2), index % 3))
    total = counted.reduce_across_processes(accelerator)
    expected = ConfusionMatrix(4)
    for index in range(7):
        expected.update(torch.full((2, 2), index % 4), torch.full((2, 2), index % 3))
    assert accelerator.num_processes == 2
    assert torch.equal(total.matrix, expected.matrix), total.matrix
    assert counted.matrix.sum() in (12, 16)
    print("summed", flush=True)
    accelerator.end_training()  # without it gloo's threads may abort the exit
    return 0
"""


def test_processes_are_summed(tmp_path):
    (tmp_path / "count.py").write_text(SUM)
    run = ScriptRun([], tmp_path / "logs", processes=2, script=tmp_path / "count.py")
    assert run.wait() == [0, 0], run.stderr
    assert run.stdout.count("summed") == 2


@pytest.mark.parametrize("ignore_index", [None, -1, 65535, 511, 255])
def test_bytes_among_more_classes_than_bytes_can_tell(ignore_index):
    """A byte is compared with 300, 65535 or -1 as a number, not by its last eight bits."""
    prediction, label = np.array([[7, 60, 255, 255]], np.uint8), np.array([[7, 60, 255, 3]], np.uint8)
    confusion = ConfusionMatrix(300, ignore_index)
    for kind in (np.uint8, np.int16):  # as evaluations of 300 classes have them
        confusion.update(prediction.astype(kind), label)
    counts = {(int(i), int(j)): int(confusion.matrix[i, j]) for i, j in confusion.matrix.nonzero()}
    expected = {(7, 7): 2, (60, 60): 2, (255, 255): 2, (3, 255): 2}
    assert counts == {pair: count for pair, count in expected.items() if pair[0] != ignore_index}
    with pytest.raises(SegZooError, match=r"The prediction holds ids outside 0..299 .*: 300 \(1 pixels\)"):
        confusion.update(np.array([300], np.int16), np.array([5], np.uint8))

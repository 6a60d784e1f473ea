import warnings

import evaluate
import numpy as np
import PIL.Image
import pytest

from segzoo.metrics import mean_iou_path


def stock_scores(
    predictions, references, num_labels, ignore_index, nan_to_num=None, label_map=None, reduce_labels=False
):
    """The stock metric as its documentation states it, by sets of pixels."""
    both, predicted_area, true_area = (np.zeros(num_labels) for _ in range(3))
    for prediction, reference in zip(predictions, references, strict=True):
        prediction, reference = np.asarray(prediction).astype(int), np.asarray(reference).astype(int)
        if label_map is not None:
            reference = np.vectorize(lambda i: label_map.get(i, i))(reference)
        if reduce_labels:
            reference = np.where((reference == 0) | (reference == 255), 255, reference - 1)
        kept = reference != ignore_index
        for i in range(num_labels):
            both[i] += np.sum((prediction[kept] == i) & (reference[kept] == i))
            predicted_area[i] += np.sum(prediction[kept] == i)
            true_area[i] += np.sum(reference[kept] == i)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        iou, accuracy = both / (predicted_area + true_area - both), both / true_area
        scores = {
            "mean_iou": np.nanmean(iou),
            "mean_accuracy": np.nanmean(accuracy),
            "overall_accuracy": both.sum() / true_area.sum(),
            "per_category_iou": iou,
            "per_category_accuracy": accuracy,
        }
    return scores if nan_to_num is None else {k: np.nan_to_num(v, nan=nan_to_num) for k, v in scores.items()}


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(mean_iou_path())


@pytest.fixture
def maps():
    rng = np.random.default_rng(1)
    references = [rng.integers(0, 8, shape).astype(np.uint8) for shape in ((5, 7), (12, 3), (6, 6))]
    predictions = [
        np.where(rng.random(r.shape) < 0.6, r, rng.integers(0, 8, r.shape)).astype(np.uint8) for r in references
    ]
    for reference in references:
        reference[rng.random(reference.shape) < 0.2] = 255
    return predictions, references


def same(result, expected):
    assert list(result) == list(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(result[key], value, rtol=1e-12, err_msg=key)
        assert np.shape(result[key]) == np.shape(value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_labels": 8, "ignore_index": 255},
        {"num_labels": 10, "ignore_index": 255},
        {"num_labels": 10, "ignore_index": 255, "nan_to_num": -1},
        {"num_labels": 8, "ignore_index": 255, "reduce_labels": True},
        {"num_labels": 8, "ignore_index": 255, "label_map": {0: 1, 1: 2, 7: 255}},
        {"num_labels": 256, "ignore_index": 0},
        {"num_labels": 8, "ignore_index": 255, "label_map": {3: 4}, "reduce_labels": True, "nan_to_num": 0},
    ],
)
def test_results_are_those_of_the_stock_metric(metric, maps, kwargs):
    expected = stock_scores(*maps, **kwargs)
    same(metric.compute(predictions=maps[0], references=maps[1], **kwargs), expected)
    metric.add_batch(predictions=maps[0][:2], references=maps[1][:2])
    metric.add(prediction=maps[0][2], reference=maps[1][2])
    same(metric.compute(**kwargs), expected)
    wide = [[m.astype(np.int64) for m in part] for part in maps]
    same(metric.compute(predictions=wide[0], references=wide[1], **kwargs), expected)


def test_maps_may_be_stacked_or_nested_or_pictures(metric, maps):
    prediction, reference = maps[0][0], maps[1][0]
    expected = stock_scores([prediction] * 2, [reference] * 2, 8, 255)
    for kind in (np.stack, lambda m: [x.tolist() for x in m], lambda m: [PIL.Image.fromarray(x) for x in m]):
        given = {"predictions": kind([prediction] * 2), "references": kind([reference] * 2)}
        same(metric.compute(**given, num_labels=8, ignore_index=255), expected)


def test_ids_above_255_and_below_0(metric):
    reference = np.array([[300, 2, -100, 299]])
    prediction = np.array([[300, 1, 7, 300]])
    result = metric.compute(predictions=[prediction], references=[reference], num_labels=301, ignore_index=-100)
    same(result, stock_scores([prediction], [reference], 301, -100))


def test_ids_that_are_no_classes_are_named(metric, maps):
    with pytest.raises(ValueError, match=r"references hold ids outside 0\.\.4.*5 \("):
        metric.compute(predictions=maps[0], references=maps[1], num_labels=5, ignore_index=255)
    with pytest.raises(ValueError, match=r"predictions hold ids.*9 \(1 pixels\)"):
        metric.compute(
            predictions=[np.array([[9, 9]])], references=[np.array([[1, 255]])], num_labels=5, ignore_index=255
        )
    with pytest.raises(ValueError, match="shape"):
        metric.compute(
            predictions=[np.zeros((2, 3), int)], references=[np.zeros((3, 2), int)], num_labels=5, ignore_index=255
        )
    with pytest.raises(ValueError, match="1 predictions but 2"):
        metric.add_batch(predictions=[np.zeros((2, 3), int)], references=[np.zeros((2, 3), int)] * 2)
    with pytest.raises(ValueError, match="No maps yet"):
        metric.compute(num_labels=5, ignore_index=255)
    with pytest.raises(ValueError, match="No maps yet"):
        metric.compute(predictions=[], references=[], num_labels=5, ignore_index=255)
    metric.add_batch(predictions=[], references=[])
    with pytest.raises(ValueError, match="No maps yet"):
        metric.compute(num_labels=5, ignore_index=255)


def test_every_compute_starts_afresh(metric, maps):
    first = metric.compute(predictions=maps[0], references=maps[1], num_labels=8, ignore_index=255)
    second = metric.compute(predictions=maps[0], references=maps[1], num_labels=8, ignore_index=255)
    same(second, first)


def test_the_way_through_arrow_gives_the_same(metric, maps):
    """What evaluate calls when several processes share a metric."""
    kwargs = {"num_labels": 8, "ignore_index": 255}
    same(metric._compute(maps[0], maps[1], **kwargs), stock_scores(*maps, **kwargs))

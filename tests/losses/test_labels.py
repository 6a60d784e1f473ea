import pytest
import torch

from segzoo.errors import SegZooError
from segzoo.losses.labels import check_labels


def maps(*ids):
    labels = torch.arange(24).reshape(2, 3, 4) % 5
    labels.view(-1)[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return labels


@pytest.mark.parametrize("ignore_index", [255, -100, 0, 3])
def test_classes_and_ignored_pixels_pass(ignore_index):
    check_labels(maps(ignore_index, ignore_index), 5, ignore_index)
    check_labels(torch.full((2, 3, 4), ignore_index), 5, ignore_index)
    check_labels(torch.empty(0, 3, 4, dtype=torch.int64), 5, ignore_index)


@pytest.mark.parametrize(
    ("ids", "listed"),
    [
        ((7, 255, 7, 5), r"5 \(1 pixels\), 7 \(2 pixels\);"),
        ((-1, 255), r"-1 \(1 pixels\);"),
        ((-1, -1, 254), r"-1 \(2 pixels\), 254 \(1 pixels\);"),
        (tuple(range(20, 30)), r"20 \(1 pixels\), .*27 \(1 pixels\), \.\.\.;"),
    ],
)
def test_other_ids_are_listed_with_their_pixels(ids, listed):
    with pytest.raises(SegZooError, match=rf"outside 0\.\.4 \(ignored: 255\): {listed}.*do_reduce_labels"):
        check_labels(maps(*ids), 5, 255)


def test_compiled_graphs_have_no_check():
    def half(labels):
        check_labels(labels, 5, 255)
        return labels * 0.5

    labels = maps(7)
    assert torch.equal(torch.compile(half, backend="eager", fullgraph=True)(labels), labels * 0.5)


def test_shapes_alone_have_no_values_to_check():
    check_labels(torch.empty(2, 3, dtype=torch.int64, device="meta"), 5, 255)
    with torch._subclasses.FakeTensorMode():
        check_labels(torch.empty(2, 3, dtype=torch.int64), 5, 255)


@pytest.mark.gpu
def test_on_a_gpu_when_asked(monkeypatch):
    labels = maps(7).cuda()
    check_labels(labels, 5, 255)
    monkeypatch.setenv("SEGZOO_CHECK_LABELS", "1")
    with pytest.raises(SegZooError, match=r"7 \(1 pixels\)"):
        check_labels(labels, 5, 255)

import numpy as np
import pytest

from segzoo.data import CorruptImageError, load_segmentation_dataset
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.decoding import decode_mask
from segzoo.data.row_counts import RowCounts, count_rows

STEMS = [f"p{number}" for number in range(5)]


def test_the_classes_of_every_mask_are_counted_however_the_work_is_divided(make_folder, tmp_path):
    folder = make_folder({"training": STEMS}, classes=4)
    rows = load_segmentation_dataset(folder)["train"]
    rule = LabelRule(2, ignore_index=2, reduce_labels=True)  # 0 and 2 do not count, 1 and 3 are the classes 0 and 2
    counts = count_rows(rows, rule)
    masks = [decode_mask(folder / "annotations" / "training" / f"{stem}.png") for stem in STEMS]
    assert counts.pixels.tolist() == [[(mask == 1).sum(), 0] for mask in masks]  # class 2 is none of two
    assert counts.ignored.tolist() == [((mask == 0) | (mask == 2)).sum() for mask in masks]
    parts = [count_rows(rows, rule, process_index=index, num_processes=3) for index in range(3)]
    joined = RowCounts.joined(parts)
    assert (joined.pixels == counts.pixels).all() and (joined.ignored == counts.ignored).all()

    summed = counts.summed()
    assert summed.pixels.tolist() == [sum((mask == 1).sum() for mask in masks), 0]
    assert summed.images.tolist() == [5, 0] and summed.num_images == 5

    counts.save(tmp_path / "counts.npz", "these data")
    assert (RowCounts.load(tmp_path / "counts.npz", "these data").pixels == counts.pixels).all()
    assert RowCounts.load(tmp_path / "counts.npz", "others") is None
    whole = (tmp_path / "counts.npz").read_bytes()
    middle = whole.index(b"pixels.npy") + 60
    for broken in (b"broken", whole[: len(whole) // 2], whole[:middle] + b"\0\0\0" + whole[middle + 3 :]):
        (tmp_path / "counts.npz").write_bytes(broken)
        assert RowCounts.load(tmp_path / "counts.npz", "these data") is None


def test_pixels_beside_a_class_are_those_of_its_pictures():
    counts = RowCounts(np.array([[3, 1], [5, 0]], np.uint32), np.array([0, 2])).summed()
    assert counts.pixels_beside.tolist() == [9, 4] and counts.ignored_images == 1


def test_a_broken_mask_is_an_error_or_counts_as_empty(make_folder):
    folder = make_folder({"training": STEMS})
    (folder / "annotations" / "training" / "p1.png").write_bytes(b"no picture")
    rows = load_segmentation_dataset(folder)["train"]
    with pytest.raises(CorruptImageError, match=r"p1\.png"):
        count_rows(rows, LabelRule(5))
    counts = count_rows(rows, LabelRule(5), skip_corrupt=True)
    assert counts.pixels[1].sum() == 0 and (counts.pixels[[0, 2, 3, 4]].sum(axis=1) == 24 * 32).all()

import datasets
import pytest

from segzoo.data.loading import load_segmentation_dataset
from segzoo.data.rows import row_names, undecoded


@pytest.fixture
def table(make_folder):
    return load_segmentation_dataset(make_folder({"train": [f"n{i}" for i in range(6)]}))["train"]


def test_undecoded_rows_and_their_names(table):
    row = undecoded(table)[1]
    assert row["image"]["bytes"] is None and row["image"]["path"] == row["image_path"]
    assert row_names(row, 1) == (row["image_path"], row["label_path"])
    assert row_names({"image": {"path": "zip://in/a.jpg::/x/b.zip", "bytes": None}}, 3) == (
        "/x/b.zip/in/a.jpg",
        "mask of row 3",
    )
    inside = {"image": {"path": "a.jpg", "bytes": b"1"}, "label": {"path": None, "bytes": b"2"}}
    assert row_names(inside, 7) == ("a.jpg (row 7)", "mask of row 7")
    assert undecoded([1, 2]) == [1, 2]
    more = (
        table.add_column("note", ["x"] * 6)
        .add_column("depth", table["image_path"])
        .cast_column("depth", datasets.Image())
    )
    for rows in (more, more.to_iterable_dataset()):
        assert undecoded(rows).column_names == table.column_names

"""Masks in colours are trained on and checked as they are, with a file that names the colours."""

import json

import numpy as np
import PIL.Image
import pytest

from segzoo.commands.cli import main
from segzoo.data import DataSource, find_classes
from segzoo.data.decoding import decode_example
from segzoo.data.loading import load_source
from segzoo.errors import SegZooError

COLORS = {"roof": (61, 245, 61), "road": (250, 50, 83), "tree": (0, 90, 0)}


@pytest.fixture
def painted(make_folder):
    """Two pairs whose masks are painted; what has no colour of the palette is black."""
    folder = make_folder({"train": ["a", "b"]}, classes=4)
    for file in (folder / "annotations" / "train").iterdir():
        ids = np.asarray(PIL.Image.open(file))
        PIL.Image.fromarray(np.array([*COLORS.values(), (0, 0, 0)], dtype=np.uint8)[ids]).save(file)
        np.save(folder / f"{file.stem}.npy", ids)
    palette = folder / "colours.csv"
    palette.write_text("".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in COLORS.items()))
    return folder, palette


def test_ids_are_those_of_the_palette(painted):
    folder, palette = painted
    for row in load_source(DataSource(folder, palette=palette))["train"]:
        ids = np.load(folder / f"{row['label_path'][-5]}.npy")
        mask = decode_example({**row, "image": row["image_path"], "label": row["label_path"]})[1]
        np.testing.assert_array_equal(mask, np.where(ids == 3, 255, ids))


def test_names_and_colours_come_from_the_palette_too(painted):
    folder, palette = painted
    other = folder / "colours.json"
    other.write_text(json.dumps({name: "#" + bytes(color).hex() for name, color in COLORS.items()}))
    assert find_classes(folder, classes=str(other)).palette == find_classes(folder, classes=str(palette)).palette
    classes = find_classes(folder, classes=str(palette))
    assert classes.names == list(COLORS) and classes.palette == [list(color) for color in COLORS.values()]


def test_check_with_and_without_a_palette(painted, capsys):
    folder, palette = painted
    command = ["data", "check", str(folder), "--num_workers", "0"]
    assert main([*command, "--num_labels", "3"]) == 1
    assert "segzoo data masks DATA TARGET --palette FILE" in capsys.readouterr().out
    assert main([*command, "--palette", str(palette)]) == 0
    out = capsys.readouterr().out
    assert "all 2 pairs checked: nothing is wrong" in out and " roof " in out
    mask = folder / "annotations" / "train" / "b.png"
    array = np.asarray(PIL.Image.open(mask)).copy()
    array[:2, 3] = 7, 8, 9
    PIL.Image.fromarray(array).save(mask)
    assert main([*command, "--palette", str(palette)]) == 1
    out = capsys.readouterr().out
    assert "annotations/train/b.png" in out and "(7, 8, 9) x 2" in out


def test_a_palette_that_is_gone_and_a_stream(painted):
    folder, palette = painted
    rows = load_source(DataSource(folder, palette=palette, streaming=True))["train"]
    assert next(iter(rows))["label_encoding"] == f"palette:{palette}"
    with pytest.raises(SegZooError, match="gone.csv: cannot be read"):
        load_source(DataSource(folder, palette=folder / "gone.csv"))

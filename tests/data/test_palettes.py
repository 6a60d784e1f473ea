"""Files of colours in the forms that tools write."""

import pytest

from segzoo.data.palettes import read_palette
from segzoo.errors import SegZooError

ROAD, ROOF = (128, 64, 128), (70, 0, 9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"road": [128, 64, 128], "roof": "#460009"}'),
        ("a.json", '[{"name": "road", "color": "804080"}, {"name": "roof", "r": 70, "g": 0, "b": 9}]'),
        ("a.json", '{"classes": [{"title": "road", "color": "#804080"}, {"title": "roof", "color": [70, 0, 9]}]}'),
        ("a.csv", "name,r,g,b\nroad,128,64,128\nroof,70,0,9\n"),
        ("a.csv", "\ufeffroad; 128; 64; 128\nroof; 70; 0; 9\n"),
        ("a.csv", "\n \nname,r,g,b\nroad,128,64,128\n\nroof,70,0,9\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nroof:70,0,9:hand:run\n"),
        ("label_colors.txt", "128 64 128\t\troad\n70 0 9\t\troof\n"),
        ("a.txt", "road 128 64 128\n\nroof 70 0 9\n"),
    ],
)
def test_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    palette = read_palette(tmp_path / name)
    assert palette.names == ("road", "roof") and palette.colors == {ROAD: 0, ROOF: 1}


def test_several_colours_of_one_class(tmp_path):
    (tmp_path / "a.json").write_text('{"road": [[128, 64, 128], [1, 2, 3]], "roof": [70, 0, 9]}')
    assert read_palette(tmp_path / "a.json").colors == {ROAD: 0, (1, 2, 3): 0, ROOF: 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "is no palette"),
        ("a.json", '{"road": [1, 2]}', "no colour of three numbers"),
        ("a.csv", "road,1,2,300\n", "no colour of three numbers"),
        ("a.csv", "road 0 255 0\nroof 255 0 0\n", "is no palette .*; give"),
        ("a.txt", "1 2 3\n", "has no name"),
        ("a.txt", "", "holds no colour"),
        ("a.csv", "road,1,2,3\nroof,1,2,3\n", "'road' and 'roof' have the same colour"),
        ("gone.csv", None, "cannot be read"),
    ],
)
def test_faults(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SegZooError, match=words):
        read_palette(tmp_path / name)

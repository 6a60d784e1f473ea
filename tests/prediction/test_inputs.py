"""Which pictures are meant, and what their results are called."""

import codecs

import pytest

from segzoo import SegZooError
from segzoo.prediction.inputs import named_pictures


@pytest.fixture
def photos(tmp_path):
    for name in ("photos/a.jpg", "photos/x/a.jpg", "photos/x/y/b.PNG", "photos/.trash/c.jpg", "photos/out/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path / "photos"


def stems(*arguments, **options):
    return [picture.stem for picture in named_pictures([str(a) for a in arguments], **options)]


def test_folders_and_patterns_keep_their_structure(photos, monkeypatch):
    assert stems(photos, leave_out=photos / "out") == ["a", "x/a", "x/y/b"]
    assert stems(photos / "x" / "a.jpg") == ["a"], "a file that is named itself"
    assert stems(photos / "*" / "a.jpg") == ["x/a"]
    assert stems(photos / "**" / "*.[jP]*", leave_out=photos / "out") == ["a", "x/a", "x/y/b"]
    monkeypatch.chdir(photos.parent)
    assert stems("photos/x*/*.jpg") == ["x/a"]
    assert len(stems("photos/a.jpg", photos / "a.jpg")) == 1, "one picture, named twice"
    with pytest.raises(SegZooError, match="no picture has a name of this pattern"):
        stems(photos / "*.webp")


def test_lists(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    listed = photos.parent / "list.txt"
    listed.write_text("photos/x/a.jpg\n\nphotos/a.jpg\nhttps://example.org/z.png\n")
    assert stems(lists=[str(listed)]) == ["x/a", "a", "z"]
    listed.write_bytes(codecs.BOM_UTF8 + listed.read_bytes())  # as editors on Windows save it
    assert stems(lists=[str(listed)]) == ["x/a", "a", "z"]
    listed.write_text("\n")
    with pytest.raises(SegZooError, match="names no pictures"):
        stems(lists=[str(listed)])
    with pytest.raises(SegZooError, match="--list none.txt: cannot be read"):
        stems(lists=["none.txt"])


def test_results_stay_below_the_folder_that_the_pictures_have_in_common(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    listed = photos.parent / "list.txt"
    listed.write_text(f"photos/x/a.jpg\nphotos/x/../out/d.jpg\n{photos}/x/../../photos/a.jpg\n")
    assert stems(lists=[str(listed)]) == ["x/a", "out/d", "a"]
    assert stems("photos/x/*/../../out/*.jpg") == ["out/d"]
    assert stems("photos/x/*/../../*.jpg") == ["a"]
    assert stems(photos / "x" / "..", leave_out=photos / "out") == ["a", "x/a", "x/y/b"]

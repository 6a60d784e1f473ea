"""Vessels of the retina: CHASE_DB1, DRIVE, HRF, STARE, as the first observer drew them.

Which pictures are for training is mmsegmentation's choice; the releases divide only DRIVE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from segzoo.data.preparation.content import Content, vessels
from segzoo.data.preparation.release import Files, Item, Release, pair


def _divided(pictures: Mapping[str, str], masks: Mapping[str, str], train: set[str]) -> Iterator[Item]:
    """Training pictures and, for validation, all others."""
    drawn = {name: Content(file, vessels) for name, file in masks.items()}
    for part, names in (
        ("train", [name for name in pictures if name in train]),
        ("validation", [name for name in pictures if name not in train]),
    ):
        yield from pair(part, pictures, drawn, names)


def _chase_db1(files: Files) -> Iterator[Item]:
    pictures = files.by_name(r"(?P<name>Image_\d+[LR])\.jpg", what="pictures")
    masks = files.by_name(r"(?P<name>Image_\d+[LR])_1stHO\.png", what="masks of the first observer")
    yield from _divided(pictures, masks, set(sorted(pictures)[:20]))


def _drive(files: Files) -> Iterator[Item]:
    drawn = {
        name: Content(file, vessels)
        for name, file in files.by_name(
            r"1st_manual/(?P<name>\d+)_manual1\.gif", what="masks of the first observer"
        ).items()
    }
    yield from pair("train", files.by_name(r"images/(?P<name>\d+)_training\.tif", what="training pictures"), drawn)
    tested = {found["name"]: address for found, address in files.matching(r"images/(?P<name>\d+)_test\.tif")}
    if any(name in drawn for name in tested):
        yield from pair("validation", tested, drawn)
    else:  # as in today's archive, which keeps these masks back
        yield from (Item("test", name, picture) for name, picture in tested.items())


def _hrf(files: Files) -> Iterator[Item]:
    pictures = files.by_name(r"(?P<name>\d+_(h|g|dr))\.jpg", what="pictures")
    masks = files.by_name(r"(?P<name>\d+_(h|g|dr))\.tif", what="masks")
    groups = ([name for name in sorted(pictures) if name.endswith(f"_{kind}")] for kind in ("h", "g", "dr"))
    yield from _divided(pictures, masks, {name for group in groups for name in group[:5]})


def _stare(files: Files) -> Iterator[Item]:
    pictures = files.by_name(r"(?P<name>im\d+)\.ppm(\.gz)?", what="pictures")
    masks = files.by_name(r"(?P<name>im\d+)\.ah\.ppm(\.gz)?", what="masks of the first observer")
    drawn = {name: file for name, file in pictures.items() if name in masks}
    # The release has 397 pictures of which 20 are drawn; the archive of those 20 may lie here alone.
    yield from _divided(drawn, masks, set(sorted(drawn)[:10]))


RELEASES = (
    Release("chase_db1", _chase_db1),
    Release("drive", _drive),
    Release("hrf", _hrf),
    Release("stare", _stare),
)

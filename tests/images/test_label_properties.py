"""Label maps and the ways in which they are stored: what is written comes back, whatever the ids."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from segzoo.data import colors_to_ids
from segzoo.data.label_encodings import LABEL_ENCODINGS
from segzoo.errors import SegZooError
from segzoo.images.drawing import colour_map, default_palette, label_image
from segzoo.images.loading import mask_to_tensor, reduce_labels
from segzoo.images.masks import class_ids
from segzoo.images.reading import open_picture

FEW = settings(max_examples=40, deadline=None)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=7)


@st.composite
def label_maps(draw, most=65535):
    """A map (height, width) of int64 ids from 0 to ``most``, or to a smaller one."""
    highest = draw(st.sampled_from([most, *(side for side in (1, 254, 255, 256, 65534) if side < most)]))
    return draw(arrays(np.int64, draw(SHAPES), elements=st.integers(0, highest)))


@FEW
@given(ids=label_maps(), classes=st.sampled_from([2, 256, 257]), form=st.sampled_from(["PNG", "TIFF"]))
def test_a_stored_label_map_comes_back(ids, classes, form):
    file = io.BytesIO()
    image = label_image(ids, default_palette(classes))
    image.save(file, form)
    read = open_picture(file.getvalue(), name="mask", what="mask")
    assert np.array_equal(class_ids(read), ids)
    assert np.array_equal(mask_to_tensor(read), ids)
    assert (image.mode == "P") == (ids.max() <= 255 and classes <= 256)


@FEW
@given(arrays(np.int64, SHAPES, elements=st.sampled_from([-1, -(2**40), 65536, 2**40])))
def test_ids_that_a_picture_cannot_hold_are_refused(ids):
    with pytest.raises(SegZooError, match="ids from 0 to 65535"):
        label_image(ids, default_palette(3))


@FEW
@given(label_maps(most=199))
def test_colours_come_back_as_ids(ids):
    palette = default_palette(200)
    assert len({tuple(colour) for colour in palette}) == 200
    assert np.array_equal(
        colors_to_ids(
            colour_map(ids, palette), palette, ignore_index=palette.index([0, 0, 0]) if [0, 0, 0] in palette else 255
        ),
        ids,
    )


@FEW
@given(
    ids=label_maps(),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
    ignore=st.sampled_from([0, 254, 255, 65535, -1, -100]),
)
def test_the_label_rule(ids, dtype, ignore):
    """0 and the ignored id become the ignored id, k becomes k - 1; arrays and tensors agree, and dtypes lose nothing."""
    ids = np.minimum(ids, np.iinfo(dtype).max)
    expected = np.where((ids == 0) | (ids == ignore), ignore, ids - 1)
    reduced = reduce_labels(ids.astype(dtype), ignore)
    assert reduced.shape == ids.shape and np.array_equal(reduced, expected)
    if dtype != np.uint16:
        assert np.array_equal(reduce_labels(torch.from_numpy(ids.astype(dtype)), ignore).numpy(), expected)
    back = np.where(reduced.astype(np.int64) == ignore, 0, reduced.astype(np.int64) + 1)
    counted = (ids != 0) & (ids != ignore) & (expected != ignore)
    assert np.array_equal(back[counted], ids[counted]) and not back[ids == 0].any()


@pytest.mark.parametrize("name", [name for name, encoding in LABEL_ENCODINGS.items() if encoding.ids])
def test_stored_ids_of_every_encoding(name):
    encoding = LABEL_ENCODINGS[name]

    @FEW
    @given(label_maps(most=255))
    def check(stored):
        decoded = [encoding.decode_ids(stored.astype(dtype)) for dtype in (np.uint8, np.int32)]
        other = stored if encoding.other is None else np.full_like(stored, encoding.other)
        wanted = [
            [encoding.ids.get(int(i), int(o)) for i, o in zip(*rows, strict=True)]
            for rows in zip(stored, other, strict=True)
        ]
        assert all(np.array_equal(array, wanted) for array in decoded)

    check()


@FEW
@given(arrays(np.float32, SHAPES, elements=st.floats(-10, 70000, width=32)))
def test_floats_are_ids_where_they_are_whole(values):
    mask = Image.fromarray(values)
    file = io.BytesIO()
    mask.save(file, "TIFF")
    read = open_picture(file.getvalue(), name="mask", what="mask")
    if np.array_equal(values, np.rint(values)):
        assert np.array_equal(class_ids(read), values.astype(np.int64))
    else:
        with pytest.raises(SegZooError, match="class ids are whole numbers"):
            class_ids(read)

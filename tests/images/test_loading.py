"""Tensors of pictures: types, scales and channels of arrays; label rules."""

import warnings

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from segzoo.errors import SegZooError
from segzoo.images.loading import image_to_tensor, list_of_images, reduce_labels


@pytest.mark.parametrize("ignore_index", [255, -100, 0, 7])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, tv_tensors.Mask])
def test_reduce_labels(ignore_index, kind):
    ids = np.array([0, 1, 2, 200, 255], dtype=np.uint8)
    expected = [ignore_index if i in (0, ignore_index) else i - 1 for i in ids.tolist()]
    reduced = reduce_labels(kind(ids), ignore_index)
    assert np.asarray(reduced).tolist() == expected
    assert type(reduced) is type(kind(ids))


def test_integers_of_every_type_become_the_same_levels():
    levels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    forms = [levels.astype(dtype) for dtype in (np.int16, np.int32, np.uint32, np.int64)]
    forms += [levels.astype(np.uint16) << 8, levels.astype(">u2") << 8]
    for form in (*forms, *(torch.from_numpy(form) for form in forms[:-1])):
        tensor = image_to_tensor(form, input_data_format="channels_last")
        assert tensor.dtype == torch.uint8 and np.array_equal(tensor.permute(1, 2, 0).numpy(), levels)
    with pytest.raises(SegZooError, match="image 4: int32 values from 0 to 256"):
        image_to_tensor(np.array([[0, 256]], np.int32), 4)


def test_floats_stay_and_those_of_0_to_1_are_not_rescaled_unseen():
    unit = torch.rand(3, 4, 5)
    with pytest.warns(UserWarning, match="do_rescale.*nearly black.*do_rescale=False"):
        assert torch.equal(image_to_tensor(unit, rescale_factor=1 / 255), unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(image_to_tensor(unit), unit)
        assert torch.equal(image_to_tensor(unit * 255, rescale_factor=1 / 255), unit * 255)
        image_to_tensor(torch.zeros(3, 4, 5), rescale_factor=1 / 255)  # black is black
        image_to_tensor(torch.ones(3, 4, 5, dtype=torch.uint8), rescale_factor=1 / 255)
    assert image_to_tensor(unit.half()).dtype == torch.float16
    for value in (float("nan"), float("inf")):
        unit[1, 2, 3] = value
        with pytest.raises(SegZooError, match="image 0 holds NaN or infinite"):
            image_to_tensor(unit)


def test_a_factor_for_larger_values_is_refused():
    """Values of 16 bits become 0..255, so a model of reflectances times 10000 would see black."""
    wide = np.full((4, 5, 3), 9000, np.uint16)
    with pytest.raises(SegZooError, match="image 0: .*rescale_factor 0.0001.*float32"):
        image_to_tensor(wide, rescale_factor=1e-4)
    kept = image_to_tensor(wide.astype(np.float32), rescale_factor=1e-4)
    assert (kept == 9000).all()


def test_colours_become_grey_for_one_channel():
    import PIL.Image

    rgb = np.random.default_rng(0).integers(0, 256, (64, 65, 3), dtype=np.uint8)
    expected = np.asarray(PIL.Image.fromarray(rgb).convert("L"))
    for form in (rgb, torch.from_numpy(rgb).permute(2, 0, 1), PIL.Image.fromarray(rgb)):
        assert np.array_equal(image_to_tensor(form, num_channels=1)[0].numpy(), expected)
    with pytest.raises(SegZooError, match="image 0 has 3 channels.*expect 1"):
        image_to_tensor(rgb.astype(np.float32), num_channels=1)


def test_base64_text():
    import base64
    import io

    import PIL.Image

    rgb = np.random.default_rng(0).integers(0, 256, (20, 21, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(rgb).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    assert len(text) > 1000
    for source in (text, f"data:image/png;base64,{text}"):
        (picture,) = list_of_images(source)
        assert np.array_equal(image_to_tensor(picture).permute(1, 2, 0).numpy(), rgb)
    with pytest.raises(SegZooError, match="cannot read the image"):
        list_of_images("no picture " * 100)

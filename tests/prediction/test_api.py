"""`segzoo.predict`: one picture, several, from everywhere."""

import io
import threading

import numpy as np
import pytest
import torch

import segzoo
from segzoo import SegZooError
from segzoo.inference import InferenceSettings, Predictor
from segzoo.prediction.labeller import Prediction, load_labeller


def test_sources_and_results(tiny_model, make_picture, tmp_path):
    model, processor = segzoo.load(tiny_model)
    image = make_picture()
    image.save(tmp_path / "a.png")
    array = np.array(image)
    predictor = Predictor(model, processor)
    expected = predictor.label_map(array, (60, 90)).numpy()
    one = segzoo.predict(tiny_model, tmp_path / "a.png", device="cpu")
    assert np.array_equal(one.label_map, expected) and one.label_map.dtype == np.uint8
    several = segzoo.predict(
        (model, processor), [str(tmp_path / "a.png"), image, array, make_picture(1, 80)], batch_size=2
    )
    assert [found.label_map.shape for found in several] == [(60, 90)] * 3 + [(60, 80)]
    for found in several[:3]:
        assert (found.label_map == expected).mean() > 0.999

    probabilities = predictor.probabilities(array, (60, 90)).numpy()
    assert np.allclose(several[2].probabilities, probabilities, atol=1e-6)
    assert np.allclose(several[2].confidence, probabilities.max(0), atol=1e-6)
    assert {area["name"]: area["pixels"] for area in one.areas} == {
        model.config.id2label[i]: int((expected == i).sum()) for i in np.unique(expected)
    }
    assert one.overlay.mode == "RGB" and one.overlay.width > 90
    assert segzoo.predict((model, processor), []) == []
    for wrong, words in ((tmp_path / "no.png", "no.png"), (b"text", "picture 0")):
        with pytest.raises(SegZooError, match=words):
            segzoo.predict((model, processor), wrong)
    for wrong in (array[None], np.stack([array] * 4), array[0, 0], array[:0]):
        with pytest.raises(SegZooError, match=r"picture 1: .*shape \(.*\) is no picture.* as a list"):
            segzoo.predict((model, processor), [array, wrong])
    with pytest.raises(SegZooError, match="picture 0: the image is of type Tensor; give"):
        segzoo.predict((model, processor), torch.zeros(3, 60, 90))
    with pytest.raises(SegZooError, match="batch_size is 0"):
        segzoo.predict((model, processor), image, batch_size=0)


def test_probabilities_that_do_not_fit(tiny_model):
    """They are refused before anything is computed: the picture here is one byte that is shown everywhere."""
    labeller = load_labeller(tiny_model, (60, 90), device="cpu")
    image = np.broadcast_to(np.uint8(0), (1_000_000, 2_000_000, 3))
    huge = Prediction(image, image[..., 0], labeller)
    with pytest.raises(SegZooError, match=r"of 5 classes for 2000000x1000000 pixels take 37252.9 GiB .* `confidence`"):
        _ = huge.probabilities


@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings((64, 64), (32, 32)),
        InferenceSettings(scales=(0.5, 1.0), flip=True),
        InferenceSettings(scales=(0.5, 1.0), average="logits"),
    ],
    ids=["windows", "probabilities", "logits"],
)
def test_probability_of_the_label(tiny_model, make_picture, settings):
    predictor = Predictor(*segzoo.load(tiny_model), settings)
    image = np.array(make_picture())
    ((labels, shares),) = predictor.label_maps_and_probabilities([image], [(60, 90)])
    assert torch.equal(labels, predictor.label_map(image, (60, 90)))
    assert torch.allclose(shares, predictor.probabilities(image, (60, 90)).amax(0), atol=1e-6)


def test_pictures_on_the_web_are_fetched_together(tiny_model, make_picture, monkeypatch):
    model, processor = segzoo.load(tiny_model)
    contents = {}
    for number in range(20):
        make_picture(number).save(file := io.BytesIO(), format="PNG")
        contents[f"https://example.org/{number}.png"] = file.getvalue()
    together, begun = threading.Barrier(4), []

    def read_web(address):
        begun.append(address)
        together.wait(20)  # fails unless four are fetched at once
        if address not in contents:
            raise OSError("there is nothing at this address")
        return contents[address]

    monkeypatch.setattr("segzoo.images.web.read_web", read_web)
    found = segzoo.predict((model, processor), list(contents))
    expected = segzoo.predict((model, processor), list(contents.values()))
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.label_map, other.label_map)
    assert set(begun) == set(contents) and len(begun) == 20

    begun.clear()
    together = threading.Barrier(1)
    addresses = ["https://example.org/no.png", *contents]
    with pytest.raises(SegZooError, match=r"no.png: the picture cannot be fetched \(there is nothing"):
        segzoo.predict((model, processor), addresses)
    assert len(begun) <= 8  # the others are not fetched for nothing

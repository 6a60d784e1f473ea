"""Sample pictures, the curve's note, and the facts of the card."""

import sys

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.cards.model_card import ModelCardFacts
from segzoo.data import SegmentationDataset, build_processor_transform
from segzoo.evaluation import evaluate
from segzoo.images.drawing import default_palette
from segzoo.inference import InferenceSettings
from segzoo.training.reports.summary import describe_training, draw_curves, draw_samples

NAMES = [f"class {i}" for i in range(5)]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
            "label": np.full(size, i % 5, np.uint8),
        }
        for i, size in enumerate([(40, 56), (64, 37), (40, 56)])
    ]
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    processor = SegZooImageProcessor(do_resize=False)
    return model, processor, SegmentationDataset(rows, build_processor_transform(processor), num_labels=5)


@pytest.mark.parametrize(("count", "drawn"), [(2, 2), (9, 3)])
def test_samples(parts, count, drawn, tmp_path):
    model, processor, data = parts
    model.train()
    files = draw_samples(
        model,
        processor,
        data,
        tmp_path / "figures",
        accelerator=Accelerator(cpu=True),
        names=NAMES,
        palette=default_palette(5),
        count=count,
    )
    assert [file.name for file in files] == ["samples.png", *(f"overlay_{i + 1}.png" for i in range(drawn))]
    for file in files:
        with PIL.Image.open(file) as image:
            image.load()
    assert model.training


def test_without_matplotlib_there_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    note = draw_curves([{"step": 1, "loss": 1.0}], tmp_path / "figures" / "curves.png")
    assert "pip install 'segzoo[plot]'" in note
    assert not (tmp_path / "figures" / "curves.png").exists()


def test_card_tells_scores_and_settings(parts):
    model, processor, data = parts
    evaluation = evaluate(model, processor, data, accelerator=Accelerator(cpu=True), num_labels=5)
    protocol = InferenceSettings.of_model(model).describe(processor)
    facts = ModelCardFacts(title="tiny", dataset="noise", inference=protocol, training={"learning_rate": 0.25})
    card = describe_training(model, facts, [(protocol, evaluation)])
    assert (
        f"{100 * evaluation.metrics['mean_iou']:.2f}" in card
        and "| learning_rate | 0.25 |" in card
        and protocol in card
    )
    assert "mean_iou" not in describe_training(model, facts).split("---")[1]

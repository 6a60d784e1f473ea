import json

import numpy as np
import pytest
import torch
from support.universal import SIDE, config_of, processor_of
from support.versions import ONEFORMER_NEEDS_TEXTS, TRANSFORMERS, oneformer_needs_texts
from transformers import AutoConfig, AutoModelForUniversalSegmentation, CLIPTokenizer

import segzoo
from segzoo import SegZooError
from segzoo.export.export import ExportOptions, export_model
from segzoo.inference import InferenceSettings, Predictor
from segzoo.universal import UNIVERSAL_TYPES, check_learns, load_segmentation_model, model_from_config

TOKENS = [1, 2, 3, 4, 0, 0, 0, 0]


def build(model_type, num_labels=4):
    config = config_of(model_type, num_labels)
    if model_type == "oneformer":
        config.semantic_task_tokens = TOKENS
    return model_from_config(config).eval()


def picture(height=SIDE, width=SIDE):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(params=UNIVERSAL_TYPES)
def model(request):
    return build(request.param)


LEARNING = [
    pytest.param(kind, marks=oneformer_needs_texts) if kind == "oneformer" else kind for kind in UNIVERSAL_TYPES
]
learning = pytest.mark.parametrize("model", LEARNING, indirect=True)


@learning
def test_learns_from_maps_of_labels_as_from_masks(model):
    pixel_values, labels = torch.randn(2, 3, SIDE, SIDE), torch.randint(0, 3, (2, SIDE, SIDE))
    labels[0, :20] = 255
    labels[1] = 2
    masks = [
        torch.stack([(one == c).float() for c in found]) for one, found in zip(labels, ([0, 1, 2], [2]), strict=True)
    ]
    classes = [torch.tensor([0, 1, 2]), torch.tensor([2])]
    model.train()
    losses = []
    for given in ({"labels": labels}, {"mask_labels": masks, "class_labels": classes}):
        torch.manual_seed(0)
        output = model(pixel_values=pixel_values, **given)
        assert output.logits is None and output.loss.ndim == 0
        losses.append(output.loss)
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@learning
def test_pixels_that_do_not_count_alone_give_a_finite_loss(model):
    labels = torch.full((1, SIDE, SIDE), 255)
    loss = model.train()(pixel_values=torch.randn(1, 3, SIDE, SIDE), labels=labels).loss
    loss.backward()
    assert loss.isfinite()


@learning
def test_another_label_of_pixels_that_do_not_count(model):
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    labels[:, 30:] = 9
    with pytest.raises(SegZooError, match=r"ids \[0, 9\], and the model has 4 classes"):
        model(pixel_values=torch.randn(1, 3, SIDE, SIDE), labels=labels)
    model.config.semantic_loss_ignore_index = 9
    assert model(pixel_values=torch.randn(1, 3, SIDE, SIDE), labels=labels).loss.isfinite()


@torch.no_grad()
def test_logits_are_the_sum_over_queries_of_masks_at_the_input_size(model):
    output = model(pixel_values=torch.randn(2, 3, SIDE, SIDE))
    masks = torch.nn.functional.interpolate(output.masks_queries_logits, (SIDE, SIDE), mode="bilinear").sigmoid()
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    expected = (classes[:, :, :, None, None] * masks[:, :, None]).sum(1)
    torch.testing.assert_close(output.logits, expected)


@torch.no_grad()
def test_a_saved_folder_is_of_transformers(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForUniversalSegmentation.from_pretrained(tmp_path).eval()
    assert type(loaded).__module__.startswith("transformers.")
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(loaded).__name__]
    pixel_values = torch.randn(1, 3, SIDE, SIDE)
    more = {"task_inputs": torch.tensor([TOKENS])} if model.config.model_type == "oneformer" else {}
    expected = loaded(pixel_values, **more)
    output = model(pixel_values)
    torch.testing.assert_close(output.masks_queries_logits, expected.masks_queries_logits)
    torch.testing.assert_close(output.class_queries_logits, expected.class_queries_logits)


@pytest.mark.skipif(not ONEFORMER_NEEDS_TEXTS, reason="this transformers' OneFormer learns without texts")
def test_oneformer_that_cannot_learn_says_so():
    model = build("oneformer").train()
    pixel_values, labels = torch.randn(1, 3, SIDE, SIDE), torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    with pytest.raises(SegZooError, match=f"from transformers 5.23 on, and this is {TRANSFORMERS}: pip install -U"):
        model(pixel_values=pixel_values, labels=labels)
    with pytest.raises(SegZooError, match="5.23"):
        check_learns(model.config)
    assert model(pixel_values=pixel_values).logits is not None


@learning
def test_other_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=7)
    other = load_segmentation_model(str(tmp_path), config, ignore_mismatched_sizes=True)
    weights = other.criterion.empty_weight
    assert torch.equal(weights, torch.tensor([1.0] * 7 + [weights[-1]])) and 0 < weights[-1] < 1
    output = other(pixel_values=torch.randn(1, 3, SIDE, SIDE), labels=torch.full((1, SIDE, SIDE), 6))
    assert output.loss.isfinite() and output.logits.shape == (1, 7, SIDE, SIDE)


@pytest.mark.parametrize("model_type", ["mask2former", "eomt", "eomt_dinov3"])
def test_load_and_predict_as_its_own_processor_does(model_type, tmp_path):
    model, processor = build(model_type), processor_of(model_type)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = segzoo.load(tmp_path)
    image = picture(SIDE, 100)  # EoMT sees it in two windows
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    found = Predictor(model, processor).label_map(image, (SIDE, 100))
    if model_type == "mask2former":  # its processor resizes masks to 384 x 384, always
        expected = torch.nn.functional.interpolate(output.logits, (SIDE, 100), mode="bilinear").argmax(1)[0]
    else:
        assert len(inputs["pixel_values"]) == 2
        (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[(SIDE, 100)])
    assert (found == expected).float().mean() > 0.999


def test_eomt_takes_one_size():
    model = build("eomt")
    assert InferenceSettings.of_model(model).window_size == (SIDE, SIDE)
    with pytest.raises(SegZooError, match="pixel_values are 32x64, and this eomt takes 64x64 only"):
        model(pixel_values=torch.randn(1, 3, 32, SIDE))
    processor = processor_of("eomt")
    processor.do_split_image, processor.do_pad = False, True
    with pytest.raises(SegZooError, match="set do_pad to false"):
        Predictor(model, processor).label_map(picture(), (SIDE, SIDE))


@pytest.mark.parametrize("model_type", [pytest.param("mask2former", marks=pytest.mark.slow), "eomt"])
def test_export(model_type, tmp_path):
    options = ExportOptions(size=None if model_type == "eomt" else (SIDE, SIDE), labels=True)
    before = build(model_type).state_dict()
    model = build(model_type)
    model.load_state_dict(before)
    report = export_model(model, tmp_path / "model.pt2", options, processor=processor_of(model_type))
    assert report.input == f"pixel_values: float32 (batch, 3, {SIDE}, {SIDE})"
    assert model.state_dict().keys() == before.keys()


def test_the_task_of_oneformer(tmp_path):
    config = config_of("oneformer")
    config.semantic_task_tokens = None
    model = model_from_config(config)
    with pytest.raises(SegZooError, match="needs the tokens of its task"):
        model(pixel_values=torch.randn(1, 3, SIDE, SIDE))
    model.save_pretrained(tmp_path)
    with pytest.raises(SegZooError, match="OneFormer needs its tokenizer"):
        load_segmentation_model(str(tmp_path), AutoConfig.from_pretrained(tmp_path))
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(letter + "</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    loaded = load_segmentation_model(str(tmp_path), AutoConfig.from_pretrained(tmp_path))
    tokens = loaded.config.semantic_task_tokens
    assert len(tokens) == 8 and tokens[:3] == [vocabulary["<|startoftext|>"], vocabulary["t"], vocabulary["h"]]
    loaded.save_pretrained(tmp_path / "saved")
    again = load_segmentation_model(str(tmp_path / "saved"), AutoConfig.from_pretrained(tmp_path / "saved"))
    assert again.config.semantic_task_tokens == tokens and again.tokenizer is not None
    config = AutoConfig.from_pretrained(tmp_path, is_training=True)
    with pytest.raises(SegZooError, match="in its training form"):
        load_segmentation_model(str(tmp_path), config)

"""Mask2Former's head: the original's numbers, and what only heads with queries do."""

import json
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from parity import synthesis
from PIL import Image
from safetensors.torch import load_file
from support.contract import assert_close, assert_gradients, settle
from torch.nn import functional as F
from transformers import pipeline

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.conversion.keys import Context
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.rules.mask2former import MASK2FORMER
from segzoo.data.scenes import SCENES, draw_scene
from segzoo.errors import SegZooError
from segzoo.heads import Mask2FormerHead, Mask2FormerHeadConfig
from segzoo.heads.queries import combined_logits
from segzoo.inference import Predictor
from segzoo.layers.pixel_decoder import sine_positions
from segzoo.losses import MaskClassificationLoss
from segzoo.training.layer_depths import layer_depths

RECORDS = Path(__file__).parent / "records"
RECORD = json.loads((RECORDS / "mask2former.json").read_text())


def relative_error(found, expected):
    found = found.detach().flatten()
    found = found if found.numel() == expected.numel() else found[::7]
    return float((found - expected.flatten()).abs().max() / expected.abs().max())


def test_numbers_and_gradients_are_the_originals():
    tensors = load_file(RECORDS / "mask2former.safetensors")
    config = MASK2FORMER.translate(RECORD["config"], Context("model.decode_head", OriginalConfig()))
    head, table = Mask2FormerHead(config).double().eval(), MASK2FORMER.key_table(config)
    head.load_state_dict({table.to_native(key): x for key, x in synthesis.state_dict(RECORD["keys"]).items()})
    maps = [tensors[f"in.feat{i}"].requires_grad_() for i in range(4)]

    mask_features, levels = head.pixel_decoder(maps)
    output = head(maps)
    first = output.auxiliary_predictions[0]
    first_masks = torch.einsum("bqc,bchw->bqhw", first.mask_embeddings, output.mask_features)
    found = [first.class_logits, first_masks, output.class_queries_logits, output.masks_queries_logits]
    found += [mask_features, *levels]
    for i, value in enumerate(found):
        assert relative_error(value, tensors[f"out{i}"]) < 1e-12, i

    sum((value * tensors[f"gradout{i}"]).sum() for i, value in enumerate(found)).backward()
    for i, x in enumerate(maps):
        assert relative_error(x.grad, tensors[f"gradin.feat{i}"]) < 1e-12, i
    parameters = dict(head.named_parameters())
    recorded = {name: value for name, value in tensors.items() if name.startswith("gradparam")}
    for name, value in recorded.items():
        gradient = parameters[table.to_native(name.partition(".")[2])].grad.flatten()
        if name.startswith("gradparam_sampled"):
            gradient = gradient[[(k * 2654435761 + 12345) % gradient.numel() for k in range(value.numel())]]
        assert relative_error(gradient, value) < 1e-12, name
    assert len(recorded) == 15

    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    masks = output.masks_queries_logits.sigmoid()
    assert_close(output.logits, torch.einsum("bqk,bqhw->bkhw", classes, masks), 1e-12)
    assert relative_error(sine_positions(5, 7, 16, dtype=torch.float64, device="cpu"), tensors["sine.out"]) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 30}, "multiple of 4"),
        ({"encoder_heads": 5}, "encoder_heads=5"),
        ({"norm_groups": 24}, "norm_groups=24"),
        ({"num_queries": 0}, "num_queries=0"),
        ({"in_channels": [8, 16]}, "num_levels=3"),
    ],
)
def test_options_that_make_no_head(options, message):
    with pytest.raises(SegZooError, match=message):
        Mask2FormerHeadConfig(**({"channels": 64} | options))


def config_of(num_labels=7, **head):
    head_config = Mask2FormerHeadConfig.tiny()
    head_config.in_channels = None
    options = {"losses": [MaskClassificationLoss(num_points=256).to_dict()]} | head
    for name, value in options.items():
        setattr(head_config, name, value)
    return SegZooConfig.from_backbone(ResNetConfig.tiny(), head_config, auxiliary=False, num_labels=num_labels)


def batch(size=(64, 96), num_labels=7):
    labels = synthesis.labels("batch", [2, *size], num_labels, 16)
    return {"pixel_values": synthesis.image("batch", [2, 3, *size]), "labels": labels}


def test_outputs_and_losses_of_every_layer():
    model = settle(SegZooForSemanticSegmentation(config_of())).train()
    output = model(**batch())
    assert output.class_queries_logits.shape == (2, 8, 8)
    assert output.masks_queries_logits.shape[:2] == (2, 8)
    layers = ("layer_0.", "layer_1.", "layer_2.", "")
    names = {f"decode_0.{layer}query_{part}" for layer in layers for part in ("class", "mask", "dice")}
    assert set(output.losses) == names
    assert_close(output.loss, sum(output.losses.values()))
    output.loss.backward()
    assert_gradients(model.decode_heads[0])
    windows = model.eval()(batch()["pixel_values"], window_size=(64, 64), window_stride=(64, 32))
    assert windows.logits.shape == (2, 7, 64, 96) and windows.masks_queries_logits is None


def test_masks_resized_before_the_sum():
    generator = torch.Generator().manual_seed(5)
    classes = torch.randn(2, 40, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, 40, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    large = F.interpolate(masks, size=(19, 25), mode="bilinear", align_corners=False).sigmoid()
    expected = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], large)
    found = combined_logits(classes, masks, (19, 25))
    assert_close(found, expected, 1e-12)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((x * weights).sum(), (classes, masks)) for x in (found, expected)]
    for own, wanted in zip(*gradients, strict=True):
        assert_close(own, wanted, 1e-12)


@pytest.mark.parametrize("size", [(64, 96), (75, 109)])
def test_logits_at_the_images_size(size):
    config = config_of(resize_masks_first=True)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    inputs = batch(size)
    pixels = inputs["pixel_values"]
    output = model(pixels)
    assert output.logits.shape == (2, 7, *size) and output.masks_queries_logits.shape[-2:] != size
    assert_close(output.logits, combined_logits(output.class_queries_logits, output.masks_queries_logits, size))

    windows = model(pixels, window_size=(64, 64), window_stride=(64, 32)).logits
    assert windows.shape == (2, 7, *size)
    assert_close(windows[..., :8, :32], model(pixels[..., :64, :64]).logits[..., :8, :32])  # of one window alone

    other = SegZooForSemanticSegmentation(config_of()).eval()
    other.load_state_dict(model.state_dict())
    losses = []
    for one in (model, other):
        torch.manual_seed(0)
        losses.append(one(**inputs).loss)
    assert torch.equal(*losses)  # which the option does not change
    assert model.train()(**inputs).logits.shape == other.train()(**inputs).logits.shape


@torch.no_grad()
def test_padding_is_cut_from_logits_of_the_images_size():
    model = settle(SegZooForSemanticSegmentation(config_of(resize_masks_first=True))).eval()
    processor = SegZooImageProcessor(do_resize=False, size_multiple=32, size_multiple_mode="pad", pad_value=0)
    picture = draw_scene(1, size=(50, 70), seed=2)[0]
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    logits = model(pixels).logits
    assert pixels.shape[-2:] == logits.shape[-2:] == (64, 96)
    cut = logits[..., :50, :70]
    assert torch.equal(Predictor(model, processor).label_map(picture, (50, 70)).long(), cut.argmax(1)[0])
    large = F.interpolate(cut, size=(100, 140), mode="bilinear", align_corners=False)
    (found,) = processor.post_process_semantic_segmentation(model(pixels), target_sizes=[(50, 70)])
    assert torch.equal(found.long(), cut.argmax(1)[0])
    assert (
        Predictor(model, processor).label_map(picture, (100, 140)).long() == large.argmax(1)[0]
    ).float().mean() > 0.999


def test_weights_may_be_elsewhere_until_a_layer_is_called():
    head = settle(Mask2FormerHead(Mask2FormerHeadConfig.tiny())).eval()
    inputs = head.config.tiny_inputs()
    expected = head(**inputs)
    head = accelerate.cpu_offload(head, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in head.parameters())
    found = head(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.masks_queries_logits, expected.masks_queries_logits)


def test_adapters_of_attention_and_embeddings_are_trained():
    peft = pytest.importorskip("peft")
    targets = ["in_proj", "query_features", "query_positions", "level_embed"]
    model = settle(SegZooForSemanticSegmentation(config_of()))
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    adapters = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.normal_(std=0.1)
    tuned.train()(**batch()).loss.backward()
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in adapters} == set(targets)
    assert not [name for name, parameter in adapters.items() if parameter.grad is None or not parameter.grad.any()]


def test_losses_on_dense_logits_are_added():
    losses = [{"type": "mask_classification", "num_points": 64}, {"type": "dice", "weight": 0.5}]
    model = SegZooForSemanticSegmentation(config_of(losses=losses))
    found = model(**batch()).losses
    assert "decode_0.dice" in found and "decode_0.query_dice" in found


def test_a_batch_without_labels_trains():
    model = SegZooForSemanticSegmentation(config_of()).train()
    inputs = batch()
    output = model(inputs["pixel_values"], torch.full_like(inputs["labels"], 255))
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.losses["decode_0.query_mask"].item() == 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_the_seed_decides_the_loss():
    model = SegZooForSemanticSegmentation(config_of()).eval()
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        values.append(model(**batch()).loss.item())
    assert values[0] == values[1] != values[2]


def test_gradient_checkpointing_changes_nothing():
    torch.manual_seed(1)
    model = SegZooForSemanticSegmentation(config_of()).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in model.decode_heads[0].layers)
        model.zero_grad()
        torch.manual_seed(2)
        model(**batch()).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert_close(recomputed, plain)


def test_bfloat16_trains():
    model = SegZooForSemanticSegmentation(config_of()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch())
    output.loss.backward()
    assert output.logits.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_other_classes_replace_the_classifier_alone(tmp_path):
    model = SegZooForSemanticSegmentation(config_of())
    model.save_pretrained(tmp_path)
    loaded, info = SegZooForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=4, ignore_mismatched_sizes=True, output_loading_info=True
    )
    names = {f"decode_heads.0.classifier.{part}" for part in ("weight", "bias")}
    assert {entry[0] for entry in info["mismatched_keys"]} == names
    assert not info["missing_keys"] and not info["unexpected_keys"]
    old = model.state_dict()
    assert all(torch.equal(value, old[key]) for key, value in loaded.state_dict().items() if key not in names)
    assert loaded.decode_heads[0].classifier.weight.shape == (5, 16)
    loaded(**batch(num_labels=4)).loss.backward()


def test_what_the_originals_train_at_the_lowest_rate():
    model = SegZooForSemanticSegmentation(config_of())
    depths, count = layer_depths(model)
    head = {
        name.removeprefix("decode_heads.0."): depth for name, depth in depths.items() if name.startswith("decode_")
    }
    lowest = {name.partition(".")[0] for name, depth in head.items() if depth == 0}
    assert lowest == {"classifier", "mask_embed", "query_positions", "query_features", "level_embed"}
    assert {depth for name, depth in head.items() if name.partition(".")[0] not in lowest} == {count}


def test_first_weights():
    head = Mask2FormerHead(Mask2FormerHeadConfig(in_channels=[8, 16, 32, 64], channels=64, decoder_layers=1))
    attention = head.pixel_decoder.layers[0].attention
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    assert torch.equal(offsets[0, 0], torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]))
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    assert head.query_features.weight.std().item() == pytest.approx(1.0, abs=0.05)
    projection = head.layers[0].cross_attention.in_proj
    assert (
        projection.weight.std().item() == pytest.approx((2 / (64 + 192)) ** 0.5, rel=0.05)
        and not projection.bias.any()
    )
    assert head.classifier.weight.abs().max() <= 64**-0.5 and head.classifier.bias.any()


def test_dropout_acts_in_training_alone():
    model = settle(SegZooForSemanticSegmentation(config_of(dropout=0.3)))
    pixels = batch()["pixel_values"]
    first, second = (model.train()(pixels).class_queries_logits for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(pixels).logits, model(pixels).logits)


def test_learns_a_few_scenes_and_segments_them_in_a_pipeline(tmp_path):
    torch.manual_seed(0)
    scenes = [draw_scene(i, size=(48, 64), seed=3) for i in range(2)]
    processor = SegZooImageProcessor(size={"height": 48, "width": 64})
    pixels = processor([image for image, _ in scenes], return_tensors="pt")["pixel_values"]
    labels = torch.stack([torch.from_numpy(label.astype("int64")) for _, label in scenes])
    config = config_of(
        num_labels=len(SCENES.classes),
        channels=32,
        mask_channels=32,
        num_queries=16,
        encoder_heads=4,
        decoder_heads=4,
        losses=[{"type": "mask_classification", "num_points": 512}],
    )
    config.id2label = dict(enumerate(SCENES.classes))
    model = SegZooForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(70):
        loss = model(pixels, labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-5:]) < 0.3 * sum(history[:5])

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    segment = pipeline("image-segmentation", str(tmp_path), device="cpu")
    right = count = 0
    for (image, _), label in zip(scenes, labels, strict=True):
        for part in segment(Image.fromarray(image)):
            inside = torch.from_numpy(np.asarray(part["mask"]) > 0)
            wanted = SCENES.classes.index(part["label"])
            right, count = right + int((label[inside] == wanted).sum()), count + int((label[inside] != 255).sum())
    assert right / count > 0.8

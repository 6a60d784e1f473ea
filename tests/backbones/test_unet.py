"""What UNet has beyond the contract: sizes that it takes, how others are padded, and the options of both halves."""

import numpy as np
import pytest
import torch
from support.contract import settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import UNetBackbone, UNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig
from segzoo.images.resizing import multiple_settings
from segzoo.inference import InferenceSettings, Predictor
from segzoo.layers import TransposedConvNormAct

WINDOWS = {"window_size": [32, 32], "window_stride": [20, 20]}


def test_the_published_network():
    with torch.device("meta"):
        model = UNetBackbone(UNetConfig())
        maps = model(torch.empty(1, 3, 96, 160)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [
        (1024, 6, 10),
        (512, 12, 20),
        (256, 24, 40),
        (128, 48, 80),
        (64, 96, 160),
    ]
    assert sum(p.numel() for p in model.parameters()) == 28_949_568


@pytest.mark.parametrize("size", [(75, 112), (80, 100), (8, 8)])
def test_other_sizes_are_refused_with_those_that_work(size):
    model = UNetBackbone(UNetConfig.tiny())
    wanted = " x ".join(str(-(-side // 16) * 16) for side in size)
    with pytest.raises(SegZooError, match=f"{size[0]} x {size[1]} pixels.*multiples of 16.*{wanted}"):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "multiple", "strides"),
    [
        ({"pools": [True, True, False, False]}, 4, [4, 4, 4, 2, 1]),
        ({"strides": [1, 2, 1, 1, 2]}, 16, [16, 8, 4, 2, 1]),
        ({"strides": [2, 1, 1, 1, 1]}, 32, [32, 16, 8, 4, 2]),
        ({"strides": [1, 1, 2], "pools": [True, False]}, 4, [4, 2, 1]),
        ({"upsampling": "deconvolve", "deconvolution_kernel": 6}, 16, [16, 8, 4, 2, 1]),
    ],
)
def test_resolutions(options, multiple, strides):
    stages = len(strides)
    lists = {"convs": [1] * stages, "dilations": [1] * stages, "decoder_convs": [1] * (stages - 1)}
    lists |= {"decoder_dilations": [2] * (stages - 1)}
    model = UNetBackbone(UNetConfig(width=4, **lists | options))
    assert model.config.size_multiple == multiple
    maps = model(torch.randn(2, 3, 64, 96)).feature_maps
    assert [tuple(m.shape[2:]) for m in maps] == [(64 // stride, 96 // stride) for stride in strides]
    deconvolutions = [block for block in model.modules() if isinstance(block, TransposedConvNormAct)]
    assert len(deconvolutions) == (4 if "upsampling" in options else 0)


def test_dilation_begins_with_the_second_convolution():
    model = UNetBackbone(UNetConfig(width=4, dilations=[1, 1, 1, 1, 3], decoder_dilations=[2, 1, 1, 1]))
    dilations = [[layer.conv.dilation[0] for layer in block.convs] for block in (*model.encoder, *model.decoder)]
    assert dilations == [[1, 1]] * 4 + [[1, 3], [1, 2]] + [[1, 1]] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strides": [1, 1, 1, 1, 3]}, "strides=.* must be 1 or 2"),
        ({"strides": [1]}, "1 stages"),
        ({"convs": [2, 2]}, "convs=.*needs 5 entries for 5 stages"),
        ({"decoder_convs": [2] * 5}, "decoder_convs=.*needs 4 entries"),
        ({"convs": [500] * 5}, "out of range"),
        ({"width": 8192}, "131072 channels in the last stage"),
        ({"deconvolution_kernel": 5}, "deconvolution_kernel=5 must be even"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        UNetConfig(**options)


def model_and_processor(**windows):
    torch.manual_seed(0)
    head = FCNHeadConfig(in_index=[4], channels=4, num_convs=1)
    config = SegZooConfig.from_backbone(UNetConfig.tiny(), head, num_labels=4, auxiliary=False, **windows)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    torch.nn.init.normal_(model.decode_heads[-1].classifier.weight, std=2.0)  # labels that are not all alike
    settings = multiple_settings(config.size_multiple, None)
    return model, SegZooImageProcessor(do_resize=False, resize_logits_to_input=True, **settings, **windows)


@pytest.mark.parametrize(
    ("windows", "size", "padded"),
    [
        ({}, (45, 61), (48, 64)),
        ({}, (48, 64), (48, 64)),
        (WINDOWS, (45, 61), (45, 61)),  # cut into whole windows, as the original does
        (WINDOWS, (20, 61), (32, 61)),
        (WINDOWS, (16, 9), (16, 16)),
    ],
)
@torch.no_grad()
def test_pictures_are_padded_for_each_pass_and_label_maps_cut_back(windows, size, padded):
    model, processor = model_and_processor(**windows)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    inputs = processor(picture, return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == padded
    bare = SegZooImageProcessor(do_resize=False)(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs["pixel_values"][..., : size[0], : size[1]], bare)
    assert not inputs["pixel_values"][..., size[0] :, :].any()
    outputs = model(**inputs)
    (labels,) = processor.post_process_semantic_segmentation(outputs, [size])
    assert torch.equal(labels, outputs.logits[0, :, : size[0], : size[1]].argmax(0))
    assert labels.unique().numel() > 1
    assert torch.equal(Predictor(model, processor).label_map(picture, size).long(), labels)


@torch.no_grad()
def test_windows_can_be_left_out():
    model, processor = model_and_processor(**WINDOWS)
    picture = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    labels = Predictor(model, processor, InferenceSettings()).label_map(picture, (45, 61)).long()
    whole = processor(picture, np.zeros((45, 61), dtype=np.uint8), return_tensors="pt")  # labels are for one pass
    assert whole["pixel_values"].shape[-2:] == whole["labels"].shape[-2:] == (48, 64)
    assert torch.equal(labels, model(whole["pixel_values"]).logits[0, :, :45, :61].argmax(0))


def test_multiples_of_a_processor_that_has_its_own():
    assert multiple_settings(1, None) == multiple_settings(1, 32) == multiple_settings(16, 32) == {}
    assert multiple_settings(16, 24) == {"size_multiple": 48}

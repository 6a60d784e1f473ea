import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.heads import FCNHead, FCNHeadConfig, SeparableFCNHead, SeparableFCNHeadConfig
from segzoo.layers import SeparableConv


def test_concatenates_resized_maps():
    torch.manual_seed(0)
    config = FCNHeadConfig(
        in_channels=[4, 8],
        in_index=[0, 1],
        channels=12,
        num_convs=0,
        concat_input=False,
        resize_concat=True,
        dropout=0.0,
    )
    head = FCNHead(config).eval()
    fine, coarse = torch.randn(1, 4, 8, 6), torch.randn(1, 8, 4, 3)
    joined = torch.cat([fine, F.interpolate(coarse, size=(8, 6), mode="bilinear", align_corners=False)], dim=1)
    expected = F.conv2d(joined, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(head([fine, coarse]).logits, expected)


def test_linear_head_is_a_norm_and_a_classifier():
    config = FCNHeadConfig(
        in_channels=[6],
        in_index=[0],
        channels=6,
        num_convs=0,
        concat_input=False,
        norm=None,
        with_norm=True,
        dropout=0.0,
    )
    head = FCNHead(config).eval()
    torch.nn.init.normal_(head.norm.running_mean)
    torch.nn.init.uniform_(head.norm.running_var, 0.5, 2.0)
    torch.nn.init.normal_(head.norm.weight)
    assert {name.partition(".")[0] for name in head.state_dict()} == {"norm", "classifier"}
    x = torch.randn(2, 6, 4, 5)
    mean, variance = (value.view(1, 6, 1, 1) for value in (head.norm.running_mean, head.norm.running_var))
    normed = (x - mean) / (variance + 1e-5).sqrt() * head.norm.weight.view(1, 6, 1, 1) + head.norm.bias.view(
        1, 6, 1, 1
    )
    expected = F.conv2d(normed, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(head([x]).logits, expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"in_channels": [4, 8], "in_index": [0, 1]}, "resize_concat"),
        ({"kernel_size": 2}, "odd"),
        ({"num_convs": 0, "in_channels": [4], "channels": 8}, "must equal"),
        ({"in_channels": [4, 8], "in_index": [0]}, "differ in length"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        FCNHeadConfig(**options)


def test_separable_convolutions():
    config = SeparableFCNHeadConfig(in_channels=[6], channels=8, dilation=2, num_labels=3)
    head = SeparableFCNHead(config)
    assert [type(conv) for conv in (*head.convs, head.conv_cat)] == [SeparableConv] * 3
    assert [conv.depthwise.conv.dilation[0] for conv in (*head.convs, head.conv_cat)] == [2, 2, 1]
    assert head.conv_cat.depthwise.conv.in_channels == 14
    assert isinstance(head.convs[0].depthwise.activation, nn.Identity)
    assert isinstance(head.convs[0].pointwise.activation, nn.ReLU)
    assert head.eval()([torch.randn(1, 6, 9, 7)]).logits.shape == (1, 3, 9, 7)
    config.depthwise_activation = "gelu"
    assert isinstance(SeparableFCNHead(config).conv_cat.depthwise.activation, nn.GELU)

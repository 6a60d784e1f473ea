"""What ERFNet has beyond the contract: its blocks, and dropout in the encoder alone."""

import pytest
import torch

from segzoo.backbones import ERFNetBackbone, ERFNetConfig
from segzoo.backbones.erfnet import ERFNetBlock
from segzoo.errors import SegZooError


def test_the_published_network():
    with torch.device("meta"):
        model = ERFNetBackbone(ERFNetConfig())
        output = model(torch.empty(1, 3, 75, 112), output_hidden_states=True)
    assert [tuple(m.shape[1:]) for m in output.hidden_states] == [
        (16, 38, 56),
        (64, 19, 28),
        (128, 10, 14),
        (64, 20, 28),
        (16, 40, 56),
    ]
    assert model.out_features == ["stage4"]
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}
    blocks = [[block for block in stage if isinstance(block, ERFNetBlock)] for stage in model.stages]
    assert [[block.convs[2].conv.dilation for block in stage] for stage in blocks] == [
        [(1, 1)] * 5,
        [(2, 1), (4, 1), (8, 1), (16, 1)] * 2,
        [(1, 1)] * 2,
        [(1, 1)] * 2,
    ]
    assert [{block.dropout.p for block in stage} for stage in blocks] == [{0.1}, {0.1}, {0.0}, {0.0}]


@pytest.mark.parametrize("dropout", [0, 0.0])
def test_no_dropout(dropout):
    config = ERFNetConfig(dropout=dropout)
    assert type(config).from_dict(config.to_dict()).dropout == 0
    assert {module.p for module in ERFNetBackbone(config).modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_dropout_acts_in_training_alone():
    model = ERFNetBackbone(ERFNetConfig.tiny())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, second, still = (model.train(mode)(x).feature_maps[0] for mode in (True, True, False))
        assert not torch.equal(first, second)
        assert torch.equal(still, model.eval()(x).feature_maps[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": [5]}, "channels=.* need an entry"),
        ({"dilations": []}, "one at least"),
        ({"decoder_blocks": [2]}, "decoder_channels=.* need an entry for each of 2 stages"),
        ({"channels": [16, 16, 128]}, "must grow"),
        ({"num_channels": 16}, "must grow"),
        ({"decoder_blocks": [900, 200]}, "out of range"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        ERFNetConfig(**options)

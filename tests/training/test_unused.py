import pytest
import torch
from support.universal import config_of
from transformers import AutoModelForSemanticSegmentation, Data2VecVisionConfig

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.heads import FCNHeadConfig, Mask2FormerHeadConfig
from segzoo.training.unused import freeze_unused_parameters
from segzoo.universal import model_from_config


def model(head):
    return SegZooForSemanticSegmentation(SegZooConfig.from_backbone(ResNetConfig.tiny(), head, num_labels=5))


def test_stages_behind_the_last_map_that_is_read():
    network = model(FCNHeadConfig(in_index=[1], channels=8)).train()
    state, seed = {name: value.clone() for name, value in network.state_dict().items()}, torch.random.get_rng_state()
    frozen = freeze_unused_parameters(network)
    assert network.training and torch.equal(seed, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    network(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)).loss.backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert frozen and trained and all(name.startswith("backbone.") for name in frozen)
    assert trained == {name for name, _ in network.named_parameters()} - set(frozen)
    assert freeze_unused_parameters(network) == []


def test_nothing_is_frozen_where_all_is_read():
    assert freeze_unused_parameters(model(None), crop_size=(32, 64)) == []
    options = {"norm_groups": 4, "encoder_heads": 2, "decoder_heads": 2}
    queries = Mask2FormerHeadConfig(channels=16, mask_channels=16, num_queries=4, **options)
    assert freeze_unused_parameters(model(queries)) == []


@pytest.mark.parametrize("crop_size", [None, (160, 160)])
def test_models_of_one_size_get_an_image_of_it(crop_size):
    config = config_of("eomt")
    config.image_size = 160
    network = model_from_config(config)
    assert set(freeze_unused_parameters(network, crop_size)) < {name for name, _ in network.named_parameters()}


def test_models_of_transformers_get_an_image_of_the_crops_size():
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = Data2VecVisionConfig(
        image_size=160, out_indices=[1, 2, 3, 4], auxiliary_channels=8, num_labels=3, **sizes
    )
    network = AutoModelForSemanticSegmentation.from_config(config)
    assert len(freeze_unused_parameters(network, (160, 160))) < len(list(network.parameters())) / 2

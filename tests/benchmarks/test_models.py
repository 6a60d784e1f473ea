"""What the cases of benchmarks/models.py swap is what the models run."""

import sys

import pytest
import torch
from support.benchmarks import script

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES
from segzoo.heads import UPerHeadConfig

OPERATORS = {"segzoo_internimage": "dcnv3", "segzoo_vit_adapter": "ms_deform_attn"}


@pytest.fixture
def cases(monkeypatch):
    return script("model_cases", monkeypatch)


@pytest.mark.parametrize("backbone", OPERATORS)
@torch.no_grad()
def test_grid_sample_takes_the_operators_place(cases, monkeypatch, backbone):
    backbone_config = BACKBONES[backbone].config.tiny()
    torch.manual_seed(0)
    model = SegZooForSemanticSegmentation(
        SegZooConfig(
            backbone_config=backbone_config,
            decode_head_configs=[UPerHeadConfig(channels=8)],
            auxiliary_head_configs=[],
        )
    ).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.random.fork_rng():  # offsets of new models are zero
        for name, weight in model.named_parameters():
            if "offset" in name:
                torch.nn.init.normal_(weight, std=0.02)
    usual = model(image).logits

    def refuse(*arguments, **options):
        raise RuntimeError("segzoo's own operator ran")

    operator = OPERATORS[backbone]
    monkeypatch.setattr(sys.modules[f"segzoo.ops.{operator}"], operator, refuse)
    with pytest.raises(RuntimeError, match="own operator ran"):
        model(image)
    swap = {"dcnv3": cases.grid_sample_dcnv3, "ms_deform_attn": cases.grid_sample_attention}[operator]
    for context in (swap(), cases.plain_form(swap)):
        with context:
            torch.testing.assert_close(model(image).logits, usual, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="own operator ran"):
        model(image)


def test_every_swap_of_the_cases_can_be_made(cases):
    for case in cases.cases():
        with case.swap():
            pass

"""The example of a backbone outside the package, in separate processes because it registers classes."""

import os
import re

from support.forked import run_python

from .conftest import EXAMPLES

USE = """
import sys
import torch
import own_backbone as own
from transformers import AutoModelForSemanticSegmentation
from segzoo import AutoBackbone, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import backbone_variants
from segzoo.heads import FCNHeadConfig

x = torch.randn(2, 3, 32, 48)
alone, whole = sys.argv[1:]
backbone = own.TwoStepBackbone(own.TwoStepConfig(out_features=["coarse"])).eval()
backbone.save_pretrained(alone)
loaded = AutoBackbone.from_pretrained(alone).eval()
assert type(loaded) is own.TwoStepBackbone and loaded.out_features == ["coarse"] and loaded.channels == [32]
assert torch.equal(loaded(x).feature_maps[0], backbone(x).feature_maps[0])

config = backbone_variants()["two-step-l"].variant_config("two-step-l")
model = SegZooForSemanticSegmentation(SegZooConfig.from_backbone(config, FCNHeadConfig(channels=8), num_labels=3)).eval()
model.save_pretrained(whole)
again = AutoModelForSemanticSegmentation.from_pretrained(whole).eval()
assert again.config.backbone_config.width == 64 and torch.equal(again(x).logits, model(x).logits)
model.train()(x, labels=torch.zeros(2, 32, 48, dtype=torch.int64)).loss.backward()
assert all(p.grad is not None for p in model.parameters())
print("used")
"""


def run(*words):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{EXAMPLES}",
    }
    result = run_python(*words, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_its_checkpoint_converts_with_equal_numbers():
    printed = run(EXAMPLES / "own_backbone.py")
    assert "TwoStepBackbone with FCNHead: ['sky', 'road', 'tree']" in printed
    assert float(re.search(r"logits: (\S+)", printed)[1]) < 1e-6


def test_it_is_used_saved_and_loaded_as_any_other(tmp_path):
    assert run("-c", USE, tmp_path / "alone", tmp_path / "whole") == "used\n"

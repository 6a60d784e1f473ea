"""Losses and hard-example masks against records of mmsegmentation 0.27, through the conversion of its configs."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from parity import synthesis
from torch.nn import functional as F

from segzoo.conversion.keys import Context
from segzoo.conversion.losses import translate_losses
from segzoo.losses import CrossEntropyLoss, LovaszLoss, Ohem, build_loss

RECORD = json.loads((Path(__file__).parent / "records" / "mmsegmentation.json").read_text())
# An average over valid pixels has an epsilon in its divisor there; what was run in float32 has float32's noise.
TOLERANCE = {"float64": 1e-9, "float32": 2e-7}


@pytest.fixture(scope="module")
def inputs():
    made = {}
    for name, spec in RECORD["inputs"].items():
        if "scale" in spec:
            made[name] = (spec["scale"] * synthesis.image(spec["name"], spec["shape"])).double()
        else:
            made[name] = synthesis.labels(spec["name"], spec["shape"], spec["num_labels"], spec["block"])
    return made


@pytest.mark.parametrize("entry", RECORD["losses"], ids=lambda e: " ".join(f"{k}={v}" for k, v in e["config"].items()))
def test_losses(entry, inputs):
    context = Context("head")
    if entry["config"].get("loss_type") == "binary":  # no model of ours has one channel, so this one is not converted
        loss = LovaszLoss(binary=True, per_image=True)
    else:
        (options,) = translate_losses(entry["config"], None, context)
        loss = build_loss(options)
    value = loss(inputs[entry["input"]], inputs[entry["input"].replace("logit", "label")])
    assert float(value) == pytest.approx(entry["value"], rel=TOLERANCE[entry["dtype"]])
    assert context.notes == []


@pytest.mark.parametrize("entry", RECORD["ohem"], ids=lambda e: f"{e['thresh']}-{e['min_kept']}")
def test_hard_examples(entry, inputs):
    logits, labels = inputs["logit"], inputs["label"]
    sampler = {"type": "OHEMPixelSampler", "thresh": entry["thresh"], "min_kept": entry["min_kept"]}
    (options,) = translate_losses({"type": "CrossEntropyLoss"}, sampler, Context("head"))
    loss = build_loss(options)
    assert loss == CrossEntropyLoss(ohem=Ohem(threshold=entry["thresh"], min_kept=entry["min_kept"]))
    assert float(loss(logits, labels)) == pytest.approx(entry["loss_ce"], rel=1e-9)
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    kept = loss.ohem.keep(losses, losses.neg().exp(), labels != 255)
    assert int(kept.sum()) == entry["kept"]
    assert zlib.crc32(kept.numpy().astype(np.uint8).tobytes()) == entry["mask_crc32"]

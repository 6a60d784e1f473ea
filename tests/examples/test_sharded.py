"""Two processes over gloo that divide the weights (FSDP2) train like one, go on after kill -9, and save a whole model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import watched_training
from support.script_process import ScriptRun, words
from transformers import AutoModelForSemanticSegmentation

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import InternViTConfig
from segzoo.data.scenes import SCENES
from segzoo.heads import FCNHeadConfig

WATCHED = Path(watched_training.__file__)
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
TRAINING = {
    "crop_size": (56, 84),
    "learning_rate": 1e-3,
    "max_train_samples": 8,
    "max_train_steps": 4,
    "max_grad_norm": 1,
    "freeze_norms": True,
    "logging_steps": 1,
    "eval_steps": 4,
    "max_eval_samples": 3,  # two in one process and one in the other
    "per_device_eval_batch_size": 1,
    "dataloader_num_workers": 0,
}


@pytest.fixture(scope="module")
def start(scenes, tmp_path_factory):
    """Starts a training of a tiny InternViT without drop path and dropout."""
    backbone = InternViTConfig.tiny().to_dict() | {"drop_path_rate": 0.0}
    head = FCNHeadConfig(in_index=[-1], channels=8, dropout=0.0)
    config = SegZooConfig.from_backbone(
        InternViTConfig.from_dict(backbone), head, auxiliary=False, id2label=SCENES.id2label
    )
    model = tmp_path_factory.mktemp("model") / "internvit"
    torch.manual_seed(0)
    SegZooForSemanticSegmentation(config).save_pretrained(model)
    SegZooImageProcessor(do_resize=False).save_pretrained(model)

    def start(output=None, environment=(), processes=2, **options):
        output = output or tmp_path_factory.mktemp("run") / "out"
        settings = {**start.shared, **TRAINING}
        settings |= {"per_device_train_batch_size": 4 // processes, **options, "output_dir": output}
        line = [*(f"{name}={value}" for name, value in dict(environment).items()), *words(settings)]
        logs = output.parent / f"logs-{len(list(output.parent.iterdir()))}"
        run = ScriptRun(line, logs, processes=processes, script=WATCHED)
        run.output = output
        return run

    start.shared = {"dataset_name": scenes, "model_name_or_path": model}
    return start


def outcome(output):
    entries = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    scores = {entry["step"]: entry["eval_mean_iou"] for entry in entries if "eval_mean_iou" in entry}
    return losses, scores, load_file(output / "model.safetensors")


def assert_follows(output, expected):
    """The same to float noise, which AdamW's first steps enlarge where a gradient is nearly zero: one value in a hundred
    of a tensor may be as far off as one step goes.
    """
    losses, scores, weights = outcome(output)
    assert losses == pytest.approx(expected[0], rel=1e-4) and list(losses) == [1, 2, 3, 4]
    assert scores == pytest.approx(expected[1], abs=0.01)
    assert weights.keys() == expected[2].keys()
    for name, tensor in expected[2].items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=TRAINING["learning_rate"], msg=name)
        close = torch.isclose(weights[name], tensor, rtol=1e-3, atol=2e-4)
        assert close.float().mean() >= 0.99, name


def assert_divided(output):
    """Every parameter is a DTensor, of which each process holds its half of the rows."""
    for rank in range(2):
        facts = json.loads(Path(f"{output}-{rank}.json").read_text())
        assert facts and all(is_divided for is_divided, _, _ in facts.values())
        for name, (_, shape, own) in facts.items():
            size = torch.Size(shape).numel()
            rows = (shape[0] + 1) // 2 if rank == 0 else shape[0] // 2
            assert own == rows * (size // shape[0]), name
        total = sum(torch.Size(shape).numel() for _, shape, _ in facts.values())
        assert sum(own for *_, own in facts.values()) == pytest.approx(total / 2, rel=0.05)


def test_divided_weights_train_as_whole_ones(start):
    """And the folder is as of any training: it loads, with the same config."""
    single, divided = start(processes=1), start(environment=FSDP2)
    assert single.wait() == 0 and divided.wait() == [0, 0], single.stderr + divided.stderr
    assert_divided(divided.output)
    assert_follows(divided.output, outcome(single.output))
    configs = [json.loads((run.output / "config.json").read_text()) for run in (single, divided)]
    assert configs[0] == configs[1]
    model = AutoModelForSemanticSegmentation.from_pretrained(divided.output)
    assert type(model) is SegZooForSemanticSegmentation and (divided.output / "figures" / "samples.png").is_file()


@pytest.mark.slow
def test_a_frozen_backbone_that_is_divided(start):
    single, divided = (start(freeze_backbone=True, **more) for more in ({"processes": 1}, {"environment": FSDP2}))
    assert single.wait() == 0 and divided.wait() == [0, 0], single.stderr + divided.stderr
    assert_divided(divided.output)
    assert_follows(divided.output, outcome(single.output))
    before, after = load_file(start.shared["model_name_or_path"] / "model.safetensors"), outcome(divided.output)[2]
    assert all(tensor.equal(before[name]) for name, tensor in after.items() if name.startswith("backbone."))
    assert not after["decode_heads.0.classifier.weight"].equal(before["decode_heads.0.classifier.weight"])


@pytest.mark.slow
def test_divided_weights_in_mixed_precision(start):
    """To the noise of bfloat16: FSDP2 casts whole blocks, one process the inputs of each operator."""
    options = {"mixed_precision": "bf16"}
    single, divided = start(processes=1, **options), start(environment=FSDP2, **options)
    assert single.wait() == 0 and divided.wait() == [0, 0], single.stderr + divided.stderr
    assert_divided(divided.output)
    (losses, _, weights), (wanted, _, expected) = outcome(divided.output), outcome(single.output)
    assert losses == pytest.approx(wanted, rel=1e-2)
    assert {name: x.dtype for name, x in weights.items()} == {name: x.dtype for name, x in expected.items()}
    before = load_file(start.shared["model_name_or_path"] / "model.safetensors")
    learned = torch.cat([(expected[name].float() - x.float()).flatten() for name, x in before.items()])
    wrong = torch.cat([(weights[name].float() - x.float()).flatten() for name, x in expected.items()])
    print("differs by", float(wrong.norm() / learned.norm()), "of what was learned")
    assert wrong.norm() < 0.5 * learned.norm()


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, FSDP2], ids=["ddp", "fsdp2"])
def test_killed_and_resumed_exactly(start, environment):
    options = {"environment": environment, "checkpointing_steps": 1, "max_train_steps": 8}
    whole = start(**options)
    assert whole.wait() == [0, 0], whole.stderr
    run = start(**options).until_step(4)
    run.kill()
    assert not (run.output / "model.safetensors").exists()
    again = start(run.output, resume_from_checkpoint="latest", **options)
    assert again.wait() == [0, 0], again.stderr
    assert "Resumed from" in again.stdout
    found, expected = outcome(run.output), outcome(whole.output)
    assert found[:2] == expected[:2]
    assert [name for name, x in expected[2].items() if not x.equal(found[2][name])] == []
    AutoModelForSemanticSegmentation.from_pretrained(run.output)


@pytest.mark.slow
def test_under_torchrun(start, tmp_path):
    single = start(processes=1)
    assert single.wait() == 0, single.stderr
    options = {**TRAINING, "per_device_train_batch_size": 2, "output_dir": tmp_path / "out"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WATCHED)]
        + words({**start.shared, **options}),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **FSDP2, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_divided(tmp_path / "out")
    assert_follows(tmp_path / "out", outcome(single.output))

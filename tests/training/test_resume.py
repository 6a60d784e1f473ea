"""A training that goes on with other options than it began with."""

import json

import pytest
import torch
from support.tiny_folders import make_model, make_scenes

import segzoo
from segzoo.errors import SegZooError


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """Trains a tiny model in a folder; returns the entries of the log."""
    folder = tmp_path_factory.mktemp("resume")
    data, model = make_scenes(folder / "data"), make_model(folder / "model")

    def go(output, **options):
        settings = {"crop_size": 32, "per_device_train_batch_size": 2, "max_train_steps": 2, "logging_steps": 1}
        settings |= {"max_eval_samples": 1, "dataloader_num_workers": 0, "use_cpu": True, "eval_steps": 1}
        settings |= {"memory_format": "contiguous", "mixed_precision": "no", "lr_scheduler_type": "poly"}
        segzoo.train(model, dataset_name=data, output_dir=output, **settings | options)
        return [json.loads(line) for line in (output / "training_log.jsonl").open()]

    return go


@pytest.fixture(scope="module")
def begun(go, tmp_path_factory):
    """The last checkpoint of a training of two steps."""
    go(tmp_path_factory.mktemp("begun"), learning_rate=1e-3, checkpointing_steps=None)
    return next(tmp_path_factory.getbasetemp().glob("begun*/step_2"))


@pytest.mark.filterwarnings("ignore:these settings differ")
def test_the_best_step_may_have_no_checkpoint_here(go, begun, tmp_path, capsys):
    options = {"max_train_steps": 3, "load_best_model_at_end": True}
    go(tmp_path / "out", resume_from_checkpoint=str(begun), **options)
    said = capsys.readouterr().out
    assert "was the best, but has no checkpoint in" in said and "the best is chosen from the steps after 2" in said
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_mean_iou"] >= 0
    assert (tmp_path / "out" / "step_3").is_dir()


@pytest.mark.filterwarnings("ignore:these settings differ")
def test_new_options_count_and_the_schedule_is_that_of_the_longer_training(go, begun, tmp_path):
    options = {"max_train_steps": 4, "resume_from_checkpoint": str(begun), "eval_steps": 0}
    log = go(tmp_path / "out", learning_rate=1e-4, weight_decay=0.3, adam_beta1=0.5, **options)
    rates = {entry["step"]: entry["learning_rate"] for entry in log if "loss" in entry}
    assert rates == pytest.approx({1: 1e-3, 2: 5e-4, 3: 5e-5, 4: 2.5e-5})
    state = torch.load(tmp_path / "out" / "step_4" / "optimizer.bin", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.0, 0.3}
    assert {(group["betas"][0], group["initial_lr"]) for group in state["param_groups"]} == {(0.5, 1e-4)}


def test_fewer_steps_than_were_taken(go, begun, tmp_path):
    """The later weights would be published as those of the shorter training."""
    message = r"step_2: holds the weights after step 2, and this training has 1 steps; .* begin anew in another"
    with pytest.raises(SegZooError, match=message):
        go(tmp_path / "out", max_train_steps=1, resume_from_checkpoint=str(begun))
    assert not (tmp_path / "out" / "model.safetensors").exists()

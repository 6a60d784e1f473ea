"""A training that goes on with other options than it began with."""

import json

import pytest
from support.tiny_folders import make_model, make_scenes

import segzoo


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
    """The checkpoint of a training of two steps, whose best step it is not certain to be."""
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
def test_a_longer_training_goes_on_at_the_rate_of_its_own_schedule(go, begun, tmp_path):
    """Two of four steps are taken: half of the learning rate is left, of this run's, and not of the finished one's."""
    entries = go(tmp_path / "out", resume_from_checkpoint=str(begun), max_train_steps=4, learning_rate=1e-5)
    assert [entry["learning_rate"] for entry in entries if entry["step"] > 2 and "loss" in entry] == [
        pytest.approx(1e-5 * 2 / 4),
        pytest.approx(1e-5 * 1 / 4),
    ]
    whole = go(tmp_path / "whole", max_train_steps=4, learning_rate=1e-5)
    rates = {entry["step"]: entry["learning_rate"] for entry in whole if "loss" in entry}
    assert {entry["step"]: entry["learning_rate"] for entry in entries if entry["step"] > 2 and "loss" in entry} == {
        step: rate for step, rate in rates.items() if step > 2
    }

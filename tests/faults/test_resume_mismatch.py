"""A training that goes on with other data or another optimizer than it began with."""

import shutil

from safetensors.torch import load_file


def test_other_data_are_named_and_another_optimizer_is_refused(start, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    once = {"no_do_eval": True, "dataset_name": data, "checkpointing_steps": 1, "max_train_steps": 1}
    run = start(**once)
    assert run.wait() == 0, run.stderr
    assert "evaluation" not in run.stdout and load_file(tmp_path / "out" / "model.safetensors"), "it trains alone"
    resumed = once | {"resume_from_checkpoint": "latest", "checkpointing_steps": None, "max_train_steps": 2}

    run = start(**resumed, optimizer="sgd")
    assert run.wait() == 1
    assert run.stderr.count("\n") == 1 and "step_1: does not fit" in run.stderr
    assert "it holds the state of AdamW, and this training has SGD" in run.stderr

    for folder in (data / "images" / "train", data / "annotations" / "train"):
        sorted(folder.iterdir())[0].unlink()
    run = start(**resumed)
    assert run.wait() == 0, run.stderr
    assert "differ from the resumed run's" in run.stderr
    assert "training pictures (10, now 9)" in run.stderr and "fingerprint of the training pictures (" in run.stderr
    assert "fingerprint of the evaluation" not in run.stderr and "data set (" not in run.stderr

"""A training ends with a checkpoint of its last step, from which a longer one goes on."""

import json

from segzoo.training.checkpoints import list_checkpoints


def names(folder):
    return [checkpoint.name for checkpoint in list_checkpoints(folder)]


def test_a_finished_training_is_prolonged(start, tmp_path):
    run = start()
    assert run.wait() == 0, run.stderr
    assert names(tmp_path / "out") == ["step_4"]
    longer = start(max_train_steps=6, resume_from_checkpoint="latest", save_total_limit=1)
    assert longer.wait() == 0, longer.stderr
    assert "after step 4." in longer.stdout and "step 4/" not in longer.stdout.partition("Resumed from")[2]
    assert names(tmp_path / "out") == ["step_6"]
    entries = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").open()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in entries if "eval_mean_iou" in entry] == [4, 6]

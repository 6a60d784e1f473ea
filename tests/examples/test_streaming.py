"""Trainings from a stream and from data with broken files, by the script in separate processes."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from support.script_process import ScriptRun

from segzoo.data import load_segmentation_dataset

TRAINING = {
    "crop_size": (32, 48),
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 5,  # ten batches; the ten pictures give five an epoch
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval_steps": 0,
    "checkpointing_steps": 3,
    "shuffle_buffer": 4,
}


@pytest.fixture(scope="module")
def shards(scenes, tmp_path_factory):
    """The scenes as parquet files, two of them to train on."""
    folder = tmp_path_factory.mktemp("stream") / "Straßen und Bäume"
    folder.mkdir()
    shutil.copy(scenes / "id2label.json", folder)
    tables = load_segmentation_dataset(scenes)
    for number in range(2):
        part = tables["train"].shard(2, number).select_columns(["image", "label"])
        part.to_parquet(folder / f"train-0000{number}-of-00002.parquet")
    tables["validation"].select_columns(["image", "label"]).to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def start(data, tiny, folder, **options):
    options = {"dataset_name": data, "model_name_or_path": tiny, **TRAINING, "output_dir": folder / "out", **options}
    return ScriptRun(options, folder / f"logs-{len(list(folder.iterdir()))}")


def outcome(folder):
    entries = [json.loads(line) for line in (folder / "out/training_log.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    return losses, load_file(folder / "out/model.safetensors")


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert [name for name, weight in found[1].items() if not weight.equal(expected[1][name])] == []


@pytest.fixture(scope="module")
def undisturbed(shards, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run = start(shards, tiny, folder, streaming=True)
    assert run.wait() == 0, run.stderr
    assert "a stream of pictures to train on, 5 to evaluate" in run.stdout
    losses, weights = outcome(folder)
    assert sorted(losses) == [1, 2, 3, 4, 5] and len(set(losses.values())) == 5
    return losses, weights


@pytest.mark.slow
def test_a_killed_streaming_training_goes_on_bit_for_bit(shards, tiny, tmp_path, undisturbed):
    run = start(shards, tiny, tmp_path, streaming=True, dataloader_num_workers=2).until_step(4)
    run.kill()
    again = start(shards, tiny, tmp_path, streaming=True, dataloader_num_workers=1, resume_from_checkpoint="latest")
    assert again.wait() == 0, again.stderr
    assert "after step 3." in again.stdout
    assert_same(outcome(tmp_path), undisturbed)


@pytest.fixture
def damaged(scenes, tmp_path):
    """The scenes with one picture to train on that is cut short; returns the folder and the file."""
    folder = tmp_path / "damaged"
    shutil.copytree(scenes, folder)
    file = sorted((folder / "images/train").iterdir())[7]
    file.write_bytes(file.read_bytes()[:200])
    return folder, file


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_pictures_stop_the_training_unless_some_are_put_up_with(damaged, tiny, tmp_path, streaming):
    data, file = damaged
    options = {"streaming": streaming or None, "dataloader_num_workers": 1}
    run = start(data, tiny, tmp_path, **options)
    assert run.wait() == 1
    assert run.stderr.strip().splitlines()[-1].count(file.name) >= 1 and "Traceback" not in run.stderr
    run = start(data, tiny, tmp_path, **options, max_corrupt=1, overwrite_output_dir=True)
    assert run.wait() == 0, run.stderr
    assert f"{file.name}: the image cannot be read" in run.stderr and "1 of at most 1" in run.stderr
    assert len(outcome(tmp_path)[0]) == 5

"""The Trainer form of the script: its scores, two processes, going on, and the faults of users."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from accelerate.state import AcceleratorState

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Every run chooses devices and precision anew, as a process of its own does."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def trainer_script():
    """The script as a module, to be run inside this process."""
    path = EXAMPLES / "run_semantic_segmentation_trainer.py"
    spec = importlib.util.spec_from_file_location("trainer_script_under_test", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def arguments(*flags, **options):
    words = {"crop_size": 32, "per_device_train_batch_size": 4, "max_steps": 2, "save_strategy": "no", **options}
    return [
        *(f"--{flag}" for flag in flags),
        *(str(word) for name, value in words.items() if value is not None for word in (f"--{name}", value)),
    ]


@pytest.fixture
def run(trainer_script, scenes, tiny, tmp_path, capsys):
    """Runs the script inside this process; its exit status and what it wrote."""

    def call(*flags, **options):
        usual = {"dataset_name": scenes, "model_name_or_path": tiny, "output_dir": tmp_path / "out", "use_cpu": True}
        status = trainer_script.main(arguments(*flags, **{**usual, **options}))
        return status, capsys.readouterr()

    return call


def results(folder):
    return json.loads((folder / "all_results.json").read_text())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_both_scripts_give_the_same_scores(script, run, scenes, tiny, tmp_path, precision):
    options = {
        "dataset_name": scenes,
        "model_name_or_path": tiny,
        "output_dir": tmp_path / "main",
        "crop_size": 32,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_train_steps": 6,
        "eval_steps": 0,
        "dataloader_num_workers": 0,
        "mixed_precision": precision,
    }
    assert script.main([str(word) for name, value in options.items() for word in (f"--{name}", value)]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    flags = ("do_eval", "bf16") if precision == "bf16" else ("do_eval",)
    status, printed = run(*flags, model_name_or_path=tmp_path / "main", output_dir=tmp_path / "scores")
    assert status == 0 and "all classes" in printed.out
    expected, found = results(tmp_path / "main"), results(tmp_path / "scores")
    assert found["eval_mean_iou"] == expected["eval_mean_iou"] > 0
    for name, value in expected.items():
        if name.startswith("eval_") and name in found and not name.endswith(("_second", "_seconds", "_runtime")):
            assert found[name] == value, name
    assert not (tmp_path / "scores" / "config.json").exists()


def test_the_other_script_scores_what_this_one_saved(script, run, scenes, tmp_path):
    assert run("do_train", "do_eval", learning_rate=1e-2, max_steps=6)[0] == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"dataset_name": scenes, "model_name_or_path": tmp_path / "out", "output_dir": tmp_path / "scores"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert script.main([*words, "--do_eval"]) == 0
    expected, found = results(tmp_path / "out"), results(tmp_path / "scores")
    scores = [name for name in expected if name.startswith(("eval_mean", "eval_iou", "eval_overall"))]
    assert len(scores) > 10 and {name: found[name] for name in scores} == {name: expected[name] for name in scores}


def test_what_a_training_leaves(run, tmp_path):
    status, printed = run("do_train", "do_eval", eval_strategy="epoch", num_train_epochs=1, max_steps=-1)
    assert status == 0
    out = tmp_path / "out"
    found = results(out)
    assert found["train_loss"] > 0 and 0 <= found["eval_mean_iou"] <= 1
    assert results(out) == json.loads((out / "train_results.json").read_text()) | json.loads(
        (out / "eval_results.json").read_text()
    )
    card = (out / "README.md").read_text()
    assert (
        f"{100 * found['eval_mean_iou']:.2f}" in card and "Synthetic data" in card and "| crop_size | 32 32 |" in card
    )
    assert str(tmp_path) not in card
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    assert AutoModelForSemanticSegmentation.from_pretrained(out).config.num_labels == 9
    assert AutoImageProcessor.from_pretrained(out).do_resize is False


def test_the_same_command_goes_on_from_the_last_whole_checkpoint(run, tmp_path):
    out = tmp_path / "out"
    assert run("do_train", save_strategy="steps", save_steps=1)[0] == 0
    (out / "checkpoint-9").mkdir()  # killed while it was written
    with pytest.warns(UserWarning, match="checkpoint-9 is not whole"):
        status, printed = run("do_train", save_strategy="steps", save_steps=1, max_steps=3)
    assert status == 0 and f"Training goes on from {out / 'checkpoint-2'}." in printed.out
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 3
    status, printed = run("do_train", "overwrite_output_dir", save_strategy="steps", max_steps=1, save_steps=1)
    assert status == 0 and [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]


def test_tensorboard_is_told_the_scores(run, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run("do_train", eval_strategy="steps", eval_steps=1, report_to="tensorboard", logging_steps=1)[0] == 0
    logged = {}
    for file in (tmp_path / "out").rglob("events.out.tfevents.*"):
        events = accumulators.EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            logged.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    for there, here in (("train/loss", "loss"), ("eval/mean_iou", "eval_mean_iou"), ("eval/iou_sky", "eval_iou_sky")):
        expected = {entry["step"]: entry[here] for entry in history if here in entry}
        assert len(expected) == 2 and logged[there] == pytest.approx(expected, rel=1e-6)


def test_an_access_token_is_not_saved(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "")
    assert run("do_train", max_steps=1, hub_token="hf_secret")[0] == 0
    assert os.environ["HF_TOKEN"] == "hf_secret"
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"hf_secret" in path.read_bytes()]


def test_a_file_of_settings_and_a_new_model(trainer_script, scenes, tmp_path, capsys):
    settings = {
        "dataset_name": str(scenes),
        "backbone": "resnet18",
        "head": "fcn",
        "head_channels": 8,
        "classes": "scenes",
        "output_dir": str(tmp_path / "out"),
        "do_train": True,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "crop_size": [32, 48],
        "use_cpu": True,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert trainer_script.main([str(tmp_path / "settings.json")]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 1


def test_two_processes(scenes, tiny, tmp_path, run):
    """They train together, and score every picture once: five are no multiple of two."""
    words = {"dataset_name": scenes, "model_name_or_path": tiny, "output_dir": tmp_path / "out"}
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port", "0"),
        EXAMPLES / "run_semantic_segmentation_trainer.py",
        *arguments("do_train", "do_eval", **{**words, "per_device_train_batch_size": 2, "logging_steps": 1}),
    ]
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("all classes") == 1
    together = results(tmp_path / "out")
    assert "| processes | 2 |" in (tmp_path / "out" / "README.md").read_text()
    assert run("do_eval", model_name_or_path=tmp_path / "out", output_dir=tmp_path / "alone")[0] == 0
    alone = results(tmp_path / "alone")
    scores = [name for name in alone if name.startswith(("eval_mean", "eval_iou", "eval_accuracy", "eval_overall"))]
    assert len(scores) > 10 and {name: together[name] for name in scores} == {name: alone[name] for name in scores}


@pytest.fixture
def fail(run):
    """Runs the script, which must end with exit status 1 and one line; returns the line."""

    def call(*flags, **options):
        status, printed = run(*flags, **options)
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert status == 1 and len(lines) == 1, printed.err
        return lines[0]

    return call


def test_nothing_to_do(fail):
    assert "give --do_train, --do_eval or both" in fail()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset_name": "/no/such/folder"}, "There is no folder or file /no/such/folder"),
        ({"model_name_or_path": "./no/model"}, "cannot load ./no/model"),
        ({"metric_for_best_model": "loss"}, "--metric_for_best_model loss: evaluation has no such score"),
        ({"resume_from_checkpoint": "latest"}, "--resume_from_checkpoint latest: there is no whole checkpoint in"),
        ({"resume_from_checkpoint": "/tmp"}, "--resume_from_checkpoint /tmp: is no whole checkpoint"),
        ({"per_device_train_batch_size": 64}, "fewer than one batch of 64"),
        ({"backbone": "resnet18"}, "give either --backbone for a new model or --model_name_or_path"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, "requires the save and eval strategy to match"),
        ({"crop_size": 0}, "--crop_size is [0]"),
    ],
)
def test_settings_that_make_no_sense(fail, options, message, tmp_path):
    assert message in fail("do_train", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made(fail, tmp_path):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file' / 'out'}: Not a directory" in fail("do_train", output_dir=tmp_path / "file" / "out")


def test_nothing_to_push(fail):
    assert "--push_to_hub uploads what has been trained; give --do_train" in fail("do_eval", "push_to_hub")


def test_an_output_folder_that_is_not_empty(fail, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no checkpoint; choose another folder" in fail("do_train")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_bad_label_ids(fail, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    for file in (tmp_path / "data" / "annotations" / "train").glob("*.png"):
        PIL.Image.fromarray(np.full((48, 64), 9, dtype=np.uint8)).save(file)
    assert "label ids outside 0..8" in fail("do_train", dataset_name=tmp_path / "data")


def test_an_unknown_option_is_named_with_the_nearest(trainer_script, capsys):
    with pytest.raises(SystemExit) as stop:
        trainer_script.main(["--output_dir", "out", "--learning_rte=3"])
    assert stop.value.code == 2
    assert "there is no flag --learning_rte; did you mean --learning_rate?" in capsys.readouterr().err

"""Trainings that are stopped in every way resume with the same bits as if they had not been; in real processes."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import on_a_small_disk
from support.script_process import ScriptRun, words
from support.small_disk import can_mount

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.data.scenes import SCENES
from segzoo.heads import EMAHeadConfig
from segzoo.training.checkpoints import list_checkpoints
from segzoo.training.folder import LOG

TRAINING = {
    "crop_size": (32, 48),
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 8,
    "learning_rate": 1e-3,
    "num_warmup_steps": 2,
    "max_grad_norm": 1,
    "ema_decay": 0.8,
    "logging_steps": 1,
    "eval_steps": 4,
    "checkpointing_steps": 2,
    "dataloader_num_workers": 1,
}
STOPPED = 75
ON_A_SMALL_DISK = Path(on_a_small_disk.__file__)
small_disk = pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")


@pytest.fixture(scope="module")
def start(scenes, tiny, tmp_path_factory):
    """Starts the script in a folder of its own, or in one that is given."""

    def start(output=None, **options):
        folder = tmp_path_factory.mktemp("run") if output is None else output.parent
        processes = options.pop("processes", 1)
        options = {"dataset_name": scenes, "model_name_or_path": tiny, **TRAINING, **options}
        logs = folder / f"logs-{len(list(folder.iterdir()))}"
        run = ScriptRun({**options, "output_dir": folder / "out"}, logs, processes=processes)
        run.output = folder / "out"
        return run

    return start


@pytest.fixture(scope="module")
def uninterrupted(start):
    """What a training gives that nobody disturbs."""
    run = start()
    assert run.wait() == 0, run.stderr
    return outcome(run.output)


def outcome(output):
    """Losses by step, scores by step, weights, and the last checkpoint's weights."""
    entries = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    scores = {entry["step"]: entry["eval_mean_iou"] for entry in entries if "eval_mean_iou" in entry}
    last = list_checkpoints(output)[-1]
    return losses, scores, load_file(output / "model.safetensors"), load_file(last / "model.safetensors")


def assert_same(output, expected):
    losses, scores, weights, last = outcome(output)
    assert losses == expected[0]
    assert scores == expected[1]
    for found, wanted in ((weights, expected[2]), (last, expected[3])):
        assert found.keys() == wanted.keys()
        assert [name for name in found if not found[name].equal(wanted[name])] == []


def finish(start, run, resumed_after=None, **options):
    """Go on in the folder of a stopped run, to the end."""
    again = start(run.output, resume_from_checkpoint="latest", **options)
    codes = again.wait()
    assert codes in (0, [0, 0]), again.stderr
    if resumed_after is not None:
        assert f"after step {resumed_after}." in again.stdout
    assert not [path.name for path in run.output.iterdir() if path.name.startswith(".")]
    return again


def hidden(output, step):
    return list(output.glob(f".step_{step}.partial-*"))


def test_the_uninterrupted_training_is_worth_comparing_with(uninterrupted):
    losses, scores, weights, last = uninterrupted
    assert list(losses) == list(range(1, 9)) and list(scores) == [4, 8] and len(set(losses.values())) == 8
    assert any(not weights[name].equal(last[name]) for name in weights), "the saved model is the average"


def test_killed_before_between_and_while_writing_checkpoints(start, uninterrupted):
    run = start().until_step(1)
    run.kill()
    again = start(run.output, resume_from_checkpoint="latest")
    again.until(lambda: [folder for folder in hidden(run.output, 4) if (folder / "model.safetensors").exists()])
    again.kill()
    assert not whole(run.output, 4), "the kill came too late to mean anything"
    third = start(run.output, resume_from_checkpoint="latest").until_step(7)
    third.kill()
    assert not whole(run.output, 8), "the kill came too late to mean anything"
    finish(start, run, resumed_after=6)
    assert_same(run.output, uninterrupted)


def test_killed_between_the_last_checkpoint_and_its_evaluation(start, uninterrupted):
    run = start()
    run.until(lambda: whole(run.output, 8))
    run.kill()
    assert not (run.output / LOG).exists(), "the kill came too late to mean anything"
    finish(start, run, resumed_after=8)
    assert_same(run.output, uninterrupted)


@pytest.fixture(scope="module")
def many(scenes, tmp_path_factory):
    """Scenes of which so many are to be evaluated that it lasts some seconds."""
    folder = shutil.copytree(scenes, tmp_path_factory.mktemp("many") / "scenes")
    for path in [path for path in folder.rglob("validation/*") if path.is_file()]:
        for number in range(200):
            (path.parent / f"{path.stem}-{number}{path.suffix}").hardlink_to(path)
    return folder


@pytest.fixture(scope="module")
def start_many(start, many):
    """Starts a training with two long evaluations, after steps 2 and 4."""
    options = {"dataset_name": many, "max_train_steps": 4, "eval_steps": 2, "checkpointing_steps": None}
    return lambda output=None, **changes: start(output, **options | changes)


@pytest.fixture(scope="module")
def many_uninterrupted(start_many):
    run = start_many()
    assert run.wait() == 0, run.stderr
    return outcome(run.output)


@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_in_an_evaluation_ends_it_at_once(start_many, many_uninterrupted, step):
    """A scheduler does not wait as long as an evaluation lasts."""
    run = start_many().until_step(step)
    time.sleep(0.3)
    run.signal(signal.SIGTERM)
    assert run.wait() == STOPPED, run.stderr
    assert f"stopped after step {step}" in run.stderr
    assert f"evaluation after step {step}:" not in run.stdout, "the signal came too late to mean anything"
    assert [folder.name for folder in list_checkpoints(run.output)] == [f"step_{step}"]
    again = finish(start_many, run, resumed_after=step)
    assert again.stdout.count(f"evaluation after step {step}:") == 1
    assert_same(run.output, many_uninterrupted)


def test_killed_in_an_evaluation(start_many, many_uninterrupted):
    """The checkpoint that was due with it is there already."""
    run = start_many(checkpointing_steps=2)
    run.until(lambda: whole(run.output, 2))
    run.kill()
    assert "evaluation after step 2:" not in run.stdout, "the kill came too late to mean anything"
    finish(start_many, run, resumed_after=2)
    assert_same(run.output, many_uninterrupted)


def test_scores_of_a_checkpoint_are_not_calculated_again(start):
    run = start(checkpointing_steps=4).until_step(5)
    run.kill()
    again = finish(start, run, resumed_after=4, checkpointing_steps=4)
    assert "evaluation after step 4:" in run.stdout and "evaluation after step 4:" not in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("file", ["", "random_states_0.pkl", "custom_checkpoint_1.pkl", "checkpoint.json"])
def test_killed_while_a_checkpoint_is_written(start, uninterrupted, file):
    run = start()
    run.until(lambda: [folder for folder in hidden(run.output, 4) if (folder / file).exists()] or whole(run.output, 4))
    run.kill()
    finish(start, run, resumed_after=4 if whole(run.output, 4) else 2)
    assert_same(run.output, uninterrupted)


def whole(output, step):
    return (output / f"step_{step}" / "checkpoint.json").exists()


@pytest.mark.parametrize(
    ("name", "with_children"),
    [
        ("SIGTERM", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("SIGTERM", False), ("SIGUSR1", True))),
    ],
)
def test_a_stop_that_is_asked_for_saves_and_has_its_own_exit_code(start, uninterrupted, name, with_children):
    """Whether the scheduler signals the training alone or every process of the job."""
    run = start(checkpointing_steps=None).until_step(3)
    run.signal(getattr(signal, name), with_children=with_children)
    assert run.wait() == STOPPED, run.stderr
    assert "Traceback" not in run.stderr and "--resume_from_checkpoint latest" in run.stdout + run.stderr
    (saved,) = list_checkpoints(run.output)
    assert not (run.output / "config.json").exists()
    finish(start, run, resumed_after=saved.name[5:], checkpointing_steps=2)
    assert_same(run.output, uninterrupted)


@pytest.mark.slow
def test_mean_losses_of_several_steps_reach_over_a_stop(start):
    """Log lines after steps 3 and 6; the stop comes in between."""
    options = {"logging_steps": 3, "checkpointing_steps": 6, "eval_steps": 0, "max_train_steps": 6}
    undisturbed = start(**options)
    assert undisturbed.wait() == 0, undisturbed.stderr
    run = start(**options)
    run.until_step(3).signal(signal.SIGTERM)
    assert run.wait() == STOPPED, run.stderr
    finish(start, run, **options)
    assert_same(run.output, outcome(undisturbed.output))


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_again_and_again_gets_to_its_end(start, uninterrupted):
    run = start()
    for _ in range(12):
        time.sleep(0.2)
        run.until(lambda run=run: "step " in run.stdout).signal(signal.SIGTERM)
        code = run.wait()
        if code != STOPPED:
            break
        run = start(run.output, resume_from_checkpoint="latest")
    finish(start, run)
    assert_same(run.output, uninterrupted)


def test_the_limit_on_checkpoints_spares_the_best(start):
    run = start(eval_steps=2, save_total_limit=1, learning_rate=0.03, ema_decay=None)
    assert run.wait() == 0, run.stderr
    _, scores, _, _ = outcome(run.output)
    best = max(scores, key=lambda step: (scores[step], -step))
    ties = {step for step in scores if scores[step] == scores[best]}
    left = {int(folder.name[5:]) for folder in list_checkpoints(run.output)}
    assert 8 in left and left & ties and len(left) <= 2


@pytest.mark.slow
def test_the_limit_on_checkpoints_spares_the_last_whole_one(start, uninterrupted):
    """The newest ones rot while the training is away."""
    run = start()
    run.until_step(7)
    run.kill()
    for folder in list_checkpoints(run.output)[1:]:
        (folder / "optimizer.bin").write_bytes(b"half")
    again = start(run.output, resume_from_checkpoint="latest", save_total_limit=1).until_step(3)
    again.kill()
    assert (run.output / "step_2").is_dir()
    assert "skipped a damaged checkpoint" in again.stderr and "step_6" in again.stderr
    finish(start, run, save_total_limit=1)
    assert_same(run.output, uninterrupted)
    assert [folder.name for folder in list_checkpoints(run.output)] in (["step_8"], ["step_4", "step_8"])


TWO = {"processes": 2, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def two_uninterrupted(start):
    run = start(**TWO)
    assert run.wait() == [0, 0], run.stderr
    return outcome(run.output)


@small_disk
def test_a_full_disk_and_on_after_making_room(uninterrupted, scenes, tiny, tmp_path):
    """The disk holds one checkpoint, not two."""
    (tmp_path / "disk").mkdir()
    options = words({"dataset_name": scenes, "model_name_or_path": tiny, **TRAINING})
    run = ScriptRun([tmp_path / "disk", tmp_path / "out", *options], tmp_path / "logs", script=ON_A_SMALL_DISK)
    assert run.wait() == 0, run.stderr
    assert "ended with 1 and left ['step_2']" in run.stdout
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ") and "step_4: could not be written (No space left on device)" in line
    assert "--resume_from_checkpoint latest" in line and "after step 2." in run.stdout
    assert_same(tmp_path / "out", uninterrupted)


@pytest.mark.slow
def test_two_processes_killed(start, two_uninterrupted):
    run = start(**TWO)
    run.until(lambda: hidden(run.output, 4) or whole(run.output, 4))
    run.kill()
    finish(start, run, **TWO)
    assert_same(run.output, two_uninterrupted)


def test_two_processes_of_which_one_is_asked_to_stop(start, two_uninterrupted):
    run = start(**TWO, checkpointing_steps=None).until_step(3)
    run.processes[1].terminate()
    assert run.wait() == [STOPPED, STOPPED], run.stderr
    assert (run.stdout + run.stderr).count("--resume_from_checkpoint latest") == 1
    finish(start, run, **TWO)
    assert_same(run.output, two_uninterrupted)


@pytest.mark.slow
def test_going_on_with_another_number_of_processes(start):
    run = start(gradient_accumulation_steps=2).until_step(5)
    run.kill()
    again = finish(start, run, processes=2, gradient_accumulation_steps=1)
    assert "written by 1 process" in again.stderr and again.stdout.count("step 8/8") == 1


def test_a_second_training_in_the_same_folder(start, uninterrupted):
    """It is refused, also with --overwrite_output_dir, and does no harm to the first."""
    run = start().until_step(2)
    for options in ({"resume_from_checkpoint": "latest"}, {"overwrite_output_dir": True}):
        second = start(run.output, **options)
        assert second.wait() == 1
        assert "another training is writing there" in second.stderr and second.stderr.count("\n") == 1
    assert run.wait() == 0, run.stderr
    assert_same(run.output, uninterrupted)


def test_a_stream_goes_on_where_it_stopped(start):
    options = {"streaming": True, "shuffle_buffer": 4, "eval_steps": 8}
    undisturbed = start(**options)
    assert undisturbed.wait() == 0, undisturbed.stderr
    run = start(**options).until_step(5)
    run.kill()
    finish(start, run, **options)
    assert_same(run.output, outcome(undisturbed.output))


@pytest.mark.slow
def test_killed_at_random_moments(start, uninterrupted):
    """Ten trainings, each killed until it has come to its end."""
    generator = random.Random(0)
    for _ in range(10):
        run, kills = start(), 0
        while True:
            end = time.monotonic() + generator.uniform(0.3, 2.0)
            while time.monotonic() < end and run.processes[0].is_alive():
                time.sleep(0.001)
            if not run.processes[0].is_alive():
                break
            run.kill()
            kills += 1
            if (run.output / LOG).exists():
                break
            run = start(run.output, resume_from_checkpoint="latest")
        if not (run.output / LOG).exists():  # the model is saved before it
            finish(start, run)
        assert_same(run.output, uninterrupted)
        shutil.rmtree(run.output)


@pytest.mark.slow
def test_bases_that_training_moves_go_on_from_a_checkpoint(script, scenes, tmp_path):
    """EMANet's, which are no parameters; inside this process."""
    head = EMAHeadConfig(channels=8, ema_channels=16, num_bases=4)
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), head, id2label=SCENES.id2label)
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    SegZooImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    options = TRAINING | {"dataloader_num_workers": 0, "max_train_steps": 4, "eval_steps": 0, "ema_decay": None}
    options |= {"dataset_name": scenes, "model_name_or_path": tmp_path / "model"}
    options = {name: value for name, value in options.items() if value is not None}
    assert script.main(words({**options, "output_dir": tmp_path / "whole"})) == 0
    shutil.copytree(tmp_path / "whole" / "step_2", tmp_path / "resumed" / "step_2")
    resumed = {**options, "output_dir": tmp_path / "resumed", "resume_from_checkpoint": "latest"}
    assert script.main(words(resumed)) == 0
    places = (tmp_path / "model", tmp_path / "whole" / "step_2", tmp_path / "whole", tmp_path / "resumed")
    first, half, whole, again = (load_file(place / "model.safetensors") for place in places)
    assert [name for name in whole if not whole[name].equal(again[name])] == []
    bases, frozen = "decode_heads.0.attention.bases", "decode_heads.0.middle_conv.weight"
    assert len({state[bases].sum().item() for state in (first, half, whole)}) == 3
    assert whole[frozen].equal(first[frozen])

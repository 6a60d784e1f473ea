"""The numbers that trackers are given are read back from their own files."""

import json
import sqlite3
import struct

import pytest
from accelerate.state import AcceleratorState

from segzoo.training.trackers import tracker_problem

OPTIONS = {
    "crop_size": 32,
    "per_device_train_batch_size": 4,
    "max_train_steps": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval_steps": 2,
    "dataloader_num_workers": 0,
}


@pytest.fixture
def track(script, scenes, tiny, tmp_path):
    """Trains a few steps inside this process with a tracker; returns the script's exit status."""
    AcceleratorState._reset_state(reset_partial_state=True)

    def run(tracker):
        options = {
            **OPTIONS,
            "dataset_name": scenes,
            "model_name_or_path": tiny,
            "output_dir": tmp_path / "out",
            "report_to": tracker,
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        return script.main([*words, "--with_tracking"])

    return run


def assert_holds_the_history(logged, folder):
    """``logged``: numbers by name and step."""
    history = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    scores = {entry["step"]: entry["eval_mean_iou"] for entry in history if "eval_mean_iou" in entry}
    assert len(losses) == 4 and len(scores) == 2
    assert logged["train_loss"] == pytest.approx(losses, rel=1e-6)
    assert logged["eval_mean_iou"] == pytest.approx(scores, rel=1e-6)
    rates = {entry["step"]: entry["learning_rate"] for entry in history if "loss" in entry}
    assert logged["learning_rate"] == pytest.approx(rates, rel=1e-6)


def test_tensorboard(track, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert track("tensorboard") == 0
    logged = {}
    for file in (tmp_path / "out").rglob("events.out.tfevents.*"):
        events = accumulators.EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            logged[name] = {event.step: event.value for event in events.Scalars(name)}
    assert_holds_the_history(logged, tmp_path / "out")


def wandb_records(file):
    """Records of an offline run: LevelDB's log format, after seven bytes, around protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        rest = 32768 - position % 32768  # no header is split over two blocks
        if rest < 7:
            position += rest
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_wandb(track, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.chdir(tmp_path)
    assert track("wandb") == 0
    (file,) = tmp_path.rglob("run-*.wandb")
    logged = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            step = record.history.step.num
            for name, value in items.items():
                logged.setdefault(name, {})[step] = value
    assert_holds_the_history(logged, tmp_path / "out")
    assert (tmp_path / "out" / "wandb").is_dir() and not (tmp_path / "wandb").exists()


def test_trackio(run_script, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    options = {f"--{name}": value for name, value in OPTIONS.items()}
    result = run_script(tmp_path / "out", {**options, "--report_to": "trackio"}, ["--with_tracking"])
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "trackio").glob("*.db")
    logged = {}
    for step, metrics in sqlite3.connect(file).execute("SELECT step, metrics FROM metrics"):
        for name, value in json.loads(metrics).items():
            logged.setdefault(name, {})[step] = value
    assert_holds_the_history(logged, tmp_path / "out")


def assert_says_how_to_log_in(text):
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "--report_to wandb: No API key configured" in lines[0]
    assert "WANDB_MODE=offline" in lines[0]


def test_a_tracker_that_does_not_start(track, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    assert track("wandb") == 1
    assert_says_how_to_log_in(capsys.readouterr().err)


@pytest.mark.slow
def test_nobody_is_logged_in_at_wandb(run_script, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the key would be
    result = run_script(tmp_path / "out", {"--report_to": "wandb"}, ["--with_tracking"])
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert_says_how_to_log_in(result.stderr)


def test_all_trackers_where_there_are_none(track, tmp_path, monkeypatch):
    """The README of transformers' examples has --with_tracking; it must not need anything."""
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    assert track("all") == 0
    assert (tmp_path / "out" / "config.json").is_file()


def test_errors_of_others_are_not_put_down_to_a_tracker():
    assert tracker_problem(ValueError("wandb")) is None

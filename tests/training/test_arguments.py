from accelerate.tracking import LoggerType

from segzoo.training import build_parser, check_arguments

# Every option of transformers' run_semantic_segmentation_no_trainer.py that decides something.
UPSTREAM = {
    "model_name_or_path": "nvidia/mit-b0",
    "dataset_name": "segments/sidewalk-semantic",
    "train_val_split": 0.15,
    "cache_dir": "cache",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "num_train_epochs": 3.0,
    "max_train_steps": 100,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "polynomial",
    "num_warmup_steps": 0,
    "output_dir": "out",
    "seed": 1337,
    "hub_model_id": "me/model",
    "hub_token": "secret",
    "checkpointing_steps": "epoch",
    "resume_from_checkpoint": "out/step_5",
    "report_to": "all",
}
FLAGS = ("trust_remote_code", "do_reduce_labels", "with_tracking", "push_to_hub")


def test_the_command_line_of_the_upstream_script_is_understood():
    words = [word for name, value in UPSTREAM.items() for word in (f"--{name}", str(value))]
    args = build_parser().parse_args([*words, *(f"--{name}" for name in FLAGS)])
    check_arguments(args)
    assert {name: getattr(args, name) for name in UPSTREAM} == UPSTREAM
    assert all(getattr(args, name) is True for name in FLAGS)


def test_the_older_name_of_the_label_rule():
    required = ["--dataset_name", "x", "--output_dir", "y"]
    assert build_parser().parse_args([*required, "--reduce_labels"]).do_reduce_labels is True
    assert build_parser().parse_args([*required, "--no-do_reduce_labels"]).do_reduce_labels is False
    assert build_parser().parse_args(required).do_reduce_labels is None


def test_an_installed_tracker_is_accepted_by_name(monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    words = ["--dataset_name", "x", "--output_dir", "y", "--with_tracking", "--report_to", "tensorboard"]
    check_arguments(build_parser().parse_args(words))

import json

import pytest
from accelerate.tracking import LoggerType

from segzoo.errors import SegZooError
from segzoo.training.arguments import parse_arguments
from segzoo.training.options import RunOptions, settings_for_card
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.trainer_names import notes_on_arguments

# Every option of transformers' run_semantic_segmentation_no_trainer.py that decides something.
RUN = {
    "model_name_or_path": "nvidia/mit-b0",
    "dataset_name": "segments/sidewalk-semantic",
    "train_val_split": 0.15,
    "cache_dir": "cache",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "output_dir": "out",
    "seed": 1337,
    "hub_model_id": "me/model",
    "hub_token": "secret",
    "checkpointing_steps": "epoch",
    "resume_from_checkpoint": "out/step_5",
}
RECIPE = {
    "learning_rate": 5e-5,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-7,
    "num_train_epochs": 3.0,
    "max_train_steps": 100,
    "lr_scheduler_type": "polynomial",
    "num_warmup_steps": 7,
}
FLAGS = ("trust_remote_code", "do_reduce_labels", "with_tracking", "push_to_hub")
OUTPUT = ["--output_dir", "out"]


def test_the_command_line_of_the_upstream_script_is_understood():
    words = [word for name, value in (RUN | RECIPE).items() for word in (f"--{name}", str(value))]
    args, recipe = parse_arguments([*words, "--report_to", "all", *(f"--{name}" for name in FLAGS)])
    assert {name: getattr(args, name) for name in RUN} == RUN
    assert {name: getattr(recipe, name) for name in RECIPE} == RECIPE
    assert all(getattr(args, name) is True for name in FLAGS) and args.report_to == ("all",)


def test_without_anything_the_defaults_are_upstreams():
    args, recipe = parse_arguments(OUTPUT)
    assert (args.model_name_or_path, args.dataset_name) == ("nvidia/mit-b0", "segments/sidewalk-semantic")
    assert args.do_train and args.do_eval and not args.with_tracking
    assert (recipe.learning_rate, recipe.num_train_epochs, recipe.max_train_steps) == (5e-5, 3.0, None)
    assert args.eval_steps == "epoch" and args.checkpointing_steps is None


def test_the_flags_of_the_trainer_script():
    words = (
        "--do_train --do_eval --remove_unused_columns False --max_steps 10000 --warmup_steps 50 --bf16 --save_steps 200 "
        "--eval_steps 100 --eval_strategy steps --save_strategy steps --logging_strategy steps --logging_steps 100 "
        "--per_device_train_batch_size 4 --push_to_hub --push_to_hub_model_id mine --optim adamw_torch_fused --seed 1337"
    )
    args, recipe = parse_arguments([*OUTPUT, *words.split()])
    assert (recipe.max_train_steps, recipe.num_warmup_steps, recipe.mixed_precision) == (10000, 50, "bf16")
    assert (args.checkpointing_steps, args.eval_steps, args.logging_steps) == (200, 100, 100)
    assert args.hub_model_id == "mine" and recipe.optimizer == "adamw"
    assert [note.split()[1] for note in notes_on_arguments(args)] == ["--remove_unused_columns"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--eval_strategy epoch --save_strategy epoch", ("epoch", "epoch")),
        ("--eval_strategy no --save_strategy no", (0, 0)),
        ("--save_strategy no --checkpointing_steps 7", ("epoch", 7)),
        ("--evaluation_strategy steps --logging_steps 7 --save_strategy steps", (7, 500)),
        ("--eval_steps 3 --save_steps 4", (3, 4)),
    ],
)
def test_strategies(words, expected):
    args, _ = parse_arguments([*OUTPUT, *words.split()])
    assert (args.eval_steps, args.checkpointing_steps) == expected


def test_one_part_alone():
    assert [
        (a.do_train, a.do_eval) for a, _ in (parse_arguments([*OUTPUT, f"--do_{w}"]) for w in ("train", "eval"))
    ] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--no_do_eval", (True, False)),
        ("--do_eval False", (True, False)),
        ("--no_do_train", (False, True)),
        ("--do_train --no_do_eval", (True, False)),
        ("--do_train --do_eval", (True, True)),
        ("--do_train --eval_strategy epoch", (True, True)),
        ("--do_train --eval_strategy steps", (True, True)),
        ("--do_train --eval_steps 20", (True, True)),
        ("--do_train --eval_steps 0", (True, False)),
        ("--do_train --eval_strategy no", (True, False)),
        ("--do_train --eval_strategy epoch --no_do_eval", (True, False)),
        ("--do_eval --eval_strategy epoch", (False, True)),
    ],
)
def test_one_part_left_out(words, expected):
    options, _ = parse_arguments([*OUTPUT, *words.split()])
    assert (options.do_train, options.do_eval) == expected


def test_weights_are_verified_unless_asked_not_to():
    assert parse_arguments(OUTPUT)[0].verify and not parse_arguments([*OUTPUT, "--no_verify"])[0].verify


def test_no_tracker():
    """The word of transformers, however it is given."""
    for words in ("--report_to none", "--report_to None", "--with_tracking --report_to none"):
        options, _ = parse_arguments([*OUTPUT, *words.split()])
        assert not options.with_tracking and options.report_to == ("none",)
    for given in ("none", ["none"], ("None",)):
        options = RunOptions(output_dir="out", with_tracking=True, report_to=given)
        assert not options.with_tracking and not RunOptions(**options.to_dict()).with_tracking
    assert RunOptions(output_dir="out", with_tracking=True).report_to == ("all",)


def test_a_warm_up_below_one_is_a_share():
    args, recipe = parse_arguments([*OUTPUT, "--warmup_ratio", "0.1"])
    assert args.warmup_ratio == 0.1 and recipe.num_warmup_steps == 0


def test_a_share_of_warm_up_replaces_that_of_the_recipe():
    row = ["--recipe", "upernet_internimage_t_512_160k_ade20k", "--max_train_steps", "100"]
    with pytest.raises(SegZooError, match="num_warmup_steps 1500 does not fit into max_train_steps 100"):
        parse_arguments([*OUTPUT, *row])
    args, recipe = parse_arguments([*OUTPUT, *row, "--warmup_ratio", "0.1"])
    assert args.warmup_ratio == 0.1 and recipe.num_warmup_steps == 0


def test_the_command_line_overrides_the_file_and_the_file_the_row(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: 3e-3\nweight_decay: 0.2\ncrop_size: 96\n")
    row = ["--recipe", "upernet_internimage_t_512_160k_ade20k"]
    _, published = parse_arguments([*OUTPUT, *row])
    assert published.learning_rate == 6e-5 and published.max_train_steps == 160000
    _, recipe = parse_arguments(
        [*OUTPUT, *row, "--recipe_file", str(file), "--weight-decay", "0.3", "--crop_size", "64", "32"]
    )
    assert (recipe.learning_rate, recipe.weight_decay, recipe.crop_size) == (3e-3, 0.3, (64, 32))
    assert recipe.num_warmup_steps == published.num_warmup_steps
    written = tmp_path / "recipe.json"
    recipe.write_recipe(written)
    assert json.loads(written.read_text())["weight_decay"] == 0.3
    assert parse_arguments([*OUTPUT, "--recipe_file", str(written)])[1] == recipe


def test_epochs_that_are_asked_for_win_over_a_recipes_steps():
    row = ["--recipe", "upernet_internimage_t_512_160k_ade20k"]
    assert parse_arguments([*OUTPUT, *row, "--num_train_epochs", "2"])[1].max_train_steps is None


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--learning_rat", "1"], "--learning_rate"),
        (["--per_device_batch_size", "1"], "--per_device_train_batch_size"),
        (["--weigth_decay=1"], "--weight_decay"),
        (["--xyzzy"], "--help"),
        (["lost"], "--output_dir lost"),
    ],
)
def test_an_unknown_flag_names_the_nearest(words, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments([*OUTPUT, *words])
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train_val_split 1.5", "--train_val_split is 1.5"),
        ("--logging_steps 0", "--logging_steps is 0"),
        ("--eval_steps often", "--eval_steps is 'often'"),
        ("--bf16 --fp16", "exclude each other"),
        ("--metric_for_best_model loss", "mean_iou"),
        ("--streaming", "--max_train_steps"),
        ("--streaming --max_train_steps 5", "--eval_steps"),
        ("--load_best_model_at_end --do_train", "--do_eval"),
        ("--learning_rate -1", "learning_rate is -1"),
        ("--weight_decay 1e12", r"weight_decay is 1e\+12; it must be at least 0 and at most 1000000000"),
        ("--no_do_train --no_do_eval", "--do_train and --do_eval are both off"),
        ("--num_labels 1000000000000", "--num_labels is 1000000000000; it must be at least 1 and at most 65536"),
        ("--num_labels -3", "--num_labels is -3"),
        ("--seed -1", "--seed is -1"),
        ("--dataloader_num_workers 1000000", "--dataloader_num_workers is 1000000"),
        ("--per_device_train_batch_size 1000000000000", "--per_device_train_batch_size is 1000000000000"),
        ("--max_empty_steps 0", "--max_empty_steps is 0"),
        ("--crop_size 1000000000000", "crop_size is 1000000000000"),
        ("--max_train_steps 1000000000000", "max_train_steps is 1000000000000"),
        ("--eval_scales nan", "eval_scales is 'nan'"),
        ("--eval_scales 1e6", "eval_scales is 1000000"),
        ("--class_weights 1 nan", "class_weights is 'nan'"),
        ("--warmup_ratio -5", "--warmup_steps is -5"),
        ("--scale_range 2 1", "scale_range"),
        ("--crop_size 1 2 3", "crop_size has 3 values"),
        ("--recipe upernet_internimage_t_512_160k_ade20", "upernet_internimage_t_512_160k_ade20k"),
    ],
)
def test_values_that_make_no_sense(words, message):
    with pytest.raises(SegZooError, match=message):
        parse_arguments([*OUTPUT, *words.split()])


def test_the_output_folder_is_needed():
    with pytest.raises(SegZooError, match="--output_dir is missing"):
        parse_arguments([])


def test_the_older_name_of_the_label_rule_and_negations():
    assert parse_arguments([*OUTPUT, "--reduce_labels"])[0].do_reduce_labels is True
    assert parse_arguments([*OUTPUT, "--no-do_reduce_labels"])[0].do_reduce_labels is False
    assert parse_arguments([*OUTPUT, "--do_reduce_labels", "False"])[0].do_reduce_labels is False
    assert parse_arguments(OUTPUT)[0].do_reduce_labels is None
    assert parse_arguments([*OUTPUT, "--no_photometric_distortion"])[1].photometric_distortion is False
    assert parse_arguments([*OUTPUT, "--max_grad_norm", "none"])[1].max_grad_norm is None


def test_an_installed_tracker_is_accepted_by_name(monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    args, _ = parse_arguments([*OUTPUT, "--report_to", "tensorboard"])
    assert args.with_tracking and args.report_to == ("tensorboard",)
    with pytest.raises(SegZooError, match="--report_to wandb"):
        parse_arguments([*OUTPUT, "--with_tracking", "--report_to", "wandb"])
    assert not parse_arguments([*OUTPUT, "--report_to", "none"])[0].with_tracking


def test_the_card_keeps_tokens_and_local_paths_to_itself():
    words = ["--model_name_or_path", "/home/me/model", "--hub_token", "secret"]
    args, _ = parse_arguments([*OUTPUT, *words])
    settings = settings_for_card(args, 2, 100)
    assert "secret" not in str(settings) and "/home/me" not in str(settings)
    assert settings["processes"] == 2


def test_the_card_has_the_parts_of_a_new_model_alone():
    new, _ = parse_arguments([*OUTPUT, "--backbone", "resnet18", "--head_channels", "64"])
    settings = settings_for_card(new, 1, 1)
    assert (settings["head"], settings["head_channels"], settings["auxiliary_channels"]) == ("uper", 64, 0)
    old, _ = parse_arguments([*OUTPUT, "--model_name_or_path", "some/model"])
    assert not {"head", "head_channels", "auxiliary_channels", "random_backbone"} & settings_for_card(old, 1, 1).keys()


def test_a_file_of_transforms_becomes_a_field_of_the_recipe(tmp_path):
    (tmp_path / "aug.yaml").write_text("[RandomVerticalFlip]")
    words = ["--output_dir", "out", "--augmentation", str(tmp_path / "aug.yaml")]
    options, recipe = parse_arguments(words)
    assert recipe.pipeline == {"torchvision": ["RandomVerticalFlip"]}
    assert "augmentation" not in settings_for_card(options, 1, 1)
    with pytest.raises(SegZooError, match="takes the place of --flip_probability"):
        parse_arguments([*words, "--flip_probability", "0.2"])
    with pytest.raises(SegZooError, match="read with the command line"):
        options.check_recipe(Recipe())

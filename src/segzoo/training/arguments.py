"""The command line of `examples/run_semantic_segmentation.py`.

It takes what transformers' run_semantic_segmentation_no_trainer.py takes, the flags that its Trainer script is commonly run
with, and one flag for every field of a `Recipe`: what is given on the command line overrides the recipe.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from segzoo.errors import SegZooError
from segzoo.training.flags import FlagParser, Switch, add_dataclass_flags
from segzoo.training.recipes.recipe import Recipe, resolve_recipe

UPSTREAM_MODEL, UPSTREAM_DATASET = "nvidia/mit-b0", "segments/sidewalk-semantic"

# What upstream's script trains with when nothing is said.
DEFAULTS = Recipe(
    name="default",
    source="the defaults of transformers' example scripts, with mmsegmentation's crops and scales",
    optimizer="adamw",
    learning_rate=5e-5,
    weight_decay=0.01,
    lr_scheduler_type="poly",
    num_train_epochs=3,
    crop_size=(512, 512),
    scale_range=(0.5, 2.0),
    cat_max_ratio=0.75,
)
_NO_FLAG = ("name", "source")


def build_parser(description: str | None = None) -> FlagParser:
    """The parser; every option is explained in its help."""
    parser = FlagParser(description)
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_recipe(parser.add_argument_group("recipe"))
    _add_running(parser.add_argument_group("running"))
    _add_trainer_names(
        parser.add_argument_group("other names", "flags of the Trainer script, and what they mean here")
    )
    return parser


def parse_arguments(
    argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[argparse.Namespace, Recipe]:
    """The options of the run, and the recipe: defaults, then ``--recipe``, then ``--recipe_file``, then single flags.

    Raises:
        SegZooError: a value that makes no sense, with the option's name.
        SystemExit: wrong usage, through argparse, with status 2.
    """
    args = build_parser(description).parse_args(argv)
    values = vars(args)
    _translate_trainer_names(args)
    overrides = {
        field.name: values.pop(field.name)
        for field in dataclasses.fields(Recipe)
        if field.name in values and field.name not in _NO_FLAG
    }
    if args.trainer_optimizer is not None:
        overrides.setdefault("optimizer", args.trainer_optimizer)
    if args.max_steps is not None and args.max_steps > 0:
        overrides.setdefault("max_train_steps", args.max_steps)
    elif "num_train_epochs" in overrides:
        overrides.setdefault("max_train_steps", None)  # epochs that were asked for win over the recipe's steps
    args.warmup_ratio = None
    if args.warmup_steps is not None and 0 < args.warmup_steps < 1:
        args.warmup_ratio = args.warmup_steps
    elif args.warmup_steps is not None:
        overrides.setdefault("num_warmup_steps", int(args.warmup_steps))
    for precision in ("bf16", "fp16"):
        if getattr(args, precision):
            overrides.setdefault("mixed_precision", precision)
    args.crop_by_model = args.recipe is None and args.recipe_file is None and "crop_size" not in overrides
    recipe = resolve_recipe(args.recipe, args.recipe_file, overrides, defaults=DEFAULTS)
    _check(args, recipe)
    return args, recipe


def _add_model(group) -> None:
    add = group.add_argument
    add(
        "--model_name_or_path",
        help=f"folder or Hub name of a model to fine-tune; other classes get a new classifier (default, without --backbone and "
        f"--config_name: {UPSTREAM_MODEL})",
    )
    add("--config_name", help="folder or Hub name of a config; alone it makes a model with random weights")
    add("--image_processor_name", help="folder or Hub name of an image processor other than the model's")
    add("--model_revision", default="main", help="branch, tag or commit of the model on the Hub")
    add(
        "--backbone", help="new model: a variant such as resnet18_v1c or internimage-t, or a backbone with its weights"
    )
    add("--head", default="uper", help="new model: uper, fcn or psp")
    add("--head_channels", type=int, help="new model: width of the head")
    add(
        "--auxiliary_channels",
        type=int,
        default=0,
        help="new model: width of an auxiliary FCN head for the training; mmsegmentation has 256",
    )
    add("--trust_remote_code", action=Switch, default=False, help="run model code from the Hub")
    add("--cache_dir", help="where downloads are kept")


def _add_data(group) -> None:
    add = group.add_argument
    add(
        "--dataset_name",
        default=UPSTREAM_DATASET,
        help="a folder (images/{split}, annotations/{split}), ADE20K as tree or zip, Cityscapes, Pascal VOC, CamVid, .odgt lists, parquet, "
        "webdataset, or a Hub name (default: %(default)s)",
    )
    add("--dataset_config_name", help="configuration of a Hub data set")
    add("--image_column", help="column of the pictures, where its name is unusual")
    add("--label_column", help="column of the masks, where its name is unusual")
    add("--classes", help="a known data set (ade20k, cityscapes, camvid ...) or a JSON file of id and name")
    add("--num_labels", type=int, help="number of classes, where they have no names")
    add(
        "--do_reduce_labels",
        "--reduce_labels",
        action=Switch,
        default=None,
        help="masks hold 0 for 'no class' and 1..n for the classes (default: as known of the data set)",
    )
    add("--ignore_index", type=int, default=255, help="label of pixels that do not count")
    add("--train_val_split", type=float, default=0.15, help="share set aside where there is no validation split")
    add("--max_train_samples", type=int, help="train on so many pictures only")
    add("--max_eval_samples", type=int, help="evaluate on so many pictures only")
    add(
        "--streaming",
        action=Switch,
        default=False,
        help="read the training data while training; needs a number of steps",
    )
    add("--shuffle_buffer", type=int, default=1000, help="with --streaming: samples that are shuffled at a time")
    add(
        "--max_corrupt",
        type=int,
        default=0,
        help="leave out so many broken pictures, with a warning each, before it is an error",
    )


def _add_recipe(group) -> None:
    add = group.add_argument
    add("--recipe", help="a published recipe by its name or that of a released checkpoint; flags below override it")
    add(
        "--recipe_file",
        help="YAML or JSON file with the fields below, over --recipe and below flags; a run writes one: recipe.json",
    )
    add(
        "--per_device_train_batch_size",
        type=int,
        help="pictures a process and step (default: 8, or the recipe's batch divided up)",
    )
    add("--per_device_eval_batch_size", type=int, default=8, help="pictures of different sizes still go one by one")
    add(
        "--gradient_accumulation_steps",
        type=int,
        help="passes an optimizer step (default: 1, or what the recipe's batch needs)",
    )
    add_dataclass_flags(
        add, Recipe, [field.name for field in dataclasses.fields(Recipe) if field.name not in _NO_FLAG]
    )


def _add_running(group) -> None:
    add = group.add_argument
    add("--output_dir", help="becomes the model folder, with checkpoints and figures (required)")
    add("--overwrite_output_dir", action=Switch, default=False, help="remove what an earlier training left there")
    add("--do_train", action=Switch, default=None, help="train (default, unless --do_eval alone is given)")
    add("--do_eval", action=Switch, default=None, help="evaluate (default, unless --do_train alone is given)")
    add("--seed", type=int, default=42)
    add(
        "--eval_steps", default=None, help="steps between evaluations, 'epoch', or 0 for the end only (default: epoch)"
    )
    add("--checkpointing_steps", help="steps between checkpoints, or 'epoch'; none by default")
    add("--save_total_limit", type=int, help="keep so many checkpoints, and the best; all by default")
    add("--load_best_model_at_end", action=Switch, default=False, help="the model with the best mIoU is the result")
    add("--resume_from_checkpoint", nargs="?", const="latest", help="'latest', or a checkpoint folder")
    add(
        "--max_bad_steps",
        type=int,
        default=3,
        help="so many steps in a row with a loss that is not finite end the training",
    )
    add("--logging_steps", type=int, default=10)
    add("--dataloader_num_workers", type=int, default=2)
    add(
        "--channels_last",
        action=Switch,
        default=None,
        help="memory format of images and convolutions (default: on GPUs, and on CPUs in half precision)",
    )
    add("--gradient_checkpointing", action=Switch, default=False, help="less memory, more time")
    add("--torch_compile", action=Switch, default=False, help="compile the model")
    add(
        "--tf32", action=Switch, default=None, help="faster float32 products with fewer digits, on GPUs that have them"
    )
    add("--use_cpu", "--no_cuda", action="store_true", help="train on the CPU although there is a GPU")
    add("--sync_batch_norm", action=Switch, default=True, help="batch norms over all GPUs")
    add("--freeze_norms", action=Switch, default=False, help="batch norms use their running statistics while training")
    add("--with_tracking", action=Switch, default=None, help="log to the trackers of --report_to")
    add("--report_to", nargs="+", default=None, help="tensorboard, wandb, trackio, comet_ml, clearml, all or none")
    add("--run_name", help="name of the run for trackers")
    add("--push_to_hub", action=Switch, default=False, help="upload the finished model")
    add("--hub_model_id", "--push_to_hub_model_id", help="its name on the Hub; default: the name of the output folder")
    add("--push_to_hub_organization", help="organisation that the repository belongs to")
    add("--hub_private_repo", action=Switch, default=False, help="make a new repository private")
    add("--hub_token", "--push_to_hub_token", help="access token; default: that of `hf auth login`")
    add(
        "--token",
        "--use_auth_token",
        dest="token",
        nargs="?",
        const=True,
        help="the same; without a value: that of the login",
    )


_WITHOUT_EFFECT = {
    "remove_unused_columns": "columns that are not needed are never loaded",
    "disable_tqdm": "there is one line of progress",
    "hub_strategy": "the finished model is uploaded",
    "dataloader_drop_last": "an incomplete last batch of an epoch is always left out",
    "dataloader_pin_memory": "memory is pinned where there is a GPU",
    "dataloader_persistent_workers": "loading processes live as long as the training",
    "greater_is_better": "a larger mIoU is better",
    "log_level": "messages are few",
}


def _add_trainer_names(group) -> None:
    add = group.add_argument
    add("--max_steps", type=int, help="--max_train_steps; -1 goes by --num_train_epochs")
    add("--warmup_steps", "--warmup_ratio", type=float, help="--num_warmup_steps; below 1 it is a share of all steps")
    add(
        "--optim",
        dest="trainer_optimizer",
        choices=["adamw_torch", "adamw_torch_fused", "adamw_hf", "sgd"],
        help="--optimizer",
    )
    add("--bf16", action=Switch, default=False, help="--mixed_precision bf16")
    add("--fp16", action=Switch, default=False, help="--mixed_precision fp16")
    add("--save_steps", help="--checkpointing_steps")
    add(
        "--save_strategy",
        choices=["no", "epoch", "steps", "best"],
        help="when --checkpointing_steps is meant to happen",
    )
    add(
        "--eval_strategy",
        "--evaluation_strategy",
        choices=["no", "epoch", "steps"],
        help="when --eval_steps is meant to happen",
    )
    add("--logging_strategy", choices=["no", "epoch", "steps"], help="when --logging_steps is meant to happen")
    add("--metric_for_best_model", help="mean_iou, what else is there to choose from")
    for name, reason in _WITHOUT_EFFECT.items():
        add(f"--{name}", nargs="?", const=True, help=f"taken, but of no effect: {reason}")


def _translate_trainer_names(args: argparse.Namespace) -> None:
    """From the Trainer's flags to this script's own, in place."""
    if args.trainer_optimizer is not None:
        args.trainer_optimizer = "sgd" if args.trainer_optimizer == "sgd" else "adamw"
    if args.save_strategy == "epoch":
        args.checkpointing_steps = args.checkpointing_steps or "epoch"
    elif args.save_strategy == "best":
        args.load_best_model_at_end = True
    elif args.save_strategy != "no":
        steps = args.save_steps or ("500" if args.save_strategy == "steps" else None)
        args.checkpointing_steps = args.checkpointing_steps or steps
    if args.eval_strategy == "no":
        args.eval_steps = "0"
    elif args.eval_strategy == "steps":
        args.eval_steps = args.eval_steps or str(args.logging_steps)
    elif args.eval_strategy == "epoch" or args.eval_steps is None:
        args.eval_steps = "epoch"
    args.log_epochs = args.logging_strategy == "epoch"
    if args.do_train is None and args.do_eval is None:
        args.do_train = args.do_eval = True
    args.do_train, args.do_eval = bool(args.do_train), bool(args.do_eval)
    if args.token not in (None, True) and args.hub_token is None:
        args.hub_token = args.token
    if args.with_tracking is None:
        args.with_tracking = args.report_to not in (None, ["none"])
    args.report_to = args.report_to or ["all"]
    if args.model_name_or_path is None and args.backbone is None and args.config_name is None:
        args.model_name_or_path = UPSTREAM_MODEL
    if args.hub_model_id is None and args.push_to_hub and args.output_dir:
        args.hub_model_id = Path(args.output_dir).resolve().name
    if args.push_to_hub_organization and args.hub_model_id and "/" not in args.hub_model_id:
        args.hub_model_id = f"{args.push_to_hub_organization}/{args.hub_model_id}"


def notes_on_arguments(args: argparse.Namespace) -> list[str]:
    """A line for every flag that was given and has no effect here."""
    return [
        f"note: --{name} has no effect: {reason}"
        for name, reason in _WITHOUT_EFFECT.items()
        if getattr(args, name) is not None
    ]


_POSITIVE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "max_train_samples",
    "max_eval_samples",
    "head_channels",
    "save_total_limit",
    "shuffle_buffer",
    "max_bad_steps",
)
_NOT_NEGATIVE = ("auxiliary_channels", "dataloader_num_workers", "max_corrupt")


def _check(args: argparse.Namespace, recipe: Recipe) -> None:
    if args.output_dir is None:
        raise SegZooError("--output_dir is missing; name the folder that becomes the model")
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value = getattr(args, name)
        if value is not None and (value < 0 or (value == 0 and name in _POSITIVE)):
            raise SegZooError(f"--{name} is {value}; it must be {'above 0' if name in _POSITIVE else '0 or more'}")
    if not 0 < args.train_val_split < 1:
        raise SegZooError(f"--train_val_split is {args.train_val_split}; it must lie between 0 and 1")
    if args.bf16 and args.fp16:
        raise SegZooError("--bf16 and --fp16 exclude each other; leave one of them out")
    for name in ("eval_steps", "checkpointing_steps"):
        value = getattr(args, name)
        if value not in (None, "epoch") and not str(value).isdigit():
            raise SegZooError(f"--{name} is {value!r}; give a number of steps or 'epoch'")
    if (args.metric_for_best_model or "mean_iou").removeprefix("eval_") != "mean_iou":
        raise SegZooError(
            f"--metric_for_best_model {args.metric_for_best_model}: the best model is the one with the best mean_iou"
        )
    if args.streaming and recipe.max_train_steps is None:
        raise SegZooError("--streaming needs --max_train_steps: the number of pictures is not known beforehand")
    if args.streaming and "epoch" in (args.eval_steps, args.checkpointing_steps):
        raise SegZooError("--streaming knows no epochs; give --eval_steps and --checkpointing_steps as numbers")
    if args.load_best_model_at_end and not (args.do_train and args.do_eval):
        raise SegZooError("--load_best_model_at_end needs evaluations; do not leave --do_eval out")
    if args.with_tracking and not {"all", "none"} & set(args.report_to):
        from accelerate.tracking import get_available_trackers

        available = [str(tracker) for tracker in get_available_trackers()]
        missing = [name for name in args.report_to if name not in available]
        if missing:
            raise SegZooError(
                f"--report_to {missing[0]}: this tracker is not installed; installed: {', '.join(available) or 'none'}"
            )


_NOT_ON_THE_CARD = frozenset(
    """
    output_dir overwrite_output_dir resume_from_checkpoint logging_steps dataloader_num_workers with_tracking report_to
    push_to_hub hub_model_id hub_private_repo hub_token token cache_dir checkpointing_steps save_total_limit eval_steps
    trust_remote_code model_revision per_device_eval_batch_size dataset_name run_name do_train do_eval max_bad_steps
    trainer_optimizer max_steps warmup_steps warmup_ratio bf16 fp16 save_steps save_strategy eval_strategy logging_strategy
    log_epochs crop_by_model metric_for_best_model push_to_hub_organization recipe_file use_cpu tf32
    """.split()  # noqa: SIM905
) | frozenset(_WITHOUT_EFFECT)


def settings_for_card(args: argparse.Namespace, num_processes: int, total_steps: int) -> Mapping[str, object]:
    """The settings of the run that decide the result, beside the recipe, by the name of their option.

    Those left at "none" are left out, and local paths: they say nothing to others.
    """
    settings = {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in vars(args).items()
        if name not in _NOT_ON_THE_CARD and value is not None and value is not False
    }
    for name in ("model_name_or_path", "config_name", "image_processor_name", "backbone", "classes"):
        value = str(settings.get(name, ""))
        if Path(value).is_absolute() or value.startswith((".", "~")):
            settings.pop(name, None)
    return {**settings, "processes": num_processes, "steps": total_steps}

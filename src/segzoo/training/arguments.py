"""The command line of `examples/run_semantic_segmentation.py`.

It takes what transformers' run_semantic_segmentation_no_trainer.py takes, so that scripts around that one go on working.
"""

import argparse
from collections.abc import Mapping

from segzoo.errors import SegZooError


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser; every option is explained in its help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_training(parser.add_argument_group("training"))
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_model(group) -> None:
    add = group.add_argument
    add("--model_name_or_path", help="folder or Hub name of a model to fine-tune; other classes get a new classifier")
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
    add("--class_weights", type=float, nargs="+", metavar="W", help="a factor on the loss for each class")
    add("--trust_remote_code", action="store_true", help="run model code from the Hub")
    add("--cache_dir", help="where downloads are kept")


def _add_data(group) -> None:
    add = group.add_argument
    add("--dataset_name", required=True, help="folder (images/{split}, annotations/{split}), ADE20K tree, or Hub name")
    add("--dataset_config_name", help="configuration of a Hub data set")
    add("--image_column", help="column of the pictures, where its name is unusual")
    add("--label_column", help="column of the masks, where its name is unusual")
    add("--classes", help="a known data set (ade20k, cityscapes, camvid ...) or a JSON file of id and name")
    add("--num_labels", type=int, help="number of classes, where they have no names")
    add(
        "--do_reduce_labels",
        "--reduce_labels",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="masks hold 0 for 'no class' and 1..n for the classes (default: as known of the data set)",
    )
    add("--ignore_index", type=int, default=255, help="label of pixels that do not count")
    add("--train_val_split", type=float, default=0.15, help="share set aside where there is no validation split")
    add("--max_train_samples", type=int, help="train on so many pictures only")
    add("--max_eval_samples", type=int, help="evaluate on so many pictures only")
    add("--crop_size", type=int, nargs="+", default=[512, 512], metavar="N", help="height and width of training crops")
    add(
        "--scale_size",
        type=int,
        nargs="+",
        metavar="N",
        help="short edge, and limit of the long edge, that pictures are resized to; default: as the model's image "
        "processor does, or their own size",
    )
    add(
        "--scale_range", type=float, nargs=2, default=[0.5, 2.0], metavar="X", help="random scale of training pictures"
    )
    add("--cat_max_ratio", type=float, default=0.75, help="largest share of one class in a crop, if it can be had")
    add("--no_photometric_distortion", action="store_true", help="leave the colours of training pictures alone")


def _add_training(group) -> None:
    add = group.add_argument
    add("--per_device_train_batch_size", type=int, default=8)
    add("--per_device_eval_batch_size", type=int, default=8, help="pictures of different sizes still go one by one")
    add("--learning_rate", type=float, default=5e-5)
    add("--weight_decay", type=float, default=0.01)
    add("--optimizer", choices=["adamw", "sgd"], default="adamw")
    add("--momentum", type=float, default=0.9, help="of sgd")
    add("--adam_beta1", type=float, default=0.9, help="of adamw")
    add("--adam_beta2", type=float, default=0.999, help="of adamw")
    add("--adam_epsilon", type=float, default=1e-8, help="of adamw")
    add(
        "--decay_norms",
        action="store_true",
        help="weight decay on norms and biases too, as mmsegmentation's ResNets have it",
    )
    add("--head_lr_multiplier", type=float, default=1.0, help="learning rate of the heads over that of the backbone")
    add("--num_train_epochs", type=float, default=3)
    add("--max_train_steps", type=int, help="optimizer steps; overrides --num_train_epochs")
    add("--gradient_accumulation_steps", type=int, default=1)
    add(
        "--lr_scheduler_type", default="poly", help="poly, or a name of transformers.get_scheduler: linear, cosine ..."
    )
    add("--lr_power", type=float, default=1.0, help="of poly")
    add("--num_warmup_steps", type=int, default=0)
    add("--max_grad_norm", type=float, help="largest norm of the gradient; none by default")
    add("--mixed_precision", choices=["no", "fp16", "bf16"], help="default: as accelerate is configured")
    add("--channels_last", action="store_true", help="memory format that convolutions are fastest in")
    add("--gradient_checkpointing", action="store_true", help="less memory, more time")
    add("--sync_batch_norm", action="store_true", help="batch norms over all GPUs")


def _add_running(group) -> None:
    add = group.add_argument
    add("--output_dir", required=True, help="becomes the model folder, with checkpoints and figures")
    add("--overwrite_output_dir", action="store_true", help="remove what an earlier training left there")
    add("--seed", type=int, default=42)
    add("--eval_steps", default="epoch", help="steps between evaluations, 'epoch', or 0 for the end only")
    add("--checkpointing_steps", help="steps between checkpoints, or 'epoch'; none by default")
    add("--save_total_limit", type=int, help="keep so many checkpoints; all by default")
    add("--resume_from_checkpoint", help="'latest', or a checkpoint folder")
    add("--logging_steps", type=int, default=10)
    add("--dataloader_num_workers", type=int, default=2)
    add("--with_tracking", action="store_true", help="log to the trackers of --report_to")
    add("--report_to", default="all", help="tensorboard, wandb, comet_ml, clearml or all")
    add("--push_to_hub", action="store_true", help="upload the finished model")
    add("--hub_model_id", help="its name on the Hub; default: the name of the output folder")
    add("--hub_private_repo", action="store_true", help="make a new repository private")
    add("--hub_token", "--token", help="access token; default: that of `hf auth login`")


_POSITIVE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "logging_steps",
    "max_train_steps",
    "max_train_samples",
    "max_eval_samples",
    "head_channels",
    "save_total_limit",
    "learning_rate",
    "head_lr_multiplier",
    "adam_epsilon",
)
_NOT_NEGATIVE = ("weight_decay", "num_warmup_steps", "auxiliary_channels", "dataloader_num_workers", "max_grad_norm")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, and bring sizes into one form, before anything is loaded.

    ``crop_size`` becomes (height, width).

    Raises:
        SegZooError: the option and what it needs.
    """
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value = getattr(args, name)
        if value is not None and (value < 0 or (value == 0 and name in _POSITIVE)):
            raise SegZooError(f"--{name} is {value}; it must be {'above 0' if name in _POSITIVE else '0 or more'}")
    if len(args.crop_size) == 1:
        args.crop_size = args.crop_size * 2
    if len(args.crop_size) != 2 or min(args.crop_size) < 1:
        raise SegZooError(f"--crop_size is {args.crop_size}; give height and width, or one number for both")
    edges = args.scale_size
    if edges is not None and (len(edges) > 2 or min(edges) < 1 or edges != sorted(edges)):
        raise SegZooError(f"--scale_size is {edges}; give the short edge, and the long edge's limit if any")
    low, high = args.scale_range
    if not 0 < low <= high:
        raise SegZooError(f"--scale_range is {low} {high}; give the lower and the upper ratio, both above 0")
    if not 0 < args.train_val_split < 1:
        raise SegZooError(f"--train_val_split is {args.train_val_split}; it must lie between 0 and 1")
    if args.with_tracking and args.report_to != "all":
        from accelerate.tracking import get_available_trackers

        available = [str(tracker) for tracker in get_available_trackers()]
        if args.report_to not in available:
            raise SegZooError(
                f"--report_to {args.report_to}: this tracker is not installed; installed: {', '.join(available) or 'none'}"
            )
    for name in ("eval_steps", "checkpointing_steps"):
        value = getattr(args, name)
        if value not in (None, "epoch") and not value.isdigit():
            raise SegZooError(f"--{name} is {value!r}; give a number of steps or 'epoch'")


_NOT_ON_THE_CARD = frozenset(
    [
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "logging_steps",
        "dataloader_num_workers",
        "with_tracking",
        "report_to",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "hub_token",
        "cache_dir",
        "checkpointing_steps",
        "save_total_limit",
        "eval_steps",
        "trust_remote_code",
        "model_revision",
        "per_device_eval_batch_size",
        "dataset_name",
    ]  # noqa: SIM905
)


def settings_for_card(args: argparse.Namespace, num_processes: int, total_steps: int) -> Mapping[str, object]:
    """The settings that decide the result, by the name of their option; those left at "none" are left out.

    Local paths are left out: they say nothing to others.
    """
    settings = {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in vars(args).items()
        if name not in _NOT_ON_THE_CARD and value is not None and value is not False
    }
    for name in ("model_name_or_path", "config_name", "image_processor_name", "backbone", "classes"):
        if "/" in str(settings.get(name, "")) and str(settings[name]).startswith((".", "/", "~")):
            settings.pop(name)
    return {**settings, "processes": num_processes, "steps": total_steps}

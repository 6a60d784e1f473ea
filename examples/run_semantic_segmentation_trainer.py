r"""Fine-tune and evaluate a semantic-segmentation model with transformers' Trainer.

    python examples/run_semantic_segmentation_trainer.py --dataset_name DATA --model_name_or_path MODEL \
        --output_dir OUT --do_train --do_eval --max_steps 1000 --eval_strategy epoch --save_strategy epoch \
        --load_best_model_at_end --per_device_train_batch_size 8

The options are those of transformers' run_semantic_segmentation.py with its TrainingArguments, and more; DATA is a folder
or a Hub name, as in run_semantic_segmentation.py beside this file, which trains with Accelerate and recipes instead. Scores
are measured at each picture's original size and are the same in both. ``accelerate launch`` works too, and one argument
that ends in .json is a file of all options.
"""

import argparse
import difflib
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist
from transformers import HfArgumentParser, set_seed
from transformers.utils.logging import disable_progress_bar

import segzoo  # noqa: F401  registers the models
from segzoo.data import DataSource, SegmentationDataset, build_processor_transform
from segzoo.data.splits import load_splits
from segzoo.errors import SegZooError
from segzoo.hub import push_folder, reserve_repository
from segzoo.metrics import format_table
from segzoo.training.models import (
    build_model,
    build_processor,
    crop_size_of,
    find_classes,
    load_config,
    training_transform,
)
from segzoo.training.order import EpochBatches
from segzoo.training.processes import report_error, report_lost_process
from segzoo.training.trackers import TRACKER_FILES, tracker_problem
from segzoo.training.trainer import (
    SegmentationTrainer,
    SegmentationTrainingArguments,
    check_best_metric,
    find_trainer_checkpoint,
    is_whole_checkpoint,
)


@dataclass
class ModelArguments:
    """The model: an existing one, one from a config, or a new one around a backbone."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a model; nvidia/mit-b0 if nothing else names one."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a config; alone it makes a model with random weights."}
    )
    backbone: str | None = field(
        default=None, metadata={"help": "New model: a variant such as resnet18_v1c, or a backbone with its weights."}
    )
    head: str = field(default="uper", metadata={"help": "New model: uper, fcn or psp."})
    head_channels: int | None = field(default=None, metadata={"help": "New model: width of the head."})
    auxiliary_channels: int = field(default=0, metadata={"help": "New model: width of an auxiliary head; 0: none."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    image_processor_name: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of another image processor than the model's."}
    )
    token: str | None = field(default=None, metadata={"help": "Access token of the Hub; default: that of the login."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the Hub."})


@dataclass
class DataTrainingArguments:
    """The data and what is done with them."""

    dataset_name: str = field(
        default="segments/sidewalk-semantic",
        metadata={"help": "Folder (images/{split}, annotations/{split}), or any other source, or Hub name."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the pictures, if unusual."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the masks, if unusual."})
    classes: str | None = field(
        default=None, metadata={"help": "A known data set (ade20k, camvid ...) or a JSON file of id and name."}
    )
    num_labels: int | None = field(default=None, metadata={"help": "Number of classes, where they have no names."})
    ignore_index: int = field(default=255, metadata={"help": "Label of pixels that do not count."})
    do_reduce_labels: bool | None = field(
        default=None,
        metadata={
            "help": "Masks hold 0 for 'no class' and 1..n for the classes; default: as known of the data set.",
            "aliases": ["--reduce_labels"],
            "nargs": "?",
            "const": True,
        },
    )
    train_val_split: float = field(
        default=0.15, metadata={"help": "Share set aside where there is no validation split."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many pictures only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many pictures only."})
    crop_size: list[int] | None = field(
        default=None,
        metadata={"help": "Height and width of training crops; default: the image processor's size, else 512."},
    )
    scale_size: list[int] | None = field(
        default=None, metadata={"help": "Short edge, and limit of the long edge, that pictures are resized to."}
    )
    scale_range: list[float] = field(
        default_factory=lambda: [0.5, 2.0], metadata={"help": "Random scale of training pictures: lowest, highest."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start anew in an output folder that holds checkpoints of an earlier training."},
    )


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults with every option, and the description as it is written."""


def main(argv: list[str] | None = None) -> int:
    """Run the script; the exit status is 1 after an error of the user, which is one line on stderr."""
    try:
        run(*parse_arguments(sys.argv[1:] if argv is None else argv))
    except SegZooError as error:
        # A data-loading process sends its traceback inside the message; the last line is the error itself.
        report_error(str(error).strip().rpartition("Error: ")[2] if "Traceback" in str(error) else str(error))
        return 1
    except Exception as error:
        problem = tracker_problem(error)
        if problem is not None:
            report_error(str(problem))
        elif isinstance(error, OSError) and error.strerror and error.filename:
            report_error(f"{error.filename}: {error.strerror}")  # a full disk, a folder that is not ours
        elif not report_lost_process(error):
            raise
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def parse_arguments(
    argv: list[str],
) -> tuple[ModelArguments, DataTrainingArguments, SegmentationTrainingArguments]:
    """Read the command line; an unknown option ends the program and names the nearest one."""
    parser = HfArgumentParser(
        (ModelArguments, DataTrainingArguments, SegmentationTrainingArguments),
        usage="%(prog)s --output_dir OUT [options]; --help lists them",
        description=__doc__,
        formatter_class=Help,
        allow_abbrev=False,
    )
    try:
        if len(argv) == 1 and argv[0].endswith(".json"):
            model_args, data_args, args = parser.parse_json_file(os.path.abspath(argv[0]))
        else:
            model_args, data_args, args, unknown = parser.parse_args_into_dataclasses(
                argv, return_remaining_strings=True, look_for_args_file=False
            )
            if unknown:
                flag = unknown[0].partition("=")[0]
                near = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
                parser.error(f"there is no flag {flag}" + (f"; did you mean {near[0]}?" if near else ""))
    except (ValueError, OSError) as error:  # settings that contradict each other, a JSON file that is none
        raise SegZooError(" ".join(str(error).split())) from error
    if args.output_dir is None:
        parser.error("--output_dir is required")
    if model_args.model_name_or_path is None and model_args.config_name is None and model_args.backbone is None:
        model_args.model_name_or_path = "nvidia/mit-b0"
    # The Trainer saves its settings with the model, and pushes them: a token must not be among them.
    token = args.hub_token or model_args.token
    if token is not None:
        os.environ["HF_TOKEN"], args.hub_token, model_args.token = token, None, None
    return model_args, data_args, args


def run(model_args: ModelArguments, data_args: DataTrainingArguments, args: SegmentationTrainingArguments) -> None:
    """Train and evaluate as the settings say, and leave model, scores and card in the output folder."""
    if not (args.do_train or args.do_eval):
        raise SegZooError("there is nothing to do; give --do_train, --do_eval or both")
    if args.push_to_hub and not args.do_train:
        raise SegZooError("--push_to_hub uploads what has been trained; give --do_train, or use `hf upload`")
    with args.main_process_first(local=False):
        checkpoint = first_checkpoint(args, data_args.overwrite_output_dir)
    set_seed(args.seed)
    disable_progress_bar()  # of loading and saving weights
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False

    # Data, classes, model: every mistake that can be found here is found before the first step.
    with args.main_process_first():
        source = DataSource(
            data_args.dataset_name,
            config_name=data_args.dataset_config_name,
            image_column=data_args.image_column,
            label_column=data_args.label_column,
            cache_dir=model_args.cache_dir,
        )
        train_rows, eval_rows = load_splits(
            source,
            train_val_split=data_args.train_val_split,
            max_train_samples=data_args.max_train_samples,
            max_eval_samples=data_args.max_eval_samples,
            seed=args.seed,
        )
    if args.do_train and train_rows is None:
        raise SegZooError(f"{data_args.dataset_name} has no train split to train on")
    hub_options = {
        "revision": model_args.model_revision,
        "cache_dir": model_args.cache_dir,
        "trust_remote_code": model_args.trust_remote_code,
    }
    classes = find_classes(
        data_args.dataset_name,
        classes=data_args.classes,
        num_labels=data_args.num_labels,
        model_config=load_config(model_args.config_name or model_args.model_name_or_path, hub_options),
        reduce_labels=data_args.do_reduce_labels,
    )
    check_best_metric(args, classes.names)
    model = build_model(
        classes,
        model_name_or_path=model_args.model_name_or_path,
        config_name=model_args.config_name,
        backbone=model_args.backbone,
        head=model_args.head,
        head_channels=model_args.head_channels,
        auxiliary_channels=model_args.auxiliary_channels,
        ignore_index=data_args.ignore_index,
        hub_options=hub_options,
    )
    processor = build_processor(
        model,
        classes,
        image_processor_name=model_args.image_processor_name or model_args.model_name_or_path,
        scale_size=data_args.scale_size,
        ignore_index=data_args.ignore_index,
        hub_options=hub_options,
    )
    crop_size = data_args.crop_size or crop_size_of(processor)
    if len(crop_size) > 2 or min(crop_size) < 1:
        raise SegZooError(f"--crop_size is {crop_size}; give height and width, or one number for both")
    crop_size = (crop_size * 2)[:2]
    transform = training_transform(
        processor,
        crop_size=crop_size,
        scale_range=data_args.scale_range,
        ignore_index=data_args.ignore_index,
    )
    num_labels = len(classes.id2label)
    train_data = eval_data = None
    if args.do_train:
        train_data = SegmentationDataset(train_rows, transform, seed=args.seed, num_labels=num_labels)
        order = EpochBatches(len(train_data), args.train_batch_size, num_processes=args.world_size)
        for index in order.indices(0):
            train_data[index]  # decodes, transforms and checks the labels of some pictures
    if args.do_eval:
        eval_data = SegmentationDataset(
            eval_rows,
            build_processor_transform(processor, ignore_index=data_args.ignore_index),
            num_labels=num_labels,
        )
        eval_data[0]
    if args.push_to_hub and args.should_save:
        args.hub_model_id = reserve_repository(
            args.hub_model_id or Path(args.output_dir).resolve().name, private=bool(args.hub_private_repo)
        )

    trainer = SegmentationTrainer(
        model,
        args,
        processor,
        train_dataset=train_data,
        eval_dataset=eval_data,
        ignore_index=data_args.ignore_index,
    )
    if args.do_train:
        if checkpoint is not None and args.should_save:
            print(f"Training goes on from {checkpoint}.")
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if args.do_eval:
        scores = trainer.evaluate()
        if args.should_save:
            print(format_table(trainer.evaluation.metrics, classes.names))
        trainer.log_metrics("eval", {name: value for name, value in scores.items() if not is_of_a_class(name)})
        trainer.save_metrics("eval", scores)
    if not args.do_train:
        return  # a model that was only evaluated keeps its own card

    is_local = Path(data_args.dataset_name).exists()
    is_hub_model = model_args.model_name_or_path is not None and not Path(model_args.model_name_or_path).is_dir()
    trainer.create_model_card(
        dataset=classes.dataset or Path(data_args.dataset_name).name,
        dataset_id=None if is_local else data_args.dataset_name,
        base_model=model_args.model_name_or_path if is_hub_model else None,
        synthetic=(Path(data_args.dataset_name) / "scenes.json").is_file(),
        settings={
            "crop_size": " ".join(map(str, crop_size)),
            "scale_range": " ".join(map(str, data_args.scale_range)),
        },
    )
    if args.push_to_hub and args.should_save:
        url = push_folder(
            args.output_dir,
            args.hub_model_id,
            revision=args.hub_revision,
            commit_message="End of training",
            ignore_patterns=["checkpoint-*", "checkpoint-*/*", "_*", ".*", *TRACKER_FILES],
        )
        print(f"pushed: {url}")


def first_checkpoint(args: SegmentationTrainingArguments, overwrite: bool) -> Path | None:
    """The checkpoint to go on from: the one asked for, else the newest in the output folder."""
    folder = Path(args.output_dir)
    if not args.do_train:
        return None
    wanted = args.resume_from_checkpoint
    if folder.exists() and not folder.is_dir():
        raise SegZooError(f"--output_dir {folder}: is a file; choose a folder")
    if wanted is not None and wanted.lower() not in ("true", "latest"):
        if not is_whole_checkpoint(wanted):
            raise SegZooError(f"--resume_from_checkpoint {wanted}: is no whole checkpoint of a Trainer")
        return Path(wanted)
    if overwrite and wanted is None:
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
        return None
    found = find_trainer_checkpoint(folder)
    if wanted is not None and found is None:
        raise SegZooError(f"--resume_from_checkpoint {wanted}: there is no whole checkpoint in {folder}")
    if found is None and folder.is_dir() and any(folder.iterdir()):
        raise SegZooError(
            f"--output_dir {folder}: is not empty and holds no checkpoint; choose another folder, or pass "
            "--overwrite_output_dir"
        )
    return found


def is_of_a_class(score: str) -> bool:
    """Whether a score stands in the table of classes already."""
    return score.startswith(("eval_iou_", "eval_accuracy_"))


if __name__ == "__main__":
    sys.exit(main())

"""`SegmentationTrainer`: transformers' Trainer that scores every picture at its original size.

    python examples/run_semantic_segmentation_trainer.py --dataset_name DATA --model_name_or_path MODEL \
        --output_dir OUT --max_steps 1000 --eval_strategy steps --eval_steps 200 --learning_rate 6e-5

``segzoo train`` is the complete program, with recipes and everything that keeps a long training alive; this example is
for those who have a Trainer of their own. ``accelerate launch`` works too.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed

from segzoo.configuration_segzoo import input_channels
from segzoo.data import Augmentation, SegmentationDataset, build_processor_transform, find_classes, load_splits
from segzoo.metrics import format_table
from segzoo.training import build_model, build_processor, training_transform
from segzoo.training.trainer import SegmentationTrainer, SegmentationTrainingArguments, find_trainer_checkpoint


@dataclass
class Example:
    """The arguments beyond the Trainer's: data, model, classes and crops."""

    dataset_name: str = field(metadata={"help": "Folder (images/{split}, annotations/{split}) or Hub name."})
    model_name_or_path: str = field(metadata={"help": "Folder or Hub name; other classes get a new classifier."})
    classes: str | None = field(
        default=None, metadata={"help": "Such as camvid, or a JSON file; None: as beside the data."}
    )
    crop_size: int = field(default=512, metadata={"help": "Height and width of training crops."})


def main(argv: list[str] | None = None) -> None:
    """Train from the last checkpoint on, save the model, evaluate it, and write a model card."""
    parser = HfArgumentParser((Example, SegmentationTrainingArguments), description=__doc__)
    example, args = parser.parse_args_into_dataclasses(argv)
    set_seed(args.seed)

    train_rows, eval_rows = load_splits(example.dataset_name, seed=args.seed)
    classes = find_classes(example.dataset_name, classes=example.classes)
    model = build_model(classes, model_name_or_path=example.model_name_or_path)
    processor = build_processor(model, classes, image_processor_name=example.model_name_or_path)
    channels = input_channels(model.config)
    augmentation = Augmentation(crop_size=example.crop_size).for_channels(channels)
    augment = training_transform(processor, augmentation, num_channels=channels)
    train_data = SegmentationDataset(train_rows, augment, seed=args.seed, num_labels=len(classes.names))
    as_tested = build_processor_transform(processor, num_channels=channels)
    eval_data = SegmentationDataset(eval_rows, as_tested, num_labels=len(classes.names))

    trainer = SegmentationTrainer(model, args, processor, train_dataset=train_data, eval_dataset=eval_data)
    last = args.resume_from_checkpoint or find_trainer_checkpoint(args.output_dir)  # the same command resumes
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())
    if trainer.is_world_process_zero():
        print(format_table(trainer.evaluation.metrics, classes.names))
    trainer.create_model_card(dataset=classes.dataset or example.dataset_name)


if __name__ == "__main__":
    sys.exit(main())

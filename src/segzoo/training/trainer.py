"""transformers' `Trainer` for semantic segmentation: exact scores in constant memory, and model cards with them."""

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import has_length, speed_metrics

from segzoo.cards.model_card import ModelCardFacts, base_model_of
from segzoo.configuration_segzoo import class_names
from segzoo.data import SegmentationDataset, collate_training
from segzoo.errors import SegZooError
from segzoo.evaluation import Evaluation, evaluate
from segzoo.files import write_whole
from segzoo.hub import WritesHashes
from segzoo.inference import InferenceSettings
from segzoo.metrics import ConfusionMatrix
from segzoo.model_folder import complete_weights
from segzoo.training.guards import LabelGuard
from segzoo.training.order import too_few_pictures
from segzoo.training.reports.summary import describe_training
from segzoo.training.sharding import check_evaluates, gathered
from segzoo.training.sync_norms import broadcast_buffers
from segzoo.universal import check_learns


@dataclass
class SegmentationTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with other defaults, and with aliases from earlier versions of transformers.

    The last incomplete batch of an epoch is dropped, since batch norms cannot train on a single image, and the best
    model is the one with the highest mIoU.
    """

    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out an epoch's incomplete last batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has no effect: no column is unused."})
    metric_for_best_model: str | None = field(
        default="mean_iou", metadata={"help": "Score that decides which model is the best: mean_iou, iou_sky ..."}
    )
    warmup_steps: float = field(
        default=0,
        metadata={
            "help": "Steps of warm-up; below 1, their share.",
            # The lowest transformers still has the option itself.
            "aliases": [] if "warmup_ratio" in TrainingArguments.__dataclass_fields__ else ["--warmup_ratio"],
        },
    )
    eval_strategy: str = field(
        default="no", metadata={"help": "Evaluate: no, steps or epoch.", "aliases": ["--evaluation_strategy"]}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Leave GPUs alone.", "aliases": ["--no_cuda"]})
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Repository; default: the output folder's name.", "aliases": ["--push_to_hub_model_id"]},
    )
    hub_token: str | None = field(
        default=None, metadata={"help": "Access token of the Hub.", "aliases": ["--push_to_hub_token"]}
    )


class SegmentationTrainer(Trainer):
    """Trains as `Trainer` does, and scores every image at its original size with one confusion matrix.

    Evaluation keeps no logits: its memory does not grow with the data. It gives the numbers of
    `segzoo.evaluation.evaluate`, in any number of processes, as ``eval_mean_iou``, ``eval_mean_accuracy``,
    ``eval_overall_accuracy`` and so on and, for the classes that occur, ``eval_iou_NAME`` and ``eval_accuracy_NAME``.
    A loss that is not finite ends the training with an error that names the pictures, and so do many steps in a row in
    which no pixel of any label counts.

    Args:
        model: a semantic-segmentation model of transformers or segzoo.
        args: the settings; a plain `TrainingArguments` works too.
        image_processor: the model's image processor, which is saved with it.
        train_dataset: a `segzoo.data.SegmentationDataset` with a training transform.
        eval_dataset: one with `segzoo.data.build_processor_transform`, or several by name.
        ignore_index: label of pixels that do not count.
        max_empty_steps: this many steps in a row in which no pixel of any label counts end the training.
        inference: windows, scales and flips of the evaluation; None: the windows of the model's config, if any.
        callbacks, optimizers: as in `Trainer`.

    Raises:
        SegZooError: ``args`` choose the best model by an unknown score, or ask for half-precision weights in
            evaluation or for label smoothing; or the model is to be evaluated and FSDP1 would divide it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        image_processor: BaseImageProcessor,
        *,
        train_dataset: SegmentationDataset | None = None,
        eval_dataset: SegmentationDataset | Mapping[str, SegmentationDataset] | None = None,
        ignore_index: int = 255,
        max_empty_steps: int = 50,
        inference: InferenceSettings | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ):
        if args.bf16_full_eval or args.fp16_full_eval:
            raise SegZooError("--bf16_full_eval and --fp16_full_eval change the weights; use --bf16 or --fp16")
        if args.label_smoothing_factor:
            raise SegZooError(
                "--label_smoothing_factor: transformers' label smoothing is not made for maps of scores; leave it at 0"
            )
        if train_dataset is not None:
            check_learns(model.config)
        self.ignore_index, self.inference = ignore_index, inference
        self.max_empty_steps = max_empty_steps
        self._labels: LabelGuard
        self.evaluation: Evaluation | None = None
        """The result of the last evaluation, with its confusion matrix; None before the first."""
        check_best_metric(
            args,
            class_names(model.config),
            parts=tuple(eval_dataset) if isinstance(eval_dataset, Mapping) else (),
        )
        args.remove_unused_columns = False  # it would drop the names of the pictures
        super().__init__(
            model=model,
            args=args,
            data_collator=collate_training,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=image_processor,
            callbacks=[_Beginnings(self), *callbacks],
            optimizers=optimizers,
        )
        # Trainer assumes that a model whose forward takes any keyword divides its loss by the number of items in all
        # accumulated batches. Segmentation losses do not, and gradients would be too large by the number of batches.
        self.model_accepts_loss_kwargs = False
        if eval_dataset is not None:
            check_evaluates(self.accelerator)

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of their ids."""
        return class_names(self.model.config)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with two or more dimensions; biases, norms and scales do not decay."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def get_train_dataloader(self) -> DataLoader:
        """The batches of an epoch for this process.

        Raises:
            SegZooError: there is none, since the pictures are fewer than one batch of every process.
        """
        loader = super().get_train_dataloader()
        if has_length(loader) and len(loader) == 0:
            raise too_few_pictures(len(self.train_dataset), self._train_batch_size, self.args.world_size)
        return loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # Trainer looks only after a step, and a finished training that is resumed would take one more.
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The training step of `Trainer`, with a check of the loss.

        Raises:
            SegZooError: the loss is not finite; the message names the pictures of the batch. Or no pixel counted in
                ``max_empty_steps`` steps in a row.
        """
        names, step = inputs.pop("name", ()), self.state.global_step + 1
        counts = self._labels.add(step, inputs["labels"])
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not counts:  # a mean over no pixels, as transformers' models take it, is NaN, and its gradient is 0
            loss = loss.nan_to_num(nan=0.0)
        if self.accelerator.sync_gradients:
            self._labels.check(step)
        if not math.isfinite(float(loss)):
            pictures = f" The pictures of this batch: {', '.join(map(str, names))}." if names else ""
            raise SegZooError(
                f"the loss is {float(loss)} at step {step}.{pictures} Lower --learning_rate, or set "
                "--warmup_steps or --max_grad_norm 1"
            )
        return loss

    def evaluate(
        self,
        eval_dataset: SegmentationDataset | Mapping[str, SegmentationDataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the model; every process calls this.

        Args:
            eval_dataset: data to use instead of the Trainer's ``eval_dataset``.
            ignore_keys: has no effect, since no outputs are gathered.
            metric_key_prefix: prefix of the scores' names.

        Returns:
            The scores as fractions, with ``eval_runtime`` in seconds and ``eval_samples_per_second``.

        Raises:
            SegZooError: there is nothing to evaluate on.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise SegZooError("there is no data to evaluate on; pass eval_dataset")
        if isinstance(dataset, Mapping):
            scores = {}
            for name, part in dataset.items():
                scores |= self.evaluate(part, metric_key_prefix=f"{metric_key_prefix}_{name}")
            return scores
        self._memory_tracker.start()
        broadcast_buffers(self.accelerator, self.model)
        start = time.time()
        with gathered(self.accelerator, self.model) as model:
            self.evaluation = evaluate(
                model,
                self.processing_class,
                dataset,
                accelerator=self.accelerator,
                num_labels=self.model.config.num_labels,
                ignore_index=self.ignore_index,
                settings=self.inference,
                batch_size=self.args.eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
            )
        scores = named_scores(self.evaluation, self.names)
        best = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if best.startswith(f"{metric_key_prefix}_iou_") or best.startswith(f"{metric_key_prefix}_accuracy_"):
            # The class may not occur: such an evaluation is never the best, and is no error.
            scores.setdefault(best.removeprefix(f"{metric_key_prefix}_"), math.nan)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        images = self.evaluation.num_images
        steps = math.ceil(images / (self.args.eval_batch_size * self.args.world_size))
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=images, num_steps=steps)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: `Trainer` would keep the logits of all pictures, which may differ in size.

        Raises:
            SegZooError: always; the message names what gives scores and label maps.
        """
        raise SegZooError(
            "SegmentationTrainer keeps no logits, so there is no predict; evaluate(dataset, metric_key_prefix='test') scores other "
            "data, and segzoo.predict gives the label maps of pictures"
        )

    def create_model_card(
        self,
        *,
        model_name: str | None = None,
        dataset: str | None = None,
        dataset_id: str | None = None,
        base_model: str | None = None,
        license: str | None = None,
        synthetic: bool = False,
        settings: Mapping[str, Any] | None = None,
        tags: Sequence[str] | str = (),
        finetuned_from: str | None = None,
        dataset_tags: Sequence[str] | str | None = None,
        **ignored: Any,
    ) -> None:
        """Write ``README.md`` into the output folder, with the scores of the last evaluation if there was one.

        `push_to_hub` calls this and passes keyword arguments on.

        Args:
            model_name: title of the card; None: the output folder's name.
            dataset: title of the data that the model was trained on.
            dataset_id: the data set's name on the Hub, if it has one.
            base_model: name on the Hub of the model that was fine-tuned; None: the one that the model was loaded from.
            license: licence of the weights.
            synthetic: whether the data are synthetic; the card then has a warning.
            settings: settings of the training, by name, in addition to those in ``args``.
            tags: further tags for the Hub.
            finetuned_from, dataset_tags: transformers' names for ``base_model`` and ``dataset_id``.
            ignored: ``language``, ``tasks`` and ``dataset_args`` of `Trainer`, which say nothing about segmentation.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        inference = self.inference or InferenceSettings.of_model(self.model, self.processing_class)
        protocol = inference.describe(self.processing_class)
        facts = ModelCardFacts(
            title=model_name or folder.resolve().name,
            dataset=dataset or "unknown",
            dataset_id=dataset_id or _first(dataset_tags),
            base_model=base_model or finetuned_from or base_model_of(self.model, self.hub_model_id),
            weights_licence=license,
            synthetic=synthetic,
            inference=protocol,
            training={**self._settings(), **(settings or {})} if self.state.global_step else {},
            repo_id=self.hub_model_id,
            tags=(tags,) if isinstance(tags, str) else tuple(tags),
        )
        scored = [] if self.evaluation is None else [(protocol, self.evaluation)]
        card = describe_training(self.model, facts, scored, processor=self.processing_class)
        write_whole(folder / "README.md", card)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not isinstance(self.model, WritesHashes):  # one of transformers
            complete_weights(output_dir or self.args.output_dir)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not (Path(self.args.output_dir) / "README.md").exists():
            self.create_model_card()  # else the repository has no card before the training ends
        super()._push_from_checkpoint(checkpoint_folder)

    def _settings(self) -> dict[str, Any]:
        args = self.args
        precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
        return {
            "optimizer": args.optim.value,
            "learning_rate": args.learning_rate,
            "lr_scheduler_type": args.lr_scheduler_type.value,
            "warmup_steps": args.get_warmup_steps(self.state.max_steps),
            "weight_decay": args.weight_decay,
            "adam_beta1": args.adam_beta1,
            "adam_beta2": args.adam_beta2,
            "adam_epsilon": args.adam_epsilon,
            "max_grad_norm": args.max_grad_norm,
            "images a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "processes": args.world_size,
            "mixed_precision": precision,
            "seed": args.seed,
            "steps": self.state.global_step,
        }


def _first(values: Sequence[str] | str | None) -> str | None:
    return values if isinstance(values, str) or not values else values[0]


class _Beginnings(TrainerCallback):
    """Gives each training a guard of its labels, and tells the data each epoch, on which its random numbers depend.

    With several processes accelerate does not tell them.
    """

    def __init__(self, trainer: SegmentationTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        limit = min(trainer.max_empty_steps, state.max_steps)
        trainer._labels = LabelGuard(limit, trainer.ignore_index, state.global_step, trainer.accelerator)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.train_dataset.set_epoch(int(state.epoch or 0))


def named_scores(evaluation: Evaluation, names: Sequence[str]) -> dict[str, float]:
    """The scores of an evaluation by name, with ``iou_NAME`` and ``accuracy_NAME`` for each class that has one."""
    scores = dict(evaluation.summary())
    for kind in ("iou", "accuracy"):
        for name, value in zip(names, evaluation.metrics[f"per_category_{kind}"].tolist(), strict=True):
            if math.isfinite(value):
                scores[f"{kind}_{name}"] = value
    return scores


def check_best_metric(args: TrainingArguments, names: Sequence[str], *, parts: Sequence[str] = ()) -> None:
    """Check before the training that ``metric_for_best_model`` is a score that evaluations give.

    Args:
        args: the settings.
        names: names of the classes.
        parts: names of the data sets to evaluate on, with which the names of scores begin where there are several.

    Raises:
        SegZooError: there is no such score; the message lists those that exist.
    """
    if args.metric_for_best_model is None:
        return
    wanted = args.metric_for_best_model.removeprefix("eval_")
    if parts:
        part = next((part for part in parts if wanted.startswith(f"{part}_")), None)
        if part is None:
            raise SegZooError(
                f"--metric_for_best_model {args.metric_for_best_model}: there are several data sets to evaluate on; begin with the "
                f"name of one, such as {parts[0]}_mean_iou"
            )
        wanted = wanted.removeprefix(f"{part}_")
    scores = [name for name, value in ConfusionMatrix(1).compute().items() if isinstance(value, float)]
    if wanted not in scores and wanted.removeprefix("iou_").removeprefix("accuracy_") not in names:
        raise SegZooError(
            f"--metric_for_best_model {args.metric_for_best_model}: evaluation has no such score; choose {', '.join(scores)}, or "
            "iou_ or accuracy_ and the name of a class"
        )


def find_trainer_checkpoint(directory: str | os.PathLike) -> Path | None:
    """The newest whole ``checkpoint-STEP`` of a `Trainer` in a folder, or None without any.

    Half-written checkpoints of killed runs are skipped with a warning.
    """
    folder = Path(directory)
    found = sorted(
        (path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()),
        key=lambda path: int(path.name.removeprefix("checkpoint-")),
    )
    for path in reversed(found):
        if is_whole_checkpoint(path):
            return path
        warnings.warn(f"{path} is not whole and is skipped", stacklevel=2)
    return None


def is_whole_checkpoint(directory: str | os.PathLike) -> bool:
    """Whether a `Trainer` finished writing a checkpoint: ``trainer_state.json``, its last file, can be read."""
    try:
        TrainerState.load_from_json(str(Path(directory) / "trainer_state.json"))
    except (OSError, ValueError, TypeError):
        return False
    return True

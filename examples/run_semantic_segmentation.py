"""Fine-tune a semantic-segmentation model, evaluate it at original size, and save it as a Hugging Face model folder.

A new model on a local folder (images/{split}, annotations/{split}):

    accelerate launch examples/run_semantic_segmentation.py --dataset_name DATA --classes camvid \
        --backbone resnet18_v1c --head uper --head_channels 64 --crop_size 192 256 --output_dir OUT

An existing model with other classes, from a folder or the Hub: ``--model_name_or_path MODEL`` instead of ``--backbone``.
The settings of a published model: ``--recipe NAME``, such as upernet_internimage_t_512_160k_ade20k; every flag overrides it.
The options are those of transformers' run_semantic_segmentation scripts, and more; plain ``python`` works too.
"""

import argparse
import contextlib
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from transformers.utils.logging import disable_progress_bar

import segzoo  # noqa: F401  registers the models
from segzoo.data import (
    DataSource,
    SegmentationDataset,
    SegmentationStream,
    build_processor_transform,
    collate_training,
)
from segzoo.data.checks.first_batch import check_first_batch, check_rows
from segzoo.data.rows import undecoded
from segzoo.data.splits import load_splits
from segzoo.errors import SegZooError
from segzoo.evaluation import evaluate
from segzoo.hub import push_folder, reserve_repository
from segzoo.inference import InferenceSettings
from segzoo.memory import keep_freed_memory
from segzoo.metrics import format_table
from segzoo.progress import Progress
from segzoo.training.arguments import notes_on_arguments, parse_arguments, settings_for_card
from segzoo.training.checkpoints import load_checkpoint, remove_old_checkpoints, resume_checkpoint, save_checkpoint
from segzoo.training.ema import WeightAverage
from segzoo.training.folder import FIGURES, LOG, RESULTS, claim_output_folder, write_json
from segzoo.training.guards import FiniteGuard, gradient_norm
from segzoo.training.models import (
    build_model,
    build_processor,
    crop_size_of,
    find_classes,
    load_config,
    training_transform,
)
from segzoo.training.optimization import build_optimizer, build_schedule
from segzoo.training.order import EpochBatches, batch_sizes, training_batches
from segzoo.training.processes import report_error, report_lost_process, run_together
from segzoo.training.reports.publishing import Outcome, publish_outcome
from segzoo.training.signals import EXIT_STOPPED, StoppedBySignal, StopRequest
from segzoo.training.sync_norms import broadcast_buffers, freeze_batch_norms, synchronise_batch_norms
from segzoo.training.trackers import TRACKER_FILES, start_trackers
from segzoo.training.unused import freeze_unused_parameters


def main(argv: list[str] | None = None) -> int:
    """Run the script; the exit status is 1 after an error of the user, which is one line on stderr."""
    disable_progress_bar()  # of saving and loading weights: they would break the progress line
    try:
        args, recipe = parse_arguments(argv, __doc__)
        with StopRequest() as stop:
            Run(args, recipe, stop).run()
    except StoppedBySignal as stopped:
        if PartialState().is_main_process:
            print(f"{stopped}; go on with --resume_from_checkpoint latest", file=sys.stderr)
        return EXIT_STOPPED
    except SegZooError as error:
        # A data-loading process sends its traceback inside the message; the last line is the error itself.
        message = str(error).strip().rpartition("Error: ")[2] if "Traceback" in str(error) else str(error)
        report_error(message)
        return 1
    except torch.OutOfMemoryError as error:
        report_error(
            f"out of GPU memory ({str(error).splitlines()[0]}); lower --per_device_train_batch_size (the recipe's batch is kept in "
            "more passes) or --crop_size, or take --mixed_precision bf16 or --gradient_checkpointing"
        )
        return 1
    except RuntimeError as error:
        if not report_lost_process(error):
            raise
        return 1
    except KeyboardInterrupt:
        print("interrupted; go on with --resume_from_checkpoint latest", file=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_initialized():
            PartialState().destroy_process_group()  # gloo aborts noisily otherwise
    return 0


class Run:
    """One training: `run` shows its course, the other methods are its parts in order."""

    def __init__(self, args: argparse.Namespace, recipe, stop: StopRequest):
        self.args, self.recipe, self.stop = args, recipe, stop
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            dynamo_backend="inductor" if args.torch_compile else None,
            cpu=args.use_cpu,
            log_with=args.report_to if args.with_tracking else None,
            project_dir=args.output_dir,
        )
        self.is_main = self.accelerator.is_main_process
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        # On CPUs it is the faster format for half precision only.
        self.channels_last = args.channels_last
        if args.channels_last is None:
            self.channels_last = not on_cpu or self.accelerator.mixed_precision != "no"
        self.memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        self.output_dir = Path(args.output_dir)
        self.hub_options = {
            "token": args.hub_token or args.token,
            "revision": args.model_revision,
            "cache_dir": args.cache_dir,
            "trust_remote_code": args.trust_remote_code,
        }
        # Where the training stands; all of it goes into checkpoints.
        self.step, self.history, self.seconds, self.best = 0, [], 0.0, None
        self.loss_so_far = {"sums": [0.0] * self.accelerator.num_processes, "steps": 0}  # since the last report
        self.average = self.evaluation = None
        self.settings = {}

    def run(self) -> dict:
        """Train, evaluate and save as the arguments say; returns the results that also stand in all_results.json."""
        args = self.args
        with contextlib.ExitStack() as held:

            def claim() -> None:
                overwrite, resume = args.overwrite_output_dir, args.resume_from_checkpoint is not None
                held.enter_context(claim_output_folder(self.output_dir, overwrite=overwrite, resume=resume))
                if args.push_to_hub:  # a wrong name or token shows now, not after the training
                    token = self.hub_options["token"] or None
                    reserve_repository(args.hub_model_id, private=args.hub_private_repo, token=token)

            self.together(claim, main_only=True)
            for note in notes_on_arguments(args):
                self.say(note)
            if args.tf32 is not None:
                torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
            if args.seed is not None:
                set_seed(args.seed)
            # Every mistake that can be found before the first step is found here.
            self.load_data()
            self.load_model()
            self.prepare_data()
            if args.do_train:
                self.prepare_training()
                self.resume()
                self.train()
            else:
                self.model = self.accelerator.prepare_model(self.model, evaluation_mode=True)
            results = self.finish()
            self.accelerator.end_training()
            return results

    def together(self, action, *, main_only: bool = False):
        """Run an action in all processes, or in the main one; where it fails in one, all stop with its message."""
        return run_together(self.accelerator, action, main_only=main_only)

    def say(self, text: str) -> None:
        """Print in one process."""
        if self.is_main:
            print(text, flush=True)

    # Data, classes and model

    def load_data(self) -> None:
        """The rows to train on and those to evaluate on, and the classes."""
        args = self.args
        with self.accelerator.main_process_first():  # it fills the cache for the others
            source = DataSource(
                args.dataset_name,
                config_name=args.dataset_config_name,
                streaming=args.streaming,
                image_column=args.image_column,
                label_column=args.label_column,
                cache_dir=args.cache_dir,
                token=self.hub_options["token"],
            )
            self.train_rows, self.eval_rows = load_splits(
                source,
                train_val_split=args.train_val_split,
                max_train_samples=args.max_train_samples,
                max_eval_samples=args.max_eval_samples,
                seed=args.seed or 0,
            )
        if self.train_rows is None and args.do_train:
            raise SegZooError(f"{args.dataset_name} has no train split; pass --do_eval alone to evaluate")
        self.classes = find_classes(
            args.dataset_name,
            classes=args.classes,
            num_labels=args.num_labels,
            model_config=load_config(args.config_name or args.model_name_or_path, self.hub_options),
            reduce_labels=args.do_reduce_labels,
            token=self.hub_options["token"],
        )
        self.num_labels = len(self.classes.id2label)

    def load_model(self) -> None:
        """The model, and the image processor that it is tested and saved with."""
        args, recipe = self.args, self.recipe
        self.model = build_model(
            self.classes,
            model_name_or_path=args.model_name_or_path,
            config_name=args.config_name,
            backbone=args.backbone,
            head=args.head,
            head_channels=args.head_channels,
            auxiliary_channels=args.auxiliary_channels,
            **recipe.model_options(),
            ignore_index=args.ignore_index,
            hub_options=self.hub_options,
        )
        self.processor = build_processor(
            self.model,
            self.classes,
            image_processor_name=args.image_processor_name or args.model_name_or_path,
            scale_size=recipe.eval_scale_size or recipe.scale_size,
            keep_ratio=recipe.keep_ratio,
            size_divisor=recipe.size_divisor,
            ignore_index=args.ignore_index,
            hub_options=self.hub_options,
        )
        if args.crop_by_model:
            self.recipe = replace(recipe, crop_size=crop_size_of(self.processor))

    def prepare_data(self) -> None:
        """Data sets and the order of the samples; the first batch is looked at."""
        args, recipe, accelerator = self.args, self.recipe, self.accelerator
        self.batch_size, self.accumulation = batch_sizes(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            recipe.total_train_batch_size,
            accelerator.num_processes,
        )
        self.global_batch = self.batch_size * accelerator.num_processes * self.accumulation
        transform = training_transform(self.processor, **recipe.augmentation_options(), ignore_index=args.ignore_index)
        self.collate = partial(collate_training, pad_labels=None if recipe.crop_size else args.ignore_index)
        options = {"seed": args.seed or 0, "num_labels": self.num_labels, "max_corrupt": args.max_corrupt}
        processes = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
        self.train_data = None
        if self.train_rows is None:
            self.order, self.batches_per_epoch = None, 0
        elif args.streaming:
            self.train_data = SegmentationStream(
                self.train_rows, transform, **options, shuffle_buffer=args.shuffle_buffer, **processes
            )
            self.order, self.batches_per_epoch = None, 0
        else:
            self.train_data = SegmentationDataset(self.train_rows, transform, **options)
            self.order = EpochBatches(len(self.train_data), self.batch_size, seed=args.seed or 0, **processes)
            self.batches_per_epoch = self.order.batches_per_epoch
        self.eval_data = SegmentationDataset(
            self.eval_rows,
            build_processor_transform(self.processor, ignore_index=args.ignore_index),
            num_labels=self.num_labels,
        )
        options = {
            "num_labels": self.num_labels,
            "ignore_index": args.ignore_index,
            "reduce_labels": self.classes.reduce_labels,
        }
        train_options = options | {"crop_size": recipe.crop_size, "max_corrupt": args.max_corrupt}
        if args.do_train and args.streaming:
            rows = enumerate(undecoded(self.train_rows).take(self.batch_size))
            self.check(lambda: check_rows(rows, **train_options, transform=transform))
        elif args.do_train:
            self.check(lambda: check_first_batch(self.train_data, self.order.indices(0), **train_options))
        if args.do_eval:
            first = range(min(4, len(self.eval_data)))
            self.check(lambda: check_first_batch(self.eval_data, first, **options))

    def check(self, look) -> None:
        """Look at pictures and masks in every process; what is wrong with them is said before the first step."""
        for line in self.together(look):
            self.say(line)

    # Training

    def prepare_training(self) -> None:
        """Optimizer and schedule, in as many processes as there are."""
        args, recipe, accelerator = self.args, self.recipe, self.accelerator
        self.steps_per_epoch = max(1, self.batches_per_epoch // self.accumulation)
        epochs_of_batches = int((recipe.num_train_epochs or 0) * self.batches_per_epoch)
        self.total_steps = recipe.max_train_steps or max(1, epochs_of_batches // self.accumulation)
        warmup_steps = recipe.num_warmup_steps
        if args.warmup_ratio is not None:
            warmup_steps = int(args.warmup_ratio * self.total_steps)
        if args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model.to(memory_format=self.memory_format)
        if recipe.freeze_backbone:
            self.model.backbone.requires_grad_(False)
        if accelerator.num_processes > 1 and (unused := freeze_unused_parameters(self.model, recipe.crop_size)):
            self.say(
                f"note: {len(unused)} parameters are not trained, because no head reads them, such as {unused[0]}"
            )
        if accelerator.num_processes > 1 and args.sync_batch_norm and accelerator.device.type == "cpu":
            self.say(
                "note: on CPUs batch norms are not synchronised: each process normalises its own part of the batch"
            )
        elif accelerator.num_processes > 1 and args.sync_batch_norm:
            self.model = synchronise_batch_norms(self.model)
        self.model.train()
        if args.freeze_norms:
            freeze_batch_norms(self.model)
        optimizer = build_optimizer(self.model, **recipe.optimizer_options())
        schedule_options = recipe.schedule_options() | {"num_warmup_steps": warmup_steps}
        self.schedule = build_schedule(optimizer, total_steps=self.total_steps, **schedule_options)
        if recipe.ema_decay:
            self.average = WeightAverage(self.model.to(accelerator.device), recipe.ema_decay)
            accelerator.register_for_checkpointing(self.average)
        self.model, self.optimizer = accelerator.prepare(self.model, optimizer)
        accelerator.register_for_checkpointing(self.schedule)
        if args.seed is not None:
            set_seed(args.seed, device_specific=True)  # dropout differs between processes
        self.settings = settings_for_card(args, accelerator.num_processes, self.total_steps)
        self.settings |= {"pictures a step": self.global_batch}
        if args.with_tracking:
            start_trackers(accelerator, self.output_dir, {**recipe.to_dict(), **self.settings})
        classes = self.classes
        amount = "a stream of" if args.streaming else len(self.train_data)
        parts = f"{self.batch_size} on each of {accelerator.num_processes} x {accelerator.device.type}"
        if self.accumulation > 1:
            parts += f", in {self.accumulation} passes"
        self.say(
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.1f} million parameters, {self.num_labels} classes "
            f"({classes.source}){', 0 = no class' if classes.reduce_labels else ''}; {amount} pictures to train on, "
            f"{len(self.eval_data)} to evaluate; {self.total_steps} steps of {self.global_batch} pictures ({parts}), "
            f"{accelerator.mixed_precision} precision; recipe: {recipe.name}"
        )

    def resume(self) -> None:
        """Go on from where an earlier run stopped, if asked to."""
        if self.args.resume_from_checkpoint is None:
            return
        resumed = resume_checkpoint(self.accelerator, self.output_dir, self.args.resume_from_checkpoint)
        if resumed is None and (self.output_dir / "config.json").is_file():
            raise SegZooError(f"{self.output_dir} holds a finished model and no checkpoint to go on from")
        if resumed is None:
            self.say(f"There is no checkpoint in {self.output_dir} yet: training starts from the beginning.")
            return
        memory = resumed.memory
        self.step, self.history, self.seconds = resumed.step, memory["history"], memory["seconds"]
        self.best, self.loss_so_far = memory["best"], memory["loss"]
        now = {**self.recipe.to_dict(), **self.settings}
        changed = [name for name, value in memory["settings"].items() if now.get(name) != value]
        self.say(f"Resumed from {resumed.folder} after step {self.step}.")
        if changed and self.is_main:
            warnings.warn(f"these settings differ from the resumed run's: {', '.join(changed)}", stacklevel=1)

    def batches(self):
        """Batches without end, from where the training stands."""
        options = {
            "first_batch": self.step * self.accumulation,
            "num_workers": self.args.dataloader_num_workers,
            "collate": self.collate,
        }
        if self.order is None:
            return self.train_data.batches(self.batch_size, **options)
        return training_batches(
            self.train_data, self.order, pin_memory=self.accelerator.device.type == "cuda", **options
        )

    def train(self) -> None:
        """The training itself, with the clock running; loading processes end with it, whatever ends it."""
        self.start = time.perf_counter()
        self.progress = Progress(self.total_steps, enabled=self.is_main)
        with contextlib.closing(self.batches()) as batches:
            self.take_steps(batches)
        self.progress.finish_line()
        self.seconds += time.perf_counter() - self.start

    def take_steps(self, batches) -> None:
        """Step after step, with reports, evaluations and checkpoints in between."""
        args, accelerator, model = self.args, self.accelerator, self.model
        guard = FiniteGuard(args.max_bad_steps, accelerator)
        every_log = self.steps_per_epoch if args.log_epochs else args.logging_steps
        every_evaluation = self.interval(args.eval_steps) if args.do_eval else 0
        every_checkpoint = self.interval(args.checkpointing_steps)
        sums = self.loss_so_far["sums"]
        own_sum = sums[accelerator.process_index] if len(sums) == accelerator.num_processes else sum(sums) / len(sums)
        loss_sum, loss_steps = torch.tensor(own_sum, device=accelerator.device), self.loss_so_far["steps"]
        for step in range(self.step + 1, self.total_steps + 1):
            self.step, names = step, []
            step_loss = torch.zeros((), device=accelerator.device)
            for part in range(self.accumulation):
                with self.progress.waiting():
                    batch = next(batches)
                names += batch["name"]
                pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
                pixel_values = pixel_values.contiguous(memory_format=self.memory_format)
                labels = batch["labels"].to(accelerator.device, non_blocking=True)
                last = part == self.accumulation - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(model):
                    loss = model(pixel_values=pixel_values, labels=labels).loss / self.accumulation
                    accelerator.backward(loss)
                step_loss += loss.detach()
            norm = gradient_norm(accelerator, model, self.recipe.max_grad_norm)
            learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
            if guard.allows(step, step_loss, norm, names):
                self.optimizer.step()
                if self.average is not None:
                    self.average.update(accelerator.unwrap_model(model))
                loss_sum, loss_steps = loss_sum + step_loss, loss_steps + 1
            self.schedule.step()
            self.optimizer.zero_grad()
            self.progress.step(self.global_batch)

            end = step == self.total_steps
            if (step % every_log == 0 or end) and loss_steps:
                mean_loss = float(accelerator.reduce(loss_sum, reduction="mean")) / loss_steps
                loss_sum, loss_steps = torch.zeros_like(loss_sum), 0
                entry = self.progress.report(step, mean_loss, learning_rate, grad_norm=float(norm))
                self.history.append(entry)
                if args.with_tracking:
                    accelerator.log(
                        {"train_loss": mean_loss, **{k: v for k, v in entry.items() if k != "step"}}, step=step
                    )
            is_best = False
            if args.do_eval and (end or (every_evaluation and step % every_evaluation == 0)):
                is_best = self.evaluate()
            stopping = self.stop.agreed(accelerator)
            if (
                stopping
                or (every_checkpoint and (step % every_checkpoint == 0 or end))
                or (is_best and args.load_best_model_at_end)
            ):
                self.loss_so_far = {"sums": accelerator.gather(loss_sum[None]).tolist(), "steps": loss_steps}
                self.save()
            if stopping and not end:
                self.progress.finish_line()
                raise StoppedBySignal(self.stop.received or "another process was asked to stop", step)
            self.progress.restart_clock()

    def interval(self, value: str | None) -> int:
        """Steps between two events: a number, or "epoch"; 0 for never."""
        return self.steps_per_epoch if value == "epoch" else int(value or 0)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        memory = {
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self.start,
            "best": self.best,
            "loss": self.loss_so_far,
            "settings": {**self.recipe.to_dict(), **self.settings},
        }
        save_checkpoint(self.accelerator, self.output_dir, self.step, memory)
        if self.is_main:
            remove_old_checkpoints(
                self.output_dir, self.args.save_total_limit, best_step=self.best["step"] if self.best else None
            )

    def evaluate(self) -> bool:
        """Score the model as it is now (its average, where there is one); returns whether it is the best so far."""
        self.evaluation = self.score()
        scores = {f"eval_{name}": value for name, value in self.evaluation.summary().items()}
        self.history.append({"step": self.step, **scores})
        self.progress.message(
            f"evaluation after step {self.step}: mIoU {100 * scores['eval_mean_iou']:.2f} %, pixel accuracy "
            f"{100 * scores['eval_overall_accuracy']:.2f} %, {self.evaluation.num_images} images in "
            f"{self.evaluation.seconds:.1f} s"
        )
        if self.args.with_tracking:
            self.accelerator.log(scores, step=self.step)
        if self.best is None or scores["eval_mean_iou"] > self.best["mean_iou"]:
            self.best = {"step": self.step, "mean_iou": scores["eval_mean_iou"]}
            return True
        return False

    def score(self, settings: InferenceSettings | None = None):
        """Evaluate at the original size of every picture, by the protocol of the model's config or another one."""
        bare = self.accelerator.unwrap_model(self.model)
        broadcast_buffers(self.accelerator, bare)
        with self.average.applied_to(bare) if self.average is not None else contextlib.nullcontext():
            evaluation = evaluate(
                self.model,
                self.processor,
                self.eval_data,
                accelerator=self.accelerator,
                num_labels=self.num_labels,
                ignore_index=self.args.ignore_index,
                settings=settings,
                batch_size=self.args.per_device_eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
                channels_last=self.channels_last,
            )
        if self.args.freeze_norms and bare.training:
            freeze_batch_norms(bare)
        return evaluation

    # The end

    def finish(self) -> dict:
        """Tables, pictures, report, and the model with its card."""
        args, classes, accelerator = self.args, self.classes, self.accelerator
        bare = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        evaluation = None
        if args.do_train:
            evaluation = self.evaluation
            if args.load_best_model_at_end and self.best["step"] != self.total_steps:
                load_checkpoint(accelerator, self.output_dir / f"step_{self.best['step']}")
                self.say(f"the best model is that of step {self.best['step']}")
                evaluation = None
            if self.average is not None:
                self.average.copy_to(bare)
                self.average = None
        if args.do_eval and evaluation is None:
            evaluation = self.score()
        settings = InferenceSettings.of_model(bare, self.processor)
        protocol = settings.describe(self.processor)
        augmented = None
        if evaluation is not None:
            self.say(f"{format_table(evaluation.metrics, classes.names)}\n{protocol}")
            if self.recipe.eval_scales != (1.0,) or self.recipe.eval_flip:
                settings = replace(settings, scales=self.recipe.eval_scales, flip=self.recipe.eval_flip)
                augmented = settings.describe(self.processor), self.score(settings)
                self.say(f"mIoU {100 * augmented[1].metrics['mean_iou']:.2f} %: {augmented[0]}")
        is_hub_model = args.model_name_or_path is not None and not Path(args.model_name_or_path).is_dir()
        outcome = Outcome(
            model=bare,
            processor=self.processor,
            classes=classes,
            recipe=self.recipe,
            settings=self.settings,
            history=self.history,
            seconds=self.seconds,
            protocol=protocol,
            evaluation=evaluation,
            augmented=augmented,
            best=self.best,
            step=self.best["step"] if args.load_best_model_at_end else self.step,
            dataset_name=args.dataset_name,
            num_train=None if args.streaming or self.train_rows is None else len(self.train_rows),
            num_eval=len(self.eval_rows),
            base_model=args.model_name_or_path if is_hub_model else None,
            repo_id=args.hub_model_id,
        )
        self.together(lambda: self.publish(outcome), main_only=True)
        return outcome.results

    def publish(self, outcome: Outcome) -> None:
        """Write what there is to show, and upload it where asked to."""
        if not self.args.do_train:
            write_json(self.output_dir / RESULTS, outcome.results)
            return
        for note in publish_outcome(outcome, self.output_dir, self.eval_data, accelerator=self.accelerator):
            self.say(note)
        self.say(f"model, card, report.html, {RESULTS}, {LOG} and {FIGURES}/ are in {self.output_dir}")
        if self.args.push_to_hub:
            url = push_folder(
                self.output_dir,
                self.args.hub_model_id,
                private=self.args.hub_private_repo,
                token=self.hub_options["token"],
                ignore_patterns=["step_*", "step_*/*", ".*", *TRACKER_FILES],
            )
            self.say(f"pushed: {url}")


if __name__ == "__main__":
    sys.exit(main())

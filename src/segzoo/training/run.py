"""The course of a training: data and model, optimizer, the steps with evaluations and checkpoints, and the results.

``segzoo train`` and `train` run it; the parts are in the other modules of this folder.
"""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from segzoo.configuration_segzoo import input_channels
from segzoo.data.augmentation import pipeline_names
from segzoo.data.pipelines import kept_pipeline
from segzoo.data.row_counts import RowCounts
from segzoo.errors import SegZooError, cause_of
from segzoo.evaluation import Evaluation, evaluate
from segzoo.hub import reserve_repository
from segzoo.inference import InferenceSettings
from segzoo.memory import keep_freed_memory
from segzoo.metrics import format_table
from segzoo.progress import Progress, say
from segzoo.text import line_text
from segzoo.training.arguments import DEFAULTS, RunOptions, notes_on_arguments, settings_for_card
from segzoo.training.checkpoints import (
    changed_settings,
    kept_settings,
    load_checkpoint,
    remove_old_checkpoints,
    resume_checkpoint,
    save_checkpoint,
)
from segzoo.training.class_weights import class_weights, weights_in_words
from segzoo.training.ema import WeightAverage
from segzoo.training.folder import (
    COUNTS,
    RESULTS,
    TRAIN_FILES,
    claim_output_folder,
    publish_model,
    write_json,
    write_text,
)
from segzoo.training.frozen import BACKBONE, TrainedPart, hold_still
from segzoo.training.guards import FiniteGuard, LabelGuard, gradient_norm
from segzoo.training.inputs import (
    MeanLoss,
    count_training_classes,
    load_model,
    load_pictures,
    picture_names,
    prepare_data,
)
from segzoo.training.models import no_distortion
from segzoo.training.optimization import build_optimizer, build_schedule
from segzoo.training.preparing import describe_training, prepare_model, validation_look
from segzoo.training.processes import run_together
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.reports.publishing import Outcome, publish_outcome
from segzoo.training.room import Sizes, check_room
from segzoo.training.sharding import check_distribution, gathered, is_sharded, shard_on_cpus, whole_state
from segzoo.training.shown_classes import ShownClasses
from segzoo.training.signals import StoppedBySignal, StopRequest
from segzoo.training.sync_norms import broadcast_buffers
from segzoo.training.timetable import Timetable
from segzoo.training.trackers import start_trackers


def train(options: RunOptions, recipe: Recipe = DEFAULTS) -> dict[str, Any]:
    """Train, evaluate and save a model, as ``segzoo train`` does; several processes call this together.

    Args:
        options: the data, the model, the output folder, and everything else that the recipe does not hold.
        recipe: how to train; `segzoo.training.resolve_recipe` makes one from a name and changes.

    Returns:
        The contents of all_results.json: scores as fractions, such as ``eval_mean_iou``.

    Raises:
        SegZooError: settings, data or files that cannot be used; most are found before the first step.
        StoppedBySignal: SIGTERM, SIGUSR1 or SIGHUP arrived, or the launcher has ended; a checkpoint of the last step
            has been written.
        KeyboardInterrupt: Ctrl-C was pressed; once steps are taken, a checkpoint of the last one has been written.
    """
    options.check_recipe(recipe)
    check_distribution(options, recipe)
    with StopRequest() as stop:
        return Run(options, recipe, stop).run()


class Run:
    """One training: `run` shows its course, and the other methods are its parts, in their order."""

    def __init__(self, options: RunOptions, recipe: Recipe, stop: StopRequest):
        self.options, self.recipe, self.stop = options, recipe, stop
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            dynamo_backend="inductor" if options.torch_compile else None,
            cpu=options.use_cpu,
            log_with=list(options.report_to) if options.with_tracking else None,
            project_dir=options.output_dir,
        )
        shard_on_cpus(self.accelerator)
        self.is_main = self.accelerator.is_main_process
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        # On CPUs channels-last is faster in half precision only.
        self.channels_last = options.channels_last
        if self.channels_last is None:
            # FSDP2 divides contiguous weights only.
            on_cpu_in_float32 = on_cpu and self.accelerator.mixed_precision == "no"
            self.channels_last = not (on_cpu_in_float32 or is_sharded(self.accelerator))
        self.memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        self.output_dir = Path(options.output_dir)
        self.model: PreTrainedModel  # set by prepare_inputs, wrapped by prepare_training
        self.backbone_weights: str | None = None  # what the backbone of a new model begins with
        # The state of the training; all of it goes into checkpoints.
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.mean_loss = MeanLoss(self.accelerator)
        self.average: WeightAverage | None = None
        self.evaluation: Evaluation | None = None
        self.shown: ShownClasses | None = None  # during the first epoch
        self.notes: list[str] = []
        self.kept_step: int | None = None  # the step whose model is in the output folder
        self.settings: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train, evaluate and save according to the options; returns the contents of all_results.json."""
        with contextlib.ExitStack() as held, self.telling_of_the_model():
            self.together(lambda: self.claim(held), main_only=True)
            for note in notes_on_arguments(self.options):
                self.say(note)
            if self.options.tf32 is not None:
                torch.set_float32_matmul_precision("high" if self.options.tf32 else "highest")
            set_seed(self.options.seed)
            # From here to the first step, every mistake that can be found early is found.
            self.keep_pipeline()
            self.prepare_inputs()
            if self.options.do_train:
                self.prepare_training()
                self.resume()
                if self.step < self.total_steps:
                    due = self.timetable.checkpoints_after(self.step)
                    self.together(lambda: check_room(self.options, self.sizes, due=due), main_only=True)
                self.train()
            else:
                self.model = self.accelerator.prepare_model(self.model, evaluation_mode=True)
            results = self.finish()
            self.accelerator.end_training()
            return results

    def together(self, action: Callable[[], Any], *, main_only: bool = False) -> Any:
        """Run an action in all processes, or in the main one; if it fails in one, all stop with its message."""
        return run_together(self.accelerator, action, main_only=main_only)

    def say(self, text: str) -> None:
        """Print a line, in the main process only."""
        if self.is_main:
            say(line_text(text))

    @contextlib.contextmanager
    def telling_of_the_model(self) -> Iterator[None]:
        """A context in which errors after the training tell that the trained model is saved, and where."""
        try:
            yield
        except Exception as error:
            if self.kept_step is None:
                raise
            where = f"the trained model, after step {self.kept_step}, is whole in {self.output_dir}"
            if not isinstance(error, (SegZooError, OSError)):
                if self.is_main:
                    say(where, stream=sys.stderr)
                raise
            raise SegZooError(f"{cause_of(error).rstrip('.')}; {where}") from error

    def claim(self, held: contextlib.ExitStack) -> None:
        """Claim the output folder until ``held`` closes, and create the repository: a wrong token fails now."""
        options = self.options
        resume = options.resume_from_checkpoint is not None
        held.enter_context(claim_output_folder(self.output_dir, overwrite=options.overwrite_output_dir, resume=resume))
        if options.push_to_hub:
            token = options.hub_options["token"] or None
            reserve_repository(options.hub_model_id, private=options.hub_private_repo, token=token)

    def keep_pipeline(self) -> None:
        """Go on with the checkpoint's ``--augmentation``, whose file may be gone, but may not hold anything else."""
        wanted = self.options.resume_from_checkpoint
        if wanted is None:
            return
        kept = self.together(lambda: kept_settings(self.output_dir, wanted), main_only=True).get("pipeline")
        pipeline = kept_pipeline(self.options.augmentation, self.recipe.pipeline, kept)
        if pipeline != self.recipe.pipeline:
            self.say(f"note: --augmentation as the checkpoint has it: {', '.join(pipeline_names(pipeline))}")
            self.recipe = replace(self.recipe, pipeline=pipeline)

    def prepare_inputs(self) -> None:
        """Load data, classes, model and image processor, and check the first pictures in every process."""
        self.pictures = load_pictures(self.options, self.recipe, self.accelerator)
        self.classes = self.pictures.classes
        counts = self.count_classes()
        asked = self.recipe
        loaded = load_model(self.options, self.recipe, self.classes)
        self.model, self.processor, self.recipe = loaded.built.model, loaded.processor, loaded.recipe
        self.backbone_weights = loaded.built.backbone_weights
        for note in loaded.built.notes:
            self.say(note)
        num_channels = input_channels(self.model.config)
        if asked.photometric_distortion and not self.recipe.photometric_distortion:
            self.say(f"note: {no_distortion(num_channels)}")
        inputs = prepare_data(
            self.options,
            self.recipe,
            self.pictures,
            self.processor,
            self.accelerator,
            num_channels=num_channels,
            counts=counts,
        )
        self.data, self.eval_data = inputs.batches, inputs.eval_data
        if self.options.do_train and self.recipe.train_fraction is not None and not self.data.streaming:
            names = self.output_dir / TRAIN_FILES
            self.together(lambda: write_text(names, picture_names(self.pictures.train)), main_only=True)
        for look in inputs.looks:
            for line in self.together(look):
                self.say(line)
        self.look = validation_look(self.options, self.classes, self.eval_data, is_main=self.is_main)
        for line in self.together(self.look.first, main_only=True):
            self.say(line)

    def count_classes(self) -> RowCounts | None:
        """Count the classes if the recipe needs it, and put the class weights that follow into the recipe."""
        rule = self.recipe.weights_rule
        if not self.options.do_train:
            if rule is not None:
                self.recipe = replace(self.recipe, class_weights=None)
            return None
        if rule is None and self.recipe.sampling != "balanced":
            return None
        rows = count_training_classes(self.options, self.pictures, self.accelerator, self.output_dir / COUNTS)
        if rule is not None:
            counts = rows.summed()
            weights = class_weights(counts, rule)
            self.recipe = replace(self.recipe, class_weights=weights)
            self.say(weights_in_words(weights, self.classes.names, rule, counts))
        return rows

    # Training

    def prepare_training(self) -> None:
        """Make optimizer, schedule and weight average, and let accelerate wrap model and optimizer."""
        options, recipe, accelerator = self.options, self.recipe, self.accelerator
        passes = int((recipe.num_train_epochs or 0) * self.data.an_epoch)
        self.total_steps = recipe.max_train_steps or max(1, passes // self.data.accumulation)
        self.timetable = Timetable.of(options, total_steps=self.total_steps, steps_an_epoch=self.data.steps_an_epoch)
        self.shown = ShownClasses(self.classes.names, options.ignore_index, accelerator)
        self.model, notes = prepare_model(self.model, options, recipe, accelerator, memory_format=self.memory_format)
        for note in notes:
            self.say(note)
        optimizer = build_optimizer(self.model, recipe.optimizer_options)
        schedule = recipe.schedule_options
        if options.warmup_ratio is not None:
            schedule = replace(schedule, num_warmup_steps=int(options.warmup_ratio * self.total_steps))
        self.schedule = build_schedule(optimizer, schedule, total_steps=self.total_steps)
        left_out = BACKBONE if options.save_trained_only else None
        if recipe.ema_decay:
            self.average = WeightAverage(self.model.to(accelerator.device), recipe.ema_decay, left_out=left_out)
            accelerator.register_for_checkpointing(self.average)
        self.sizes = Sizes.of(self.model, optimizer, averaged=self.average is not None, left_out=left_out)
        if recipe.freeze_backbone:
            TrainedPart(accelerator, self.model, saved_alone=options.save_trained_only)
        self.model, self.optimizer = accelerator.prepare(self.model, optimizer)
        accelerator.register_for_checkpointing(self.schedule)
        set_seed(options.seed, device_specific=True)  # dropout differs between processes
        self.settings = settings_for_card(options, accelerator.num_processes, self.total_steps)
        self.settings |= {"pictures a step": self.data.pictures_a_step}
        if self.backbone_weights is not None:
            self.settings |= {"backbone's first weights": self.backbone_weights}
        if options.with_tracking:
            start_trackers(accelerator, self.output_dir, {**recipe.to_dict(), **self.settings})
        self.say(
            describe_training(
                self.model,
                self.classes,
                self.data,
                num_eval=len(self.eval_data),
                total_steps=self.total_steps,
                accelerator=accelerator,
                recipe=recipe,
            )
        )

    def resume(self) -> None:
        """Go on from a checkpoint of an earlier run, if the options ask for it."""
        if self.options.resume_from_checkpoint is None:
            return
        wanted, overwrite = self.options.resume_from_checkpoint, self.options.overwrite_output_dir
        resumed = resume_checkpoint(self.accelerator, self.output_dir, wanted, overwrite=overwrite)
        if resumed is None and (self.output_dir / "config.json").is_file():
            raise SegZooError(f"{self.output_dir} holds a finished model and no checkpoint to go on from")
        if resumed is None:
            self.say(f"There is no checkpoint in {self.output_dir} yet: training starts from the beginning.")
            return
        memory = resumed.memory
        self.step, self.history, self.seconds = resumed.step, memory["history"], memory["seconds"]
        self.best, self.mean_loss = memory["best"], MeanLoss(self.accelerator, memory["loss"])
        self.shown = self.shown.resumed(memory.get("shown_classes"))
        changed = changed_settings(memory["settings"], self.comparable())
        self.say(f"Resumed from {resumed.folder} after step {self.step}.")
        if changed and self.is_main:
            warnings.warn(f"these settings differ from the resumed run's: {', '.join(changed)}", stacklevel=1)

    def comparable(self) -> dict[str, Any]:
        """Recipe, settings and data by name, as a checkpoint keeps them."""
        return {**self.recipe.to_dict(), **self.settings, **self.data_facts}

    @cached_property
    def data_facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data; the main process alone reads and writes it."""
        return self.pictures.describe(self.options) if self.is_main else {}

    def train(self) -> None:
        """The training itself, timed; the data-loading processes end with it, even after an error."""
        self.start = time.perf_counter()
        self.progress = Progress(self.total_steps, enabled=self.is_main)
        with contextlib.closing(self.data.after(self.step)) as batches, self.look, self.stop.deferring_interrupts():
            self.take_steps(batches)
        self.progress.finish_line()
        self.seconds += time.perf_counter() - self.start

    def take_steps(self, batches: Iterator[dict[str, Any]]) -> None:
        """Take the steps, with reports, evaluations and checkpoints in between."""
        options, accelerator = self.options, self.accelerator
        limit = min(options.max_empty_steps, self.total_steps)
        self.labels = LabelGuard(limit, options.ignore_index, self.step, accelerator)
        guard = FiniteGuard(options.max_bad_steps, accelerator, self.labels)
        for step in range(self.step + 1, self.total_steps + 1):
            self.step = step
            loss, names = self.add_gradients(batches)
            self.labels.check(step)
            norm = gradient_norm(accelerator, self.model, self.recipe.max_grad_norm)
            learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
            if guard.allows(step, loss, norm, names):
                self.optimizer.step()
                if self.average is not None:
                    self.average.update(accelerator.unwrap_model(self.model))
                self.mean_loss.add(loss)
            self.schedule.step()
            self.optimizer.zero_grad()
            self.progress.step(self.data.pictures_a_step)

            end = step == self.total_steps
            if end:  # before reports, evaluations and trackers, all of which may fail
                self.keep_model(step)
                if self.timetable.saves(step) and self.timetable.evaluates(step):
                    self.save()
            if self.timetable.reports(step) and self.mean_loss.steps:
                self.report(learning_rate, float(norm))
            if self.shown is not None and step == (
                self.data.steps_an_epoch if self.data.an_epoch else self.total_steps
            ):
                self.report_shown_classes()
            is_best = self.timetable.evaluates(step) and self.evaluate()
            if (problem := self.look.problem()) is not None:
                self.stop.ask(problem)
            stopping = self.stop.agreed(accelerator)
            if stopping or self.timetable.saves(step) or (is_best and options.load_best_model_at_end):
                self.save()
            if stopping and not end:
                self.end_early()
            self.progress.restart_clock()

    def end_early(self) -> None:
        """End the training after a checkpoint of this step, with the error that says why."""
        self.progress.finish_line()
        self.together(self.refuse_validation, main_only=True)
        if self.stop.received == "SIGINT":
            raise KeyboardInterrupt
        raise StoppedBySignal(self.stop.received or "another process was asked to stop", self.step)

    def refuse_validation(self) -> None:
        """Raise the error of a validation picture that the look beside the training has found."""
        problem = self.look.problem()
        if problem is not None and problem == self.stop.received:
            raise SegZooError(
                f"{problem} The training stopped after step {self.step}, before its evaluation would have failed: mend "
                "the data or pass --max_corrupt, and go on with --resume_from_checkpoint latest"
            )

    def add_gradients(self, batches: Iterator[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        """Forward and backward through the batches of a step; returns loss (a scalar) and names of pictures."""
        accelerator, accumulation, names = self.accelerator, self.data.accumulation, []
        step_loss = torch.zeros((), device=accelerator.device)
        for part in range(accumulation):
            with self.progress.waiting():
                batch = next(batches)
            names += batch["name"]
            self.labels.add(self.step, batch["labels"])
            if self.shown is not None:
                self.shown.add(batch["labels"])
            pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
            pixel_values = pixel_values.contiguous(memory_format=self.memory_format)
            labels = batch["labels"].to(accelerator.device, non_blocking=True)
            last = part == accumulation - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss = self.model(pixel_values=pixel_values, labels=labels).loss / accumulation
                accelerator.backward(loss)
            step_loss += loss.detach()
        return step_loss, names

    def report(self, learning_rate: float, norm: float) -> None:
        """Report loss, learning rate and speed: on the terminal, in the history, and to trackers."""
        loss = self.mean_loss.take()
        entry = self.progress.report(self.step, loss, learning_rate, grad_norm=norm)
        self.history.append(entry)
        if self.options.with_tracking:
            values = {name: value for name, value in entry.items() if name != "step"}
            self.accelerator.log({"train_loss": loss, **values}, step=self.step)

    def report_shown_classes(self) -> None:
        """Warn of classes that no picture of the first epoch showed, once; a stream's epoch is the whole training."""
        warning, self.shown = self.shown.warning(), None
        if warning is not None:
            self.notes.append(warning)
            self.progress.message(f"warning: {warning}")

    def save(self) -> None:
        """Write a checkpoint of this step, and remove those that exceed ``save_total_limit``."""
        memory = {
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self.start,
            "best": self.best,
            "loss": self.mean_loss.gather(),
            "shown_classes": None if self.shown is None else self.shown.gather(),
            "settings": self.comparable(),
        }
        with self.stop.saving():
            save_checkpoint(self.accelerator, self.output_dir, self.step, memory)
        if self.is_main:
            best_step = self.best["step"] if self.best else None
            remove_old_checkpoints(self.output_dir, self.options.save_total_limit, best_step=best_step)

    def keep_model(self, step: int) -> None:
        """Write the present weights, those after ``step``, or their average, with config and processor into the folder.

        This comes before whatever else may fail after the last step; scores and pictures are added to the folder.
        """
        bare = self.accelerator.unwrap_model(self.model)
        state = whole_state(self.accelerator, bare)

        def write() -> None:
            with self.average.applied_to(bare) if self.average is not None else contextlib.nullcontext():
                publish_model(bare, self.processor, self.output_dir, state=state)

        with self.stop.saving():
            self.together(write, main_only=True)
            self.kept_step = step

    def evaluate(self) -> bool:
        """Score the present weights, or their average if there is one; returns whether they are the best so far."""
        self.look.close()  # the evaluation reads every picture itself
        self.evaluation = self.score()
        scores = {f"eval_{name}": value for name, value in self.evaluation.summary().items()}
        self.history.append({"step": self.step, **scores})
        self.progress.message(
            f"evaluation after step {self.step}: mIoU {100 * scores['eval_mean_iou']:.2f} %, pixel accuracy "
            f"{100 * scores['eval_overall_accuracy']:.2f} %, {self.evaluation.num_images} images in "
            f"{self.evaluation.seconds:.1f} s"
        )
        if self.options.with_tracking:
            self.accelerator.log(scores, step=self.step)
        if self.best is None or scores["eval_mean_iou"] > self.best["mean_iou"]:
            self.best = {"step": self.step, "mean_iou": scores["eval_mean_iou"]}
            return True
        return False

    def score(self, settings: InferenceSettings | None = None) -> Evaluation:
        """Evaluate at the original size of every picture; ``settings`` is the protocol, by default the model's own."""
        options = self.options
        bare = self.accelerator.unwrap_model(self.model)
        broadcast_buffers(self.accelerator, bare)
        averaged = self.average.applied_to(bare) if self.average is not None else contextlib.nullcontext()
        with gathered(self.accelerator, bare), averaged:
            evaluation = evaluate(
                self.model,
                self.processor,
                self.eval_data,
                accelerator=self.accelerator,
                num_labels=len(self.classes.names),
                ignore_index=options.ignore_index,
                settings=settings,
                batch_size=options.per_device_eval_batch_size,
                num_workers=options.dataloader_num_workers,
                channels_last=self.channels_last,
            )
        if self.options.do_train and bare.training:
            hold_still(bare, backbone=self.recipe.freeze_backbone, norms=options.freeze_norms)
        return evaluation

    # The end

    @property
    def chosen_step(self) -> int:
        """The step whose weights are the result of the training."""
        return self.best["step"] if self.options.load_best_model_at_end and self.best else self.step

    def finish(self) -> dict[str, Any]:
        """Evaluate once more if necessary, and write the results; returns the contents of all_results.json."""
        options = self.options
        bare = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        evaluation = self.final_evaluation(bare)
        settings = InferenceSettings.of_model(bare, self.processor)
        protocol, augmented = settings.describe(self.processor), None
        if evaluation is not None and (missing := len(self.eval_data) - evaluation.num_images):
            self.notes.append(
                f"{missing} of {len(self.eval_data)} validation pictures could not be read: the scores are without them"
            )
        if evaluation is not None:
            if self.is_main:
                say(f"{format_table(evaluation.metrics, self.classes.names)}\n{line_text(protocol)}")
            if self.recipe.eval_scales != (1.0,) or self.recipe.eval_flip:
                settings = replace(settings, scales=self.recipe.eval_scales, flip=self.recipe.eval_flip)
                augmented = settings.describe(self.processor), self.score(settings)
                self.say(f"mIoU {100 * augmented[1].metrics['mean_iou']:.2f} %: {augmented[0]}")
        is_hub_model = options.model_name_or_path is not None and not Path(options.model_name_or_path).is_dir()
        outcome = Outcome(
            model=bare,
            processor=self.processor,
            classes=self.classes,
            recipe=self.recipe,
            settings=self.settings,
            history=self.history,
            seconds=self.seconds,
            protocol=protocol,
            evaluation=evaluation,
            augmented=augmented,
            best=self.best,
            step=self.chosen_step,
            dataset_name=options.dataset_name,
            num_train=self.data.num_pictures,
            num_eval=len(self.pictures.evaluation),
            base_model=options.model_name_or_path if is_hub_model else None,
            repo_id=options.hub_model_id,
            notes=self.notes,
        )
        with gathered(self.accelerator, bare):  # the main process draws pictures
            self.together(lambda: self.publish(outcome), main_only=True)
        return outcome.results

    def final_evaluation(self, bare: torch.nn.Module) -> Evaluation | None:
        """Load the weights that are the result (the best, their average) into the model, and save and score them if
        that has not been done yet.
        """
        options, evaluation = self.options, self.evaluation
        if options.do_train and self.chosen_step != self.step:
            load_checkpoint(self.accelerator, self.output_dir / f"step_{self.chosen_step}")
            self.say(f"the best model is that of step {self.chosen_step}")
            evaluation = None
        if options.do_train and self.kept_step != self.chosen_step:
            self.keep_model(self.chosen_step)
        if self.average is not None:
            self.average.copy_to(bare)
            self.average = None
        if options.do_eval and evaluation is None:
            return self.score()
        return evaluation

    def publish(self, outcome: Outcome) -> None:
        """Write the results into the output folder, and upload it if the options ask for it."""
        options = self.options
        if not options.do_train:
            write_json(self.output_dir / RESULTS, outcome.results)
            return
        for line in publish_outcome(outcome, options, self.eval_data, accelerator=self.accelerator):
            self.say(line)

"""The course of a training: data and model, optimizer, the steps with evaluations and checkpoints, and the results.

``segzoo train`` and `segzoo.train` run it; the parts are in the other modules of this folder.
"""

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import set_seed

from segzoo.data.augmentation import pipeline_names
from segzoo.data.pipelines import kept_pipeline
from segzoo.errors import SegZooError, cause_of
from segzoo.evaluation import Evaluation
from segzoo.evaluation.scoring import EvaluationStopped
from segzoo.metrics import format_table
from segzoo.precision_state import own_precision
from segzoo.progress import Progress, say
from segzoo.text import line_text
from segzoo.training.checkpoints import (
    RECORD,
    add_to_memory,
    changed_settings,
    kept_settings,
    load_checkpoint,
    remove_old_checkpoints,
    resume_checkpoint,
    save_checkpoint,
)
from segzoo.training.folder import RESULTS, write_json
from segzoo.training.guards import LabelGuard
from segzoo.training.inputs import Inputs, prepare_inputs
from segzoo.training.learner import Learner
from segzoo.training.memory_format import take_memory_format
from segzoo.training.options import RunOptions, settings_for_card
from segzoo.training.preparing import describe_training, eval_protocols, prepare_model
from segzoo.training.recipes.recipe import Recipe, changed_recipe
from segzoo.training.reports.publishing import Outcome, publish_outcome
from segzoo.training.room import check_room
from segzoo.training.sharding import check_distribution, gathered
from segzoo.training.shown_classes import ShownClasses
from segzoo.training.signals import StoppedBySignal, StopRequest
from segzoo.training.state import TrainingState
from segzoo.training.steps import StepFacts, Steps
from segzoo.training.surroundings import Surroundings
from segzoo.training.timetable import Timetable
from segzoo.training.trackers import start_trackers
from segzoo.training.trained_model import TrainedModel
from segzoo.training.trainer_names import notes_on_arguments


@own_precision()
def run_training(options: RunOptions, recipe: Recipe) -> dict[str, Any]:
    """Train, evaluate and save a model; several processes call this together.

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
    options.check_parts()
    options.check_recipe(recipe)
    check_distribution(options, recipe)
    with StopRequest() as stop:
        run: Run | None = Run(options, recipe, stop)
        accelerator, results = run.accelerator, run.run()
    # What averages the gradients goes before the group of the processes: whatever drops a group of torch 2.8 last, while it
    # holds Python's lock, may wait for ever for a thread of the group that wants the lock.
    run = None
    accelerator.free_memory()
    accelerator.state.destroy_process_group()
    return results


class Run:
    """One training: `run` shows its course, and the other methods are its parts, in their order."""

    def __init__(self, options: RunOptions, recipe: Recipe, stop: StopRequest):
        self.options, self.recipe, self.stop = options, recipe, stop
        self.here = Surroundings(options, recipe.mixed_precision)
        self.accelerator, self.is_main = self.here.accelerator, self.here.is_main
        self.inputs: Inputs  # what the training begins with
        self.trained: TrainedModel  # once it is wrapped
        self.state = TrainingState(self.accelerator)
        self.evaluation: Evaluation | None = None
        self.settings: dict[str, Any] = {}
        self.kept_step: int | None = None  # the step whose model is in the output folder

    def run(self) -> dict[str, Any]:
        """Train, evaluate and save according to the options; returns the contents of all_results.json."""
        options, here = self.options, self.here
        with contextlib.ExitStack() as held, self.telling_of_the_model():
            here.together(lambda: here.claim(held), main_only=True)
            for note in notes_on_arguments(options):
                here.say(note)
            if options.tf32 is not None:
                torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
            set_seed(options.seed)
            # From here to the first step, every mistake that can be found early is found.
            self.keep_pipeline()
            self.inputs = prepare_inputs(options, self.recipe, here)
            self.recipe = self.inputs.recipe
            if options.do_train:
                self.prepare_training()
                self.resume()
                if self.state.step < self.total_steps:
                    due = self.timetable.checkpoints_after(self.state.step)
                    here.together(lambda: check_room(options, self.learner.sizes, due=due), main_only=True)
                self.train()
            else:
                model = self.accelerator.prepare_model(self.inputs.model, evaluation_mode=True)
                self.trained = TrainedModel(model, None, options, self.inputs, here)
            results = self.finish()
            for tracker in self.accelerator.trackers:
                tracker.finish()
            return results

    @contextlib.contextmanager
    def telling_of_the_model(self) -> Iterator[None]:
        """A context in which errors after the training tell that the trained model is saved, and where."""
        try:
            yield
        except Exception as error:
            if self.kept_step is None:
                raise
            where = f"the trained model, after step {self.kept_step}, is whole in {self.here.output_dir}"
            if not isinstance(error, (SegZooError, OSError)):
                if self.is_main:
                    say(where, stream=sys.stderr)
                raise
            raise SegZooError(f"{cause_of(error).rstrip('.')}; {where}") from error

    # Training

    def keep_pipeline(self) -> None:
        """Go on with the checkpoint's ``--augmentation``, whose file may be gone, but may not hold anything else."""
        wanted = self.options.resume_from_checkpoint
        if wanted is None:
            return
        kept = self.here.together(lambda: kept_settings(self.here.output_dir, wanted), main_only=True).get("pipeline")
        pipeline = kept_pipeline(self.options.augmentation, self.recipe.pipeline, kept)
        if pipeline != self.recipe.pipeline:
            self.here.say(f"note: --augmentation as the checkpoint has it: {', '.join(pipeline_names(pipeline))}")
            self.recipe = changed_recipe(self.recipe, pipeline=pipeline)

    def prepare_training(self) -> None:
        """Make optimizer, schedule and weight average, and let accelerate wrap model and optimizer."""
        options, recipe, accelerator, inputs = self.options, self.recipe, self.accelerator, self.inputs
        batches = inputs.batches
        self.total_steps = batches.steps_of(recipe)
        epoch = {"batches_an_epoch": batches.an_epoch, "accumulation": batches.accumulation}
        self.timetable = Timetable.of(options, total_steps=self.total_steps, **epoch)
        self.state.shown = ShownClasses(inputs.classes.names, options.ignore_index, accelerator)
        model, notes = prepare_model(inputs.model, options, recipe, accelerator)
        for note in notes:
            self.here.say(note)
        take_memory_format(self.here, model, recipe, total_steps=self.total_steps)
        self.learner = Learner.of(
            model, options, recipe, accelerator, total_steps=self.total_steps, accumulation=batches.accumulation
        )
        self.trained = TrainedModel(self.learner.model, self.learner.average, options, inputs, self.here)
        set_seed(options.seed, device_specific=True)  # dropout differs between processes
        self.settings = settings_for_card(options, accelerator.num_processes, self.total_steps)
        self.settings |= {"pictures a step": batches.pictures_a_step}
        if inputs.backbone_weights is not None:
            self.settings |= {"backbone's first weights": inputs.backbone_weights}
        if options.with_tracking:
            start_trackers(accelerator, self.here.output_dir, {**recipe.to_dict(), **self.settings})
        self.here.say(
            describe_training(
                model,
                inputs.classes,
                batches,
                num_eval=len(inputs.eval_data),
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
        with self.learner.keeping_options():
            resumed = resume_checkpoint(
                self.accelerator, self.here.output_dir, wanted, total_steps=self.total_steps, overwrite=overwrite
            )
        if resumed is None and (self.here.output_dir / "config.json").is_file():
            raise SegZooError(f"{self.here.output_dir} holds a finished model and no checkpoint to go on from")
        if resumed is None:
            self.here.say(f"There is no checkpoint in {self.here.output_dir} yet: training starts from the beginning.")
            return
        self.state.go_on_from(resumed.step, resumed.memory)
        changed = changed_settings(resumed.memory["settings"], self.comparable())
        self.here.say(f"Resumed from {resumed.folder} after step {self.state.step}.")
        if self.options.load_best_model_at_end:
            self.forget_lost_best()
        if changed and self.is_main:
            warnings.warn(f"these settings differ from the resumed run's: {', '.join(changed)}", stacklevel=1)

    def forget_lost_best(self) -> None:
        """Choose the best from the steps to come if the earlier run's best has no checkpoint in the output folder.

        It has none if that run did not ask for the best, or wrote into another folder.
        """
        best = self.state.best_step
        if best is None:
            return
        if not self.has_checkpoint(best):
            self.here.say(
                f"note: step {best} was the best, but has no checkpoint in {self.here.output_dir}; the best is chosen from the "
                f"steps after {self.state.step}"
            )
            self.state.best = None

    def comparable(self) -> dict[str, Any]:
        """Recipe, settings and data by name, as a checkpoint keeps them."""
        memory_format = {"memory_format": self.here.format_name}
        return {**self.recipe.to_dict(), **self.settings, **memory_format, **self.data_facts}

    @cached_property
    def data_facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data; the main process alone reads and writes it."""
        return self.inputs.pictures.describe(self.options) if self.is_main else {}

    def train(self) -> None:
        """The training itself, timed; the data-loading processes end with it, even after an error."""
        self.start = time.perf_counter()
        self.progress = Progress(self.total_steps, enabled=self.is_main)
        with (
            contextlib.closing(
                self.inputs.batches.after(self.state.step, memory_format=self.here.memory_format)
            ) as batches,
            self.inputs.look,
            self.stop.deferring_interrupts(),
        ):
            self.take_steps(batches)
        self.progress.finish_line()
        self.state.seconds += time.perf_counter() - self.start

    def take_steps(self, batches: Iterator[dict[str, Any]]) -> None:
        """Take the steps, with reports, evaluations and checkpoints in between."""
        options, accelerator = self.options, self.accelerator
        limit = min(options.max_empty_steps, self.total_steps)
        steps = Steps(
            self.learner,
            self.here,
            self.state,
            progress=self.progress,
            labels=LabelGuard(limit, options.ignore_index, self.state.step, accelerator),
            max_bad_steps=options.max_bad_steps,
        )
        if self.ended_unscored:
            self.score_step(is_saved=self.has_checkpoint(self.state.step))
        for step in range(self.state.step + 1, self.total_steps + 1):
            self.state.step = step
            facts = steps.take(batches)
            self.progress.step(self.inputs.batches.pictures_a_step)

            end = step == self.total_steps
            if end:  # before evaluations and trackers, which may fail
                self.keep_model(step)
            reported = self.report(facts) if self.timetable.reports(step) and self.state.mean_loss.steps else None
            if self.state.shown is not None and self.timetable.has_shown_an_epoch(step):
                self.report_shown_classes()
            # Before evaluations and trackers too: these may fail, and a scheduler may not wait for their end.
            if (problem := self.inputs.look.problem()) is not None:
                self.stop.ask(problem)
            stopping, evaluates = self.stop.agreed(accelerator), self.timetable.evaluates(step)
            if is_saved := stopping or self.timetable.saves(step):
                self.save()
            if stopping and (evaluates or not end):
                self.end_early()
            if reported is not None and options.with_tracking:
                self.track(reported)
            if evaluates:
                self.score_step(is_saved=is_saved)
            self.progress.restart_clock()

    def end_early(self) -> NoReturn:
        """End the training, of whose last step there is a checkpoint, with the error that says why."""
        self.progress.finish_line()
        self.here.together(self.refuse_validation, main_only=True)
        if self.stop.received == "SIGINT":
            raise KeyboardInterrupt
        raise StoppedBySignal(self.stop.received or "another process was asked to stop", self.state.step)

    def refuse_validation(self) -> None:
        """Raise the error of a validation picture that the look beside the training has found."""
        problem = self.inputs.look.problem()
        if problem is not None and problem == self.stop.received:
            raise SegZooError(
                f"{problem} The training stopped after step {self.state.step}, before its evaluation would have failed: mend "
                "the data or pass --max_corrupt, and go on with --resume_from_checkpoint latest"
            )

    @property
    def ended_unscored(self) -> bool:
        """Whether an earlier run was ended between a checkpoint and the evaluation of its step."""
        step = self.state.step
        scored = any(entry["step"] == step and "eval_mean_iou" in entry for entry in self.state.history)
        return step > 0 and self.timetable.evaluates(step) and not scored

    def report(self, facts: StepFacts) -> dict[str, float]:
        """Report loss, learning rate and speed on the terminal and in the history; returns the history's entry."""
        loss = self.state.mean_loss.take()
        entry = self.progress.report(self.state.step, loss, facts.learning_rate, grad_norm=facts.norm)
        self.state.history.append(entry)
        return entry

    def track(self, entry: dict[str, float]) -> None:
        """Report an entry of the history to trackers."""
        values = {name: value for name, value in entry.items() if name != "step"}
        self.accelerator.log({"train_loss": entry["loss"], **values}, step=self.state.step)

    def report_shown_classes(self) -> None:
        """Warn of classes that no picture of the first epoch showed, once; a stream's epoch is the whole training."""
        warning, self.state.shown = self.state.shown.warning(), None
        if warning is not None:
            self.state.notes.append(warning)
            self.progress.message(f"warning: {warning}")

    @property
    def seconds(self) -> float:
        """Duration of the training up to now, earlier runs included."""
        return self.state.seconds + time.perf_counter() - self.start

    def has_checkpoint(self, step: int) -> bool:
        """Whether the output folder has a checkpoint of a step; every process calls this."""
        return self.here.together((self.here.output_dir / f"step_{step}" / RECORD).is_file, main_only=True)

    def save(self) -> None:
        """Write a checkpoint of this step, and remove those that exceed ``save_total_limit``."""
        memory = self.state.gather(seconds=self.seconds, settings=self.comparable())
        with self.stop.saving():
            save_checkpoint(self.accelerator, self.here.output_dir, self.state.step, memory)
        self.remove_old()

    def remove_old(self) -> None:
        """Remove the checkpoints that exceed ``save_total_limit``."""
        if self.is_main:
            remove_old_checkpoints(self.here.output_dir, self.options.save_total_limit, best_step=self.state.best_step)

    def keep_model(self, step: int) -> None:
        """Write the model, whose weights are those after ``step``, into the output folder.

        This comes before whatever else may fail after the last step; scores and pictures are added to the folder.
        """
        with self.stop.saving():
            self.trained.keep()
        self.kept_step = step

    def score_step(self, *, is_saved: bool) -> None:
        """Evaluate, and keep the scores in the checkpoint of this step, which is written if it is the best that is wanted.

        Args:
            is_saved: whether the checkpoint is there already.
        """
        try:
            is_best = self.evaluate()
        except EvaluationStopped:
            if not is_saved:
                self.save()
            self.end_early()
        if is_saved:
            course = self.state.course(seconds=self.seconds)
            folder = self.here.output_dir / f"step_{self.state.step}"
            self.here.together(lambda: add_to_memory(folder, course), main_only=True)
            if is_best:
                self.remove_old()
        elif is_best and self.options.load_best_model_at_end:
            self.save()

    def evaluate(self) -> bool:
        """Score the present weights, or their average if there is one; returns whether they are the best so far.

        Raises:
            EvaluationStopped: a process was asked to stop meanwhile; there are no scores.
        """
        self.inputs.look.close()  # the evaluation reads every picture itself
        self.evaluation = self.trained.score(is_stopped=self.stop.is_asked_for)
        scores = {f"eval_{name}": value for name, value in self.evaluation.summary().items()}
        self.state.history.append({"step": self.state.step, **scores})
        self.progress.message(
            f"evaluation after step {self.state.step}: mIoU {100 * scores['eval_mean_iou']:.2f} %, pixel accuracy "
            f"{100 * scores['eval_overall_accuracy']:.2f} %, {self.evaluation.num_images} images in "
            f"{self.evaluation.seconds:.1f} s"
        )
        if self.options.with_tracking:
            self.accelerator.log(scores, step=self.state.step)
        return self.state.is_best(scores["eval_mean_iou"])

    # The end

    @property
    def chosen_step(self) -> int:
        """The step whose weights are the result of the training."""
        best = self.state.best_step if self.options.load_best_model_at_end else None
        return self.state.step if best is None else best

    def finish(self) -> dict[str, Any]:
        """Evaluate once more if necessary, and write the results; returns the contents of all_results.json."""
        options = self.options
        bare = self.accelerator.unwrap_model(self.trained.model, keep_fp32_wrapper=False)
        evaluation = self.final_evaluation(bare)
        settings, more_views = eval_protocols(bare, self.inputs.processor, self.recipe)
        protocol, augmented = settings.describe(self.inputs.processor), None
        if evaluation is not None and (missing := len(self.inputs.eval_data) - evaluation.num_images):
            self.state.notes.append(
                f"{missing} of {len(self.inputs.eval_data)} validation pictures could not be read: the scores are without them"
            )
        if evaluation is not None:
            if self.is_main:
                say(f"{format_table(evaluation.metrics, self.inputs.classes.names)}\n{line_text(protocol)}")
            if more_views is not None:
                augmented = more_views.describe(self.inputs.processor), self.trained.score(more_views)
                self.here.say(f"mIoU {100 * augmented[1].metrics['mean_iou']:.2f} %: {augmented[0]}")
        is_hub_model = options.model_name_or_path is not None and not Path(options.model_name_or_path).is_dir()
        outcome = Outcome(
            model=bare,
            processor=self.inputs.processor,
            classes=self.inputs.classes,
            recipe=self.recipe,
            settings=self.settings,
            history=self.state.history,
            seconds=self.state.seconds,
            protocol=protocol,
            evaluation=evaluation,
            augmented=augmented,
            best=self.state.best,
            step=self.chosen_step,
            dataset_name=options.dataset_name,
            num_train=self.inputs.batches.num_pictures,
            num_eval=len(self.inputs.pictures.evaluation),
            base_model=options.model_name_or_path if is_hub_model else None,
            repo_id=options.hub_model_id,
            notes=self.state.notes,
        )
        with gathered(self.accelerator, bare):  # the main process draws pictures
            self.here.together(lambda: self.publish(outcome), main_only=True)
        return outcome.results

    def final_evaluation(self, bare: torch.nn.Module) -> Evaluation | None:
        """Load the weights that are the result (the best, their average) into the model, and save and score them if
        that has not been done yet.
        """
        options, evaluation = self.options, self.evaluation
        if options.do_train and self.chosen_step != self.state.step:
            load_checkpoint(self.accelerator, self.here.output_dir / f"step_{self.chosen_step}")
            self.here.say(f"the best model is that of step {self.chosen_step}")
            evaluation = None
        if options.do_train and self.kept_step != self.chosen_step:
            self.keep_model(self.chosen_step)
        self.trained.take_average(bare)
        if options.do_eval and evaluation is None:
            return self.trained.score()
        return evaluation

    def publish(self, outcome: Outcome) -> None:
        """Write the results into the output folder, and upload it if the options ask for it."""
        options = self.options
        if not options.do_train:
            write_json(self.here.output_dir / RESULTS, outcome.results)
            return
        for line in publish_outcome(outcome, options, self.inputs.eval_data, accelerator=self.accelerator):
            self.here.say(line)

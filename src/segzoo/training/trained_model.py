"""The model of a training between its steps: scored, and written into the output folder."""

import contextlib
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from segzoo.evaluation import Evaluation, evaluate
from segzoo.inference import InferenceSettings
from segzoo.training.ema import WeightAverage
from segzoo.training.folder import publish_model
from segzoo.training.frozen import hold_still
from segzoo.training.inputs import Inputs
from segzoo.training.options import RunOptions
from segzoo.training.sharding import gathered, whole_state
from segzoo.training.surroundings import Surroundings
from segzoo.training.sync_norms import broadcast_buffers


class TrainedModel:
    """The present weights of a training, or their average if there is one.

    Args:
        model: the model as accelerate has wrapped it.
        average: the average of its weights, or None.
        options: options of the run.
        inputs: the image processor, the recipe, and the pictures to score it on.
        here: the processes and the output folder.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        average: WeightAverage | None,
        options: RunOptions,
        inputs: Inputs,
        here: Surroundings,
    ):
        self.model, self.average = model, average
        self.options, self.inputs, self.here = options, inputs, here

    @property
    def bare(self) -> PreTrainedModel:
        """The model without what accelerate has wrapped around it."""
        return self.here.accelerator.unwrap_model(self.model)

    def score(
        self, settings: InferenceSettings | None = None, *, is_stopped: Callable[[], bool] | None = None
    ) -> Evaluation:
        """Evaluate at the original size of every picture.

        Args:
            settings: the protocol; None: the model's own.
            is_stopped: as in `segzoo.evaluation.scoring.evaluate`.

        Raises:
            EvaluationStopped: ``is_stopped`` has said so.
        """
        options, accelerator, bare = self.options, self.here.accelerator, self.bare
        with gathered(accelerator, bare), self._averaged(bare):
            # Those of the average, where there is one, not of the weights that it stands in for.
            broadcast_buffers(accelerator, bare)
            evaluation = evaluate(
                self.model,
                self.inputs.processor,
                self.inputs.eval_data,
                accelerator=accelerator,
                num_labels=len(self.inputs.classes.names),
                ignore_index=options.ignore_index,
                settings=settings,
                batch_size=options.per_device_eval_batch_size,
                num_workers=options.dataloader_num_workers,
                channels_last=self.here.channels_last,
                is_stopped=is_stopped,
            )
        if options.do_train and bare.training:
            hold_still(bare, backbone=self.inputs.recipe.freeze_backbone, norms=options.freeze_norms)
        return evaluation

    def keep(self) -> None:
        """Write the weights with config and processor into the output folder; every process calls this."""
        bare = self.bare
        state = whole_state(self.here.accelerator, bare)

        def write() -> None:
            with self._averaged(bare):
                publish_model(bare, self.inputs.processor, self.here.output_dir, state=state)

        self.here.together(write, main_only=True)

    def take_average(self, bare: PreTrainedModel) -> None:
        """Make the average of the weights, if there is one, those of the model, for good."""
        if self.average is not None:
            self.average.copy_to(bare)
            self.average = None

    def _averaged(self, bare: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.applied_to(bare)

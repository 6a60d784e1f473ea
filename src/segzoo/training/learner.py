"""What learns: the model with its optimizer, schedule and weight average, as accelerate prepares them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from segzoo.modeling_segzoo import SegZooForSemanticSegmentation
from segzoo.training.ema import WeightAverage
from segzoo.training.frozen import BACKBONE, TrainedPart
from segzoo.training.optimization import build_optimizer, build_schedule
from segzoo.training.options import RunOptions
from segzoo.training.recipes.recipe import Recipe
from segzoo.training.room import Sizes
from segzoo.universal import DenseUniversalModel


@dataclass(kw_only=True)
class Learner:
    """What learns.

    Args:
        model, optimizer: as accelerate has prepared them.
        schedule: the learning-rate schedule.
        average: the average of the weights, if there is one.
        accumulation: batches whose gradients make a step.
        max_norm: gradients are clipped to this norm; None or 0: they are not.
        sizes: how much room checkpoints and the model take on the disk.
        averages_counted: whether the loss of a batch is the mean over the pixels that count.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    average: WeightAverage | None
    accumulation: int
    max_norm: float | None
    sizes: Sizes
    averages_counted: bool = False

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        options: RunOptions,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        total_steps: int,
        accumulation: int,
    ) -> Self:
        """Make optimizer, schedule and weight average, and let accelerate wrap the model and keep all in checkpoints.

        Args:
            model: the model in training mode, not wrapped.
            options: options of the run.
            recipe: recipe of the training.
            accelerator: the accelerator of the training.
            total_steps: optimizer steps of the whole training.
            accumulation: batches whose gradients make a step.

        Raises:
            SegZooError: the optimizer or the schedule does not fit the model or the number of steps.
        """
        optimizer = build_optimizer(model, recipe.optimizer_options)
        wanted = recipe.schedule_options
        if options.warmup_ratio is not None:
            wanted = replace(wanted, num_warmup_steps=int(options.warmup_ratio * total_steps))
        schedule = build_schedule(optimizer, wanted, total_steps=total_steps)
        left_out = BACKBONE if options.save_trained_only else None
        average = None
        if recipe.ema_decay:
            average = WeightAverage(model.to(accelerator.device), recipe.ema_decay, left_out=left_out)
            accelerator.register_for_checkpointing(average)
        sizes = Sizes.of(model, optimizer, averaged=average is not None, left_out=left_out)
        if recipe.freeze_backbone:
            TrainedPart(accelerator, model, saved_alone=options.save_trained_only)
        prepared, optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(schedule)
        return cls(
            model=prepared,
            optimizer=optimizer,
            schedule=schedule,
            average=average,
            accumulation=accumulation,
            max_norm=recipe.max_grad_norm,
            sizes=sizes,
            # Ours average over all pixels, as the originals do, and universal models over masks.
            averages_counted=not isinstance(model, (SegZooForSemanticSegmentation, DenseUniversalModel)),
        )

    @contextmanager
    def keeping_options(self) -> Iterator[None]:
        """A context in which a checkpoint is loaded, and optimizer and schedule keep the options of this run.

        With the states would come the options of the run that wrote them, such as its learning rate, and the rate at the end
        of its schedule.
        """
        apart = ("params", "lr")
        options = [{k: v for k, v in group.items() if k not in apart} for group in self.optimizer.param_groups]
        rates = list(self.schedule.base_lrs)
        yield
        groups, schedule = self.optimizer.param_groups, self.schedule
        schedule.base_lrs = rates
        for group, own, rate, factor in zip(groups, options, rates, schedule.lr_lambdas, strict=True):
            group.update(own, lr=rate * factor(schedule.last_epoch))
        schedule._last_lr = [group["lr"] for group in groups]

"""Flags of transformers' Trainer script that `segzoo train` takes besides its own, and what they mean here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segzoo.options import MAX_FACTOR, Flag, Options, option
from segzoo.training.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class TrainerNames(Options):
    """Flags of transformers' Trainer script that have other names here; their help says which."""

    prefix = "--"

    max_steps: int | None = option(None, "--max_train_steps; -1 goes by --num_train_epochs")
    warmup_steps: float | None = option(
        None,
        "--num_warmup_steps; below 1 it is a share of all steps",
        at_least=0,
        at_most=MAX_FACTOR,
        flag=Flag(aliases=("warmup_ratio",)),
    )
    optim: str | None = option(None, "--optimizer", choices=("adamw_torch", "adamw_torch_fused", "adamw_hf", "sgd"))
    bf16: bool = option(False, "--mixed_precision bf16")
    fp16: bool = option(False, "--mixed_precision fp16")
    save_steps: int | str | None = option(None, "--checkpointing_steps", words=("epoch",), at_least=0)
    save_strategy: str | None = option(
        None, "when --checkpointing_steps is meant to happen", choices=("no", "epoch", "steps", "best")
    )
    eval_strategy: str | None = option(
        None,
        "when --eval_steps is meant to happen",
        choices=("no", "epoch", "steps"),
        flag=Flag(aliases=("evaluation_strategy",)),
    )
    logging_strategy: str | None = option(
        None, "when --logging_steps is meant to happen", choices=("no", "epoch", "steps")
    )
    metric_for_best_model: str | None = option(None, "accepted for mean_iou only")

    def check(self) -> None:
        """Check that only one precision is given, and that the best model is chosen by mean IoU."""
        super().check()
        if self.bf16 and self.fp16:
            self.refuse("bf16 and --fp16 exclude each other; leave one of them out")
        if (self.metric_for_best_model or "mean_iou").removeprefix("eval_") != "mean_iou":
            self.refuse(
                f"metric_for_best_model {self.metric_for_best_model}: the best model is the one with the best mean_iou"
            )

    def recipe_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the recipe that follow; ``given`` are those that its own flags set, which override them."""
        fields: dict[str, Any] = {}
        if self.optim is not None:
            fields["optimizer"] = "sgd" if self.optim == "sgd" else "adamw"
        if self.max_steps is not None and self.max_steps > 0:
            fields["max_train_steps"] = self.max_steps
        elif "num_train_epochs" in given:
            fields["max_train_steps"] = None  # epochs that were asked for win over the recipe's steps
        if self.warmup_steps is not None and not 0 < self.warmup_steps < 1:
            fields["num_warmup_steps"] = int(self.warmup_steps)
        if self.bf16 or self.fp16:
            fields["mixed_precision"] = "bf16" if self.bf16 else "fp16"
        return fields

    def run_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the run that follow; ``given`` are those that its own flags set."""
        run: dict[str, Any] = {}
        if self.warmup_steps is not None and 0 < self.warmup_steps < 1:
            run["warmup_ratio"] = self.warmup_steps
        if self.save_strategy == "epoch":
            run["checkpointing_steps"] = given.get("checkpointing_steps", "epoch")
        elif self.save_strategy == "best":
            run["load_best_model_at_end"] = True
        elif self.save_strategy == "no":
            run["checkpointing_steps"] = given.get("checkpointing_steps", 0)
        elif self.save_steps is not None or self.save_strategy == "steps":
            run["checkpointing_steps"] = given.get("checkpointing_steps", self.save_steps or 500)
        if self.eval_strategy == "no":
            run["eval_steps"] = 0
        elif self.eval_strategy == "steps":
            run["eval_steps"] = given.get("eval_steps", given.get("logging_steps", RunOptions.logging_steps))
        elif self.eval_strategy == "epoch":
            run["eval_steps"] = "epoch"
        if self.logging_strategy == "epoch":
            run["logging_steps"] = "epoch"
        return run


WITHOUT_EFFECT = {
    "remove_unused_columns": "columns that are not needed are never loaded",
    "disable_tqdm": "there is one line of progress",
    "hub_strategy": "the finished model is uploaded",
    "dataloader_drop_last": "an incomplete last batch of an epoch is always left out",
    "dataloader_pin_memory": "memory is pinned where there is a GPU",
    "dataloader_persistent_workers": "loading processes live as long as the training",
    "greater_is_better": "a larger mIoU is better",
    "log_level": "messages are few",
}
"""Flags of the Trainer script that are accepted and do nothing, with the reason."""


def notes_on_arguments(options: RunOptions) -> list[str]:
    """One line for each flag that was given and has no effect."""
    return [f"note: --{name} has no effect: {WITHOUT_EFFECT[name]}" for name in options.without_effect]

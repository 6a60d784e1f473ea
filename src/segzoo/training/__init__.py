"""Training: `train` and its options, recipes, and the parts that a training script needs beside `accelerate`.

`run.py` shows the course of a training; each of the other modules is a part of it.
"""

from segzoo.lazy import lazy_attributes

_MODULES = {
    "arguments": ("DEFAULTS", "RunOptions"),
    "order": ("EpochBatches", "batch_sizes", "training_batches"),
    "models": ("build_model", "build_processor", "training_transform"),
    "checkpoints": (
        "find_checkpoint",
        "load_checkpoint",
        "remove_old_checkpoints",
        "resume_checkpoint",
        "save_checkpoint",
    ),
    "ema": ("WeightAverage",),
    "optimization": ("build_optimizer", "build_schedule", "parameter_groups"),
    "folder": ("prepare_output_folder", "publish_model", "write_json"),
    "recipes.groups": ("ModelOptions", "OptimizerOptions", "ScheduleOptions"),
    "recipes.recipe": ("Recipe", "list_recipes", "load_recipe", "resolve_recipe"),
    "reports.summary": ("describe_training", "draw_curves", "draw_samples"),
    "run": ("train",),
    "trainer": ("SegmentationTrainer", "SegmentationTrainingArguments"),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)

"""What a training script needs beside `accelerate`: recipes, data order, optimizer and schedule, checkpoints, guards, reports.

Each module is a set of plain functions; `examples/run_semantic_segmentation.py` shows them together.
"""

from segzoo.lazy import lazy_attributes

_MODULES = {
    "order": ("EpochBatches", "batch_sizes", "training_batches"),
    "models": ("ClassFacts", "build_model", "build_processor", "find_classes", "training_transform"),
    "checkpoints": (
        "find_checkpoint",
        "load_checkpoint",
        "remove_old_checkpoints",
        "resume_checkpoint",
        "save_checkpoint",
    ),
    "ema": ("WeightAverage",),
    "optimization": ("build_optimizer", "build_schedule", "parameter_groups"),
    "folder": ("claim_output_folder", "publish_model", "write_json"),
    "recipes.recipe": ("Recipe", "list_recipes", "load_recipe", "resolve_recipe"),
    "reports.summary": ("describe_training", "draw_curves", "draw_samples"),
    "trainer": ("SegmentationTrainer", "SegmentationTrainingArguments"),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)

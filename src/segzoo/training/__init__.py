"""What a training script needs beside `accelerate`: data order, optimizer and schedule, checkpoints, evaluation, reports.

Each module is a set of plain functions; `examples/run_semantic_segmentation.py` shows them together.
"""

from segzoo.lazy import lazy_attributes

_MODULES = {
    "arguments": ("build_parser", "check_arguments", "settings_for_card"),
    "batches": ("EpochBatches", "training_batches"),
    "building": ("ClassFacts", "build_model", "build_processor", "find_classes", "training_transform"),
    "checkpoints": ("find_checkpoint", "load_checkpoint", "remove_old_checkpoints", "save_checkpoint"),
    "evaluation": ("Evaluation", "evaluate", "predict_label_maps"),
    "optimization": ("build_optimizer", "build_schedule", "parameter_groups"),
    "output": ("prepare_output_folder", "publish_model", "write_json"),
    "progress": ("Progress",),
    "reports": ("describe_training", "draw_curves", "draw_samples"),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)

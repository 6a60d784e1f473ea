"""Data: facts about data sets, loading, checks, joint transforms and synthetic scenes.

Names are imported on first use, so that facts and checks cost no import of torch or datasets.
"""

from segzoo.lazy import lazy_attributes

_MODULES = {
    "checks.first_batch": ("check_first_batch", "check_labels", "check_rows"),
    "collate": ("collate_evaluation", "collate_training"),
    "dataset": ("SegmentationDataset",),
    "decoding": ("CorruptImageError", "colors_to_ids", "decode_example", "decode_image", "decode_mask", "decode_pair"),
    "facts": ("DATASETS", "DatasetFacts", "color_map", "dataset_facts", "facts_for_original_type"),
    "checks.inspection": ("DataReport", "inspect_dataset"),
    "data_source": ("DataSource",),
    "loading": ("PairingProblem", "detect_facts", "load_id2label", "load_segmentation_dataset", "load_source"),
    "scenes": ("draw_scene", "write_scenes"),
    "splits": ("load_splits",),
    "streaming": ("SegmentationStream",),
    "transforms": ("build_eval_transform", "build_processor_transform", "build_train_transform", "reduce_labels"),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)

"""The `mean_iou` module for `evaluate.load`; the path is `segzoo.evaluation.mean_iou_path()`."""

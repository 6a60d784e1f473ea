# What segzoo.metrics offers, imported on first use.
from .confusion import ConfusionMatrix as ConfusionMatrix
from .mean_iou import mean_iou_path as mean_iou_path
from .scores import format_table as format_table
from .scores import metrics_from_confusion as metrics_from_confusion

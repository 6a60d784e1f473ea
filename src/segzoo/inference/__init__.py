"""From logits to label maps: sliding windows and memory-bounded upsampling."""

from .label_maps import label_map_from_logits, probabilities_from_logits
from .sliding_window import sliding_window_logits

__all__ = ["label_map_from_logits", "probabilities_from_logits", "sliding_window_logits"]

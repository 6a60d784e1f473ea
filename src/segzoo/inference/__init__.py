"""From pictures to label maps: protocols, sliding windows, several views, memory-bounded upsampling.

Names are imported on first use: the image processor and the model use parts of this package, and other parts use them.
"""

from segzoo.lazy import lazy_attributes

_MODULES = {
    "label_maps": ("label_map_from_logits", "probabilities_from_logits"),
    "loading": ("load_model",),
    "predictor": ("Predictor", "evaluation_mode"),
    "settings": ("InferenceSettings",),
    "sliding_window": ("sliding_window_logits",),
    "views": ("ViewMaker",),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)

# What segzoo.inference offers, imported on first use.
from .label_maps import label_map_from_logits as label_map_from_logits
from .label_maps import probabilities_from_logits as probabilities_from_logits
from .loading import load as load
from .loading import load_model as load_model
from .predictor import Predictor as Predictor
from .predictor import evaluation_mode as evaluation_mode
from .settings import InferenceSettings as InferenceSettings
from .sliding_window import sliding_window_logits as sliding_window_logits
from .views import ViewMaker as ViewMaker

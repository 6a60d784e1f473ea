# What segzoo offers.
from .auto import AutoBackbone as AutoBackbone
from .auto import AutoHead as AutoHead
from .auto import AutoNeck as AutoNeck
from .configuration_segzoo import SegZooConfig as SegZooConfig
from .conversion.api import convert as convert
from .errors import SegZooError as SegZooError
from .evaluation.api import evaluate as evaluate
from .image_processing_segzoo import SegZooImageProcessor as SegZooImageProcessor
from .inference.loading import LoadedModel as LoadedModel
from .inference.loading import load as load
from .modeling_segzoo import SegZooForSemanticSegmentation as SegZooForSemanticSegmentation
from .modeling_segzoo import SegZooOutput as SegZooOutput
from .prediction.api import predict as predict
from .training.api import train as train

__version__: str

"""segzoo: the published semantic-segmentation models as Hugging Face models.

Importing segzoo registers its configs, models and image processor with transformers' Auto classes, so that
``AutoModelForSemanticSegmentation``, ``AutoImageProcessor``, ``AutoBackbone`` and ``pipeline("image-segmentation")`` know them.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from segzoo import backbones, heads, necks  # noqa: F401  each registers its models
from segzoo.auto import AutoBackbone, AutoHead, AutoNeck
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.errors import SegZooError
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation, SegZooOutput

__version__ = "0.1.0"

AutoConfig.register(SegZooConfig.model_type, SegZooConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(SegZooConfig, SegZooForSemanticSegmentation, exist_ok=True)
# The pipeline reads this table of names, not what is registered, and would log that the model is not supported.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[SegZooConfig.model_type] = SegZooForSemanticSegmentation.__name__
AutoImageProcessor.register(SegZooConfig, image_processor_classes={"torchvision": SegZooImageProcessor}, exist_ok=True)

__all__ = [
    "AutoBackbone",
    "AutoHead",
    "AutoNeck",
    "SegZooConfig",
    "SegZooError",
    "SegZooForSemanticSegmentation",
    "SegZooImageProcessor",
    "SegZooOutput",
]

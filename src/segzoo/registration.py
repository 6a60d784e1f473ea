"""Importing this module registers segzoo's models, configs and image processor with transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from segzoo import backbones, heads, necks  # noqa: F401  each registers its models
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

AutoConfig.register(SegZooConfig.model_type, SegZooConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(SegZooConfig, SegZooForSemanticSegmentation, exist_ok=True)
# There is no model without its heads: features are its hidden states.
AutoModel.register(SegZooConfig, SegZooForSemanticSegmentation, exist_ok=True)
# The pipeline looks up this table of names instead of the registration, and would log that the model is not supported.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[SegZooConfig.model_type] = SegZooForSemanticSegmentation.__name__
AutoImageProcessor.register(SegZooConfig, image_processor_classes={"torchvision": SegZooImageProcessor}, exist_ok=True)

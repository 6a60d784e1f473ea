"""What all necks share: channels that are taken from the backbone, and ``out_channels``."""

from huggingface_hub.dataclasses import strict

from segzoo.base import Ints, SegZooPreTrainedModel, SegZooSubConfig
from segzoo.errors import SegZooError


@strict
class NeckConfig(SegZooSubConfig):
    """Options of every neck.

    Args:
        in_channels: channels of the maps that the neck reads. None lets ``SegZooForSemanticSegmentation`` fill them in
            from the backbone.
    """

    in_channels: Ints | None = None


class Neck(SegZooPreTrainedModel):
    """Base of the necks. A neck sets ``out_channels``, the channels of the maps that it returns.

    Raises:
        SegZooError: ``config.in_channels`` is not set.
    """

    config: NeckConfig
    base_model_prefix = "neck"
    main_input_name = "feature_maps"
    out_channels: list[int]

    def __init__(self, config: NeckConfig):
        super().__init__(config)
        if not config.in_channels:
            raise SegZooError(
                f"{type(config).__name__}.in_channels is not set; give the channels of the backbone's feature maps"
            )

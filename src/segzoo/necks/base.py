"""What all necks share."""

from huggingface_hub.dataclasses import strict

from segzoo.base import Ints, SegZooPreTrainedModel, SegZooSubConfig
from segzoo.errors import SegZooError


@strict
class NeckConfig(SegZooSubConfig):
    """Options of every neck.

    Args:
        in_channels: channels of the maps that come in. None lets ``SegZooForSemanticSegmentation`` fill them in from the
            backbone.
    """

    in_channels: Ints | None = None


class Neck(SegZooPreTrainedModel):
    """Base of the necks. ``out_channels`` lists the channels of the maps that come out."""

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

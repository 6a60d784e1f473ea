"""What all necks share: channels that are taken from the backbone, and ``out_channels``."""

from collections.abc import Sequence

from torch import Tensor

from segzoo.base import Ints, SegZooPreTrainedModel, SegZooSubConfig, strict
from segzoo.errors import SegZooError


@strict
class NeckConfig(SegZooSubConfig):
    """Options of every neck.

    Args:
        in_channels: channels of the maps that the neck reads. None lets ``SegZooForSemanticSegmentation`` fill them in
            from the backbone.
    """

    in_channels: Ints | None = None

    @property
    def used(self) -> slice:
        """Positions of the maps that the neck uses, of those that it is given: all."""
        return slice(None)


@strict
class MapRangeNeckConfig(NeckConfig):
    """Options of necks that use some of the maps that they are given.

    Args:
        in_channels: channels of all maps, from fine to coarse.
        first_map: position of the finest map that is used.
        end_map: position after the coarsest map that is used; None uses all to the last.

    Raises:
        SegZooError: ``first_map`` and ``end_map`` name no map.
    """

    first_map: int = 0
    end_map: int | None = None

    @property
    def used(self) -> slice:
        """Positions of the maps that the neck uses, of those that it is given."""
        return slice(self.first_map, self.end_map)

    def check(self) -> None:
        """The maps that are used exist."""
        super().check()
        count = len(self.in_channels) if self.in_channels else None
        end = count if self.end_map is None else self.end_map
        if end is not None and not 0 <= self.first_map < end <= (count or end):
            raise SegZooError(
                f"{type(self).__name__}: first_map={self.first_map} and end_map={self.end_map} choose no map of {count or 'those'} "
                "that there are; the maps from first_map up to, without, end_map are used"
            )


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

    def fits(self, channels: Sequence[int]) -> bool:
        """Whether maps of these channels, all that there are, are those that the neck was built for."""
        built, used = list(self.config.in_channels), self.config.used
        return len(channels) == len(built) and list(channels[used]) == built[used]

    def check_count(self, feature_maps: Sequence[Tensor]) -> None:
        """Raise a SegZooError unless there are as many maps as the config has ``in_channels``."""
        wanted = len(self.config.in_channels)
        if len(feature_maps) != wanted:
            raise SegZooError(f"{type(self).__name__} was built for {wanted} maps but was given {len(feature_maps)}")

    def check_channels(self, feature_maps: Sequence[Tensor]) -> None:
        """Raise a SegZooError unless the maps that are used have the channels of the config's ``in_channels``."""
        channels = [x.shape[1] for x in feature_maps]
        if not self.fits(channels):
            raise SegZooError(
                f"{type(self).__name__} was built for maps with {list(self.config.in_channels)} channels but was given "
                f"{channels}; set in_channels to fit"
            )

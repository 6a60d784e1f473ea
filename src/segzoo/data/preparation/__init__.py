"""Released data sets made into folders that segzoo trains on: pictures and masks in the ids of the original's training."""

from segzoo.data.preparation.preparing import prepare
from segzoo.data.preparation.releases import RELEASES

__all__ = ["RELEASES", "prepare"]

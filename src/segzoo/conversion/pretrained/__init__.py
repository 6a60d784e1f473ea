"""Pre-training checkpoints -> backbones to train from: each kind of file has a module with its ``KIND``.

To add a kind, add a module; nothing else has to be changed.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from torch import Tensor

from segzoo.conversion.pretrained.base import PretrainedKind


def find_kind(state: Mapping[str, Tensor]) -> PretrainedKind | None:
    """The kind of pre-training file that these weights come from, or None, as of a whole segmentation model."""
    if any(key.startswith("decode_head.") for key in state):
        return None
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    kinds = (importlib.import_module(f"{__name__}.{name}").KIND for name in names)
    return next((kind for kind in kinds if kind.recognises(state)), None)

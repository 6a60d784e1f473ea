"""Metrics of label maps, never of a model: a streaming confusion matrix, the scores that follow from it, and the
`mean_iou` module for `evaluate`.

What the package offers is listed in ``__init__.pyi``, and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

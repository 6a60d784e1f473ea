"""Metrics: a streaming confusion matrix, the scores that follow from it, and the `mean_iou` module for `evaluate`.

They see label maps, never a model.

What the package offers is listed in ``__init__.pyi``, and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

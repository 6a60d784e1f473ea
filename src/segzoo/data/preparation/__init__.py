"""Released data sets made into folders that segzoo trains on: pictures and masks in the ids of the original's training.

What the package offers is listed in ``__init__.pyi``, and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

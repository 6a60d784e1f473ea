"""Training: `train` and its options, recipes, and the parts that a training script needs besides `accelerate`.

``run.py`` shows the course of a training; each of the other modules is a part of it. The public names are listed in
``__init__.pyi`` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

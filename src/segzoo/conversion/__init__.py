"""Original checkpoints and configs of the mmsegmentation family -> Hugging Face models.

``convert_checkpoint`` converts a checkpoint, ``describe_conversion`` says what a config would become; ``keys`` and
``rules`` define how each original component is translated. The public names are listed in ``__init__.pyi`` and
imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""segzoo: the published semantic-segmentation models as Hugging Face models.

Importing segzoo registers its configs, models and image processor with transformers' Auto classes, so that
``AutoModelForSemanticSegmentation``, ``AutoImageProcessor``, ``AutoBackbone`` and ``pipeline("image-segmentation")`` know them. The
program ``segzoo`` does so only when a command runs: its help and its answer to a typo need no model.

What the package offers is listed in ``__init__.pyi``.
"""

import os
import sys

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _is_program() -> bool:
    """Whether this process is the program ``segzoo``, or ``python -m segzoo``, or works for it, not one that imports
    the package.
    """
    if sys.argv[:1] == ["-m"]:
        words = sys.orig_argv
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["segzoo"]
    script = sys.argv[0] if sys.argv else ""
    # Of `python -m segzoo` once it runs, which the processes that it starts have too.
    if os.path.basename(script) == "__main__.py":
        return os.path.realpath(script) == os.path.join(os.path.dirname(os.path.realpath(__file__)), "__main__.py")
    return os.path.basename(script).removesuffix(".exe") == "segzoo"


if not _is_program():
    from segzoo import registration  # noqa: F401

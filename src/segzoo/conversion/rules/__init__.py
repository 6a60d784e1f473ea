"""One module per original component; importing this package registers them all.

To add a component: write its module here (see ``fcn.py`` for a small one) and import it below.
"""

from segzoo.conversion.rules import fcn, internimage, psp, resnet, uper

__all__ = ["fcn", "internimage", "psp", "resnet", "uper"]

"""One module per original component; importing this package imports them all, and each registers its rules.

To add a component, add a module (see ``psp.py`` for a small one); nothing else has to be changed.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

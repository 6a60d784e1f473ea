"""The released data sets that can be prepared: a module for each family, with `RELEASES` by the names of facts.

To add one, add a module with such a mapping. Nothing else has to be changed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from segzoo.data.preparation.release import Release

_modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
RELEASES: Mapping[str, Release] = {
    release.facts: release
    for release in sorted((r for module in _modules for r in module.RELEASES), key=lambda release: release.facts)
}
"""By the name of the data set in `segzoo.data.DATASETS`."""

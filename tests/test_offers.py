"""Packages offer what their stubs list, and nothing listed is missing."""

import importlib
from pathlib import Path

import pytest

import segzoo

ROOT = Path(segzoo.__file__).parent
PACKAGES = sorted(".".join(["segzoo", *stub.parent.relative_to(ROOT).parts]) for stub in ROOT.rglob("__init__.pyi"))


def test_all_stubs_are_found():
    assert {"segzoo", "segzoo.data", "segzoo.evaluation", "segzoo.inference", "segzoo.metrics"} < set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_can_be_imported(package):
    module = importlib.import_module(package)
    assert module.__all__ and set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name

"""The generated page of all models."""

import importlib.util
import sys
from pathlib import Path

import pytest
from support.versions import SEGFORMER_CHECKPOINTS

SCRIPT = Path(__file__).parents[2] / "docs/model_table.py"


@pytest.mark.skipif(not SEGFORMER_CHECKPOINTS, reason="the page tells what newer versions of transformers can")
def test_the_page_is_up_to_date(monkeypatch):
    spec = importlib.util.spec_from_file_location("model_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look names up
    spec.loader.exec_module(module)
    for registry in (module.BACKBONES, module.NECKS, module.HEADS):  # other tests may have registered some of theirs
        for name in [name for name, entry in registry.items() if not entry.model.__module__.startswith("segzoo.")]:
            monkeypatch.delitem(registry, name)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/model_table.py"

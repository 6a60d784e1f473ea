"""The generated page of all data sets."""

import importlib.util
from pathlib import Path

from segzoo.data.facts import DATASETS

SCRIPT = Path(__file__).parents[2] / "docs/data_sets.py"


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("data_sets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.page()
    assert module.PAGE.read_text(encoding="utf-8") == text, "run python docs/data_sets.py"
    assert "| [`drive`](#drive) | 2 | mDice, background and vessel | validation, 20 | 584x565 | 6 |" in text
    assert "3,456 tiles of 24 pictures | `img_dir/train/*.png` | `ann_dir/train/*.png` |" in text
    assert all(f'<a id="{name}"></a>' in text for name in DATASETS)

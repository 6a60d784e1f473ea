"""Small configs after patterns of public repositories, ``cases.jsonl``: what converts, and what each refusal names."""

import json
from pathlib import Path

import pytest

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.reading.configs import read_config_text
from segzoo.conversion.translate import translate_config

CASES = {
    case["name"]: case for case in map(json.loads, Path(__file__).with_name("cases.jsonl").open(encoding="utf-8"))
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    named = case["expected"].removeprefix("refused naming ")
    if named == "converts":
        translation = translate_config(read_config_text(case["config"], filename=name))
        model = build_without_weights(translation.config)
        assert len(translation.config.id2label) == model.config.num_labels >= 2
        return
    with pytest.raises(ConversionError) as caught:
        translate_config(read_config_text(case["config"], filename=name))
    assert named in str(caught.value)

"""`segzoo list --backbones`; the list of checkpoints is tested with the zoo."""

import json

import pytest

from segzoo.auto import backbone_variants
from segzoo.commands.cli import main


@pytest.mark.parametrize(
    "words", [["vit-b", "hrnet_w48"], pytest.param([], marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_variants_are_listed_with_their_size(words, capsys):
    rows = {}
    for word in words or [""]:
        assert main(["list", "--backbones", *word.split(), "--json"]) == 0
        rows |= {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {name for name in backbone_variants() if not words or any(word in name for word in words)}
    # Counted in timm's vit_base_patch16_224, less the classifier and the last norm, and in MIT's encoder.
    assert rows["vit-b"] == {"name": "vit-b", "family": "vit", "parameters": 85798656 - 2 * 768}
    assert rows["hrnet_w48"]["parameters"] == 65_325_120


def test_words_choose(capsys):
    assert main(["list", "--backbones", "resnet50", "_MIT"]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "family", "parameters", "(M)"] and set(rule) == {"-", " "}
    assert [row.split() for row in rows] == [["resnet50_mit", "resnet", "23.6"], ["resnet50_mit_d8", "resnet", "23.6"]]
    assert main(["list", "--backbones", "no-such-net"]) == 1
    assert "no backbone fits 'no-such-net'" in capsys.readouterr().out

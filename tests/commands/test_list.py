"""`segzoo list --backbones`; the list of checkpoints is tested with the zoo."""

import json

from segzoo.auto import backbone_variants
from segzoo.commands.cli import main


def test_every_variant_is_listed_with_its_size(capsys):
    assert main(["list", "--backbones", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == backbone_variants().keys()
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

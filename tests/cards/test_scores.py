"""Measured scores are added to cards that already exist."""

import pytest
import yaml
from huggingface_hub import ModelCard

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.cards.model_card import ModelCardFacts, build_model_card, update_model_card
from segzoo.cards.scores import Measurement, add_measurements, model_index_yaml

FOREIGN = """---
# chosen by hand
license: other   # see below
license_name: a---b
model-index:
- name: Their model
  results:
  - task:
      type: image-segmentation
    dataset:
      name: Cityscapes
      type: cityscapes
      split: val
    metrics:
    - type: mean_iou
      value: 80.1
      verified: false

widget:
- src: https://example.org/cat.png
# the end
---

# Their model

Text with --- and | bars |.

---
The end, without a newline"""


def measured(value=0.5, **changes):
    return Measurement(**{"value": value, "dataset": "CamVid", "protocol": "whole image", "num_images": 101} | changes)


def test_everything_else_stays_to_the_letter():
    text = add_measurements(FOREIGN, [measured(), measured(0.9, metric="overall_accuracy")], name="ignored")
    head, tail = FOREIGN.split("model-index:")
    assert text.startswith(head) and tail[tail.index("\nwidget") :] in text
    card = ModelCard(text)
    assert card.data.model_name == "Their model" and card.data.license_name == "a---b"
    results = {(r.dataset_type, r.metric_type): r for r in card.data.eval_results}
    assert (
        results["cityscapes", "mean_iou"].metric_value == 80.1 and results["cityscapes", "mean_iou"].verified is False
    )
    ours = results["camvid", "mean_iou"]
    assert (ours.metric_value, ours.dataset_split) == (0.5, "validation")
    assert ours.metric_args == {"protocol": "whole image", "num_images": 101}
    assert results["camvid", "overall_accuracy"].metric_name == "pixel accuracy"
    assert "| measured with this folder, % | mIoU | pixel accuracy |" in text
    assert "| CamVid validation, 101 images; whole image | 50.00 | 90.00 |" in text
    assert "80.1" not in card.text  # others' scores are not said to be measured with this folder


def test_an_earlier_score_is_replaced_and_others_stay():
    text = add_measurements(FOREIGN, [measured(0.5)], name="x")
    text = add_measurements(text, [measured(0.6, protocol="windows | of 512")], name="x")
    text = add_measurements(text, [measured(0.3, num_images=10)], name="x")
    again = add_measurements(text, [measured(0.7)], name="x")
    values = [r.metric_value for r in ModelCard(again).data.eval_results if r.dataset_type == "camvid"]
    assert values == [0.7, 0.6, 0.3]
    assert again.count("<!-- measured scores") == 1 and again.count("| 70.00 |") == 1 and "| 50.00 |" not in again
    assert "windows \\| of 512" in again
    assert again == add_measurements(again, [measured(0.7)], name="x")
    assert again.replace("70.00", "50.00").replace("value: 0.7", "value: 0.5") == text


def test_a_card_of_ours_has_its_place_for_scores():
    card = build_model_card(ModelCardFacts(title="Ours", dataset="CamVid", published_miou=0.4))
    assert "Nobody has measured" in card
    text = add_measurements(card, [measured()], name="Ours")
    assert "Nobody has measured" not in text and text.count("## Scores") == 1 and "Measured scores" not in text
    assert text.index("50.00") < text.index("40.00") < text.index("## Where the weights")
    same = build_model_card(
        ModelCardFacts(title="Ours", dataset="CamVid", published_miou=0.4, measurements=[measured()])
    )
    assert ModelCard(same).text == ModelCard(text).text
    assert ModelCard(same).data.eval_results == ModelCard(text).data.eval_results


@pytest.mark.parametrize("card", ["", "# Title\n\nText.\n", "\n---\n---\ntext", "# T\r\n\r\nWindows.\r\n"])
def test_cards_without_metadata(card):
    text = add_measurements(card, [measured()], name="mine")
    assert ModelCard(text).data.model_name == "mine" and "| 50.00 |" in text
    assert card.strip().removeprefix("---\n---").strip() in text
    assert ("\r\n" in card) == ("\r\n" in text) and text.count("\r\n") in (0, text.count("\n"))
    again = add_measurements(text, [measured(0.25)], name="mine")
    assert "| 25.00 |" in again and "50.00" not in again and len(ModelCard(again).data.eval_results) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        "license: mit\n{index}:\n- name: x\n# scores by the authors\n  results:\n{result}widget: []\n",
        'license: mit\n"{index}":\n- name: x\n  results:\n{result}\n# of the widget\nwidget: []\n',
        "{index}:\n- name: x\n  results:\n{result}license: mit\nwidget: []\n",
        "{{license: mit, {index}: [{{name: x, results: [{one}]}}], widget: []}}\n",
        "  license: mit\n  widget: []\n  {index}:\n  - name: x\n    results:\n    - {one}\n",
        "license: mit\nwidget: &none []\n{index}:\n- name: x\n  other: *none\n  results: [&one {one}]\nfirst: *one\n",
    ],
    ids=["comment", "quoted", "first", "braces", "indented", "anchors"],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_metadata_in_every_form_of_yaml_keep_what_they_say(metadata, mark):
    one = "{task: {type: image-segmentation}, dataset: {name: D, type: d}, metrics: [{type: f1, value: 3}]}"
    front = metadata.format(index="model-index", result=f"  - {one}\n", one=one)
    card = text = f"{mark}---\n{front}---\n# hi\n"
    for value, dataset in ((0.5, "D"), (0.7, "E")):
        text = add_measurements(text, [measured(value, dataset=dataset)], name="n")
    assert (
        text.startswith(f"{mark}---\n") and "# hi" in text and "| 70.00 |" in text and text.count("model-index") == 1
    )
    before, after = (yaml.safe_load(c.removeprefix(mark).split("---\n")[1]) for c in (card, text))
    (entry,) = after.pop("model-index")
    del before["model-index"]
    assert after == before and ("# of the widget" in card) == ("# of the widget" in text)
    assert [m["value"] for result in entry["results"] for m in result["metrics"]] == [3, 0.5, 0.7]


def test_metadata_that_cannot_be_read():
    with pytest.raises(SegZooError, match="lines of a key and a value"):
        add_measurements("---\nSome text\n---\n", [measured()], name="x")
    with pytest.raises(SegZooError, match="no valid YAML .*mend"):
        add_measurements("---\na: [1\n---\n", [measured()], name="x")
    for index in (" text", "\n- 3", "\n- name: x\n  results: {a: 1}", "\n- name: x\n  results:\n  - 1"):
        with pytest.raises(SegZooError, match="not built as the Hub wants"):
            add_measurements(f"---\nmodel-index:{index}\n---\n", [measured()], name="x")


def test_the_card_of_a_folder(tmp_path):
    path = update_model_card(tmp_path, [measured()])
    assert (
        path.read_text().startswith("---\nlibrary_name: transformers\n") and f"# {tmp_path.name}" in path.read_text()
    )
    path.write_bytes(FOREIGN.encode())
    update_model_card(tmp_path, [measured()])
    assert path.read_text() == add_measurements(FOREIGN, [measured()], name="x")
    path.write_text("---\na: [1\n---\n")
    with pytest.raises(SegZooError, match="README.md: the metadata"):
        update_model_card(tmp_path, [measured()])
    assert path.read_text() == "---\na: [1\n---\n" and [p.name for p in tmp_path.iterdir()] == ["README.md"]
    path.write_bytes(b"\xff\xfe text")
    with pytest.raises(SegZooError, match="no UTF-8 text"):
        update_model_card(tmp_path, [measured()])
    path.unlink()
    update_model_card(tmp_path, [measured()], model=SegZooForSemanticSegmentation(SegZooConfig.tiny()))
    assert "uper" in path.read_text() and "50.00" in path.read_text()


def test_model_index_alone():
    held = yaml.safe_load(model_index_yaml([measured(), measured(0.9, metric="mean_dice")], name="a: b"))
    (entry,) = held["model-index"]
    assert entry["name"] == "a: b" and [m["value"] for m in entry["results"][0]["metrics"]] == [0.5, 0.9]

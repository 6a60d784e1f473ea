import pytest
from huggingface_hub import ModelCard
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.cards.model_card import Measurement, ModelCardFacts, build_model_card, facts_of_model, hub_licence

SHA256 = "0123456789abcdef" * 4


def converted(**changes):
    facts = {
        "title": "UPerNet on InternImage-T",
        "family": "InternImage",
        "backbone": "InternImage-T",
        "head": "UPerNet",
        "num_parameters": 58_900_000,
        "classes": ("wall", "building", "sky"),
        "dataset": "ADE20K",
        "dataset_id": "merve/scene_parse_150",
        "weights_licence": "MIT",
        "code_licence": "MIT",
        "source_url": "https://example.org/model.pth",
        "source_file": "model.pth",
        "source_sha256": SHA256,
        "published_miou": 0.479,
        "published_miou_multi_scale": 0.481,
        "verification": "every key was taken; logits equal the original's within 1e-5.",
    }
    return ModelCardFacts(**facts | changes)


def test_converted_model():
    text = build_model_card(converted())
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-segmentation")
    assert data.tags[0] == "segzoo" and "internimage" in data.tags
    assert data.datasets == ["merve/scene_parse_150"]
    assert data.eval_results is None  # published scores were not measured with this folder
    for fact in (
        "47.90",
        "48.10",
        SHA256,
        "model.pth",
        "https://example.org/model.pth",
        "58.9 million",
        "logits equal",
        "2 sky",
    ):
        assert fact in text
    assert "Nobody has measured a score" in text
    assert "not known" not in text


def test_published_dice():
    text = build_model_card(converted(published_miou=None, published_miou_multi_scale=None, published_dice=0.7867))
    assert "| published, Dice | 78.67 | ADE20K; single scale |" in text and "mIoU" not in text


def test_measured_scores_become_the_model_index():
    score = Measurement(
        value=0.4785, dataset="ADE20K", dataset_id="merve/scene_parse_150", protocol="whole", num_images=2000
    )
    text = build_model_card(converted(measurements=[score]))
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == (
        "mean_iou",
        0.4785,
        "merve/scene_parse_150",
    )
    assert "47.85" in text and "validation, 2000 images; whole" in text and "Nobody" not in text


def test_trained_model():
    score = Measurement(value=0.5, dataset="CamVid | 11", protocol="original size")
    text = build_model_card(
        ModelCardFacts(
            title="Mine",
            dataset="CamVid",
            measurements=[score],
            training={"learning rate": 1e-3},
            base_model="org/base",
        )
    )
    assert "| learning rate | 0.001 |" in text and "CamVid \\| 11" in text
    assert "SHA-256" not in text and "conversion" not in text
    assert ModelCard(text).data.base_model == "org/base"


def test_what_is_not_known_is_said():
    text = build_model_card(ModelCardFacts(title="A model", source_file="model.pth"))
    for name in (
        "data set",
        "licence of the weights",
        "licence of the original code",
        "address",
        "SHA-256 of the file",
    ):
        assert f"- {name}: not known" in text
    assert "How this conversion was verified: it was not." in text
    assert "the data set that it was trained on is not known" in text
    assert "ask their authors" in text
    assert ModelCard(text).data.license == "unknown"


def test_synthetic_data_is_said():
    assert "**Synthetic data.**" in build_model_card(
        ModelCardFacts(title="A model", dataset="drawn scenes", synthetic=True)
    )
    assert "**Synthetic data.**" not in build_model_card(converted())


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (None, {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        ("DINOv3 License", {"license": "other", "license_name": "dinov3-license"}),
    ],
)
def test_licences(licence, expected):
    assert hub_licence(licence) == expected


def test_other_licence_has_its_link():
    data = ModelCard(build_model_card(converted(weights_licence="Own", licence_url="https://example.org/l"))).data
    assert (data.license, data.license_name, data.license_link) == ("other", "own", "https://example.org/l")


def test_title_that_yaml_would_misread():
    score = Measurement(value=1.0, dataset="on: off", protocol="x")
    data = ModelCard(build_model_card(ModelCardFacts(title="yes: [1, #2]", measurements=[score]))).data
    assert data.model_name == "yes: [1, #2]" and data.eval_results[0].dataset_name == "on: off"


def test_facts_of_model():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    facts = facts_of_model(model)
    assert facts["backbone"].startswith("resnet") and "uper" in facts["head"]
    assert facts["num_parameters"] == model.num_parameters() and len(facts["classes"]) == model.config.num_labels
    assert "resnet" in build_model_card(ModelCardFacts(title="A model", **facts))


@pytest.mark.parametrize("processor", [None, SegformerImageProcessor(), SegZooImageProcessor()])
def test_loading_a_model_of_transformers_needs_segzoo_for_its_image_processor_alone(processor):
    sizes = {"hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4}
    facts = facts_of_model(SegformerForSemanticSegmentation(SegformerConfig(**sizes)), processor)
    needed = isinstance(processor, SegZooImageProcessor)
    text = build_model_card(ModelCardFacts(title="A model", **facts))
    assert ("import segzoo" in text) == ("pip install segzoo" in text) == needed
    assert "segzoo" not in (ModelCard(text).data.tags or [])


def test_wrong_facts_are_refused():
    with pytest.raises(SegZooError, match="0.479 for 47.9 %"):
        ModelCardFacts(title="A model", published_miou=47.9)
    with pytest.raises(SegZooError, match="value=50"):
        Measurement(value=50, dataset="d", protocol="p")
    with pytest.raises(SegZooError, match="no SHA-256"):
        ModelCardFacts(title="A model", source_sha256="abc")

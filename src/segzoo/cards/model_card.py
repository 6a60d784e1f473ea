"""Model cards: what is known about a model, and what is not, as the README.md of its folder.

`ModelCardFacts` holds the facts, and `build_model_card` turns them into text. Conversion and training fill in what
they know::

    facts = ModelCardFacts(title="UPerNet on InternImage-T", dataset="ADE20K", **facts_of_model(model))
    save_model_folder(model, processor, folder, card=build_model_card(facts))

`update_model_card` adds scores that are measured later to an existing card, whoever wrote it.

All scores are fractions: 0.479, printed as 47.90 %.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from segzoo.cards.scores import (
    METRIC_TITLES,
    TASK,
    Measurement,
    add_measurements,
    check_fraction,
    measured_block,
    percent,
    table_cell,
)
from segzoo.errors import SegZooError
from segzoo.files import slug, write_whole
from segzoo.text import MOST_IN_NAME, line_text, markdown_code, markdown_link, markdown_text, python_string, shorten

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

# The Hub's identifiers for the usual licences of code and weights
# (https://huggingface.co/docs/hub/repositories-licenses).
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-3.0 agpl-3.0 openrail mpl-2.0 unlicense unknown other
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class ModelCardFacts:
    """The facts of a model card. Texts may hold any characters: the card shows them as words, without mark-up, control
    codes and passwords; only ``usage`` is Markdown. The card calls missing facts unknown, or does not mention them if that misleads
    nobody.

    Args:
        title: the model's name for people.
        summary: one or two sentences about the model; None writes one from backbone, head and data set.
        family: the architecture's family, such as ``"InternImage"``.
        architecture: class of transformers, such as ``"SegformerForSemanticSegmentation"``; None for segzoo's own
            models. Such a card names no part that only segzoo's models have.
        segzoo_processor: whether the image processor is segzoo's, which loads with segzoo alone, whatever the model is.
        backbone, head: backbone and head in words.
        num_parameters: number of weights.
        classes: names of the classes, in the order of their ids.
        dataset: title of the data that the weights were trained on.
        dataset_id: the data set's name on the Hub, if it has one.
        dataset_url: address of the data set.
        weights_licence: licence of the weights, such as ``"apache-2.0"`` or ``"CC BY-NC 4.0"``.
        code_licence: licence of the original code.
        licence_url: address of the text of the weights' licence.
        source_url, source_file, source_sha256: address, name and SHA-256 of the file that was converted.
        source_code_url: address of the original code's repository.
        paper_url: address of the paper.
        published_miou, published_miou_multi_scale: mean IoU that the authors published for this file, 0 to 1.
        published_dice: Dice that the authors published for this file, 0 to 1.
        published_flip: whether ``published_miou_multi_scale`` was measured with mirrored pictures too.
        published_url: address of the page with the published scores.
        measurements: scores measured with this folder.
        verification: how the conversion was checked, in words.
        inference: the test protocol that the image processor carries, in words.
        training: settings of the training, by name.
        usage: text of a usage example in Markdown; None writes the usual one.
        repo_id: the model's name on the Hub, for the usage example.
        base_model: name on the Hub of the model that was fine-tuned.
        limitations: sentences about the model's limits.
        synthetic: whether the model was trained on synthetic data; the card then has a warning.
        tags: further tags for the Hub.

    Raises:
        SegZooError: a score is not between 0 and 1, or ``source_sha256`` is not a SHA-256.
    """

    title: str
    summary: str | None = None
    family: str | None = None
    architecture: str | None = None
    segzoo_processor: bool = False
    backbone: str | None = None
    head: str | None = None
    num_parameters: int | None = None
    classes: Sequence[str] = ()
    dataset: str | None = None
    dataset_id: str | None = None
    dataset_url: str | None = None
    weights_licence: str | None = None
    code_licence: str | None = None
    licence_url: str | None = None
    source_url: str | None = None
    source_file: str | None = None
    source_sha256: str | None = None
    source_code_url: str | None = None
    paper_url: str | None = None
    published_miou: float | None = None
    published_miou_multi_scale: float | None = None
    published_dice: float | None = None
    published_flip: bool = True
    published_url: str | None = None
    measurements: Sequence[Measurement] = ()
    verification: str | None = None
    inference: str | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    usage: str | None = None
    repo_id: str | None = None
    base_model: str | None = None
    limitations: Sequence[str] = ()
    synthetic: bool = False
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("published_miou", "published_miou_multi_scale", "published_dice"):
            check_fraction(name, getattr(self, name))
        if self.source_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.source_sha256):
            raise SegZooError(
                f"source_sha256={self.source_sha256!r} is no SHA-256; give 64 lower-case hexadecimal digits"
            )


def facts_of_model(model: "PreTrainedModel", processor: "BaseImageProcessor | None" = None) -> dict[str, object]:
    """The facts that a model's config and weights give, as keyword arguments for `ModelCardFacts`.

    Args:
        model: a `SegZooForSemanticSegmentation`, or a segmentation model of transformers.
        processor: the image processor that is saved with it, if it is known.

    Returns:
        ``num_parameters``, ``classes``, ``segzoo_processor``, and ``backbone`` and ``head``, or the ``architecture`` of
        a model that is not segzoo's.
    """
    from segzoo.configuration_segzoo import class_names
    from segzoo.image_processing_segzoo import SegZooImageProcessor

    config = model.config
    facts: dict[str, object] = {"architecture": type(model).__name__}
    if config.model_type == "segzoo":
        facts = {
            "backbone": _component_name(config.backbone_config),
            "head": ", then ".join(map(_component_name, config.decode_head_configs)),
        }
    return facts | {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": tuple(class_names(config)),
        "segzoo_processor": isinstance(processor, SegZooImageProcessor),
    }


def base_model_of(model: "PreTrainedModel", repo_id: str | None = None) -> str | None:
    """The Hub name that a model was loaded from, or None for a local folder, a new model or ``repo_id`` itself.

    Args:
        model: any model of transformers; ``from_pretrained`` notes its source.
        repo_id: the repository that the model goes to, which it cannot be based on.
    """
    name = str(getattr(model, "name_or_path", None) or "")
    is_hub_name = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".") and not os.path.exists(name)
    return name if is_hub_name and name != repo_id else None


def build_model_card(facts: ModelCardFacts) -> str:
    """The text of README.md: metadata for the Hub as YAML, then the card.

    ``library_name`` is transformers, and segzoo is a tag of its own models: so the Hub shows the transformers example,
    with ``trust_remote_code``. Measured scores become the ``model-index``; published ones are in the text only, since
    nobody measured them with this folder.
    """
    sections = [
        f"# {_name(facts.title)}\n\n{table_cell(_summary(facts))}",
        _synthetic_warning(facts),
        "## Use\n\n" + (facts.usage or _usage(facts)),
        _scores(facts),
        "## Where the weights come from\n\n" + _origin(facts),
        _training(facts),
        _classes(facts),
        "## Limits\n\n" + "\n".join(f"- {table_cell(sentence)}" for sentence in _limitations(facts)),
    ]
    body = "\n\n".join(section for section in sections if section)
    card = str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}\n"))
    return add_measurements(card, facts.measurements, name=facts.title) if facts.measurements else card


def update_model_card(
    directory: str | os.PathLike, measurements: Sequence[Measurement], *, model: Any = None, processor: Any = None
) -> Path:
    """Add scores to the README.md of a model folder, whole or not at all; a missing README.md is created.

    Args:
        directory: the model folder.
        measurements: scores measured with this folder.
        model: the model in the folder, for the text of a new card; None: a new card has the scores only.
        processor: the model's image processor, for the same.

    Returns:
        The path of the README.md.

    Raises:
        SegZooError: the card's metadata cannot be read.
        OSError: the folder cannot be written to.
    """
    return write_whole(
        Path(directory) / "README.md", card_with_scores(directory, measurements, model=model, processor=processor)
    )


def card_with_scores(
    directory: str | os.PathLike, measurements: Sequence[Measurement], *, model: Any = None, processor: Any = None
) -> str:
    """The text that `update_model_card` writes, for the same arguments; it raises the same `SegZooError`."""
    path = Path(directory) / "README.md"
    title = Path(directory).resolve().name
    if path.is_file():
        try:
            card = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise SegZooError(f"{path}: is no UTF-8 text; save it as UTF-8") from error
    elif model is not None:
        card = build_model_card(ModelCardFacts(title=title, **facts_of_model(model, processor)))
    else:
        card = f"---\nlibrary_name: transformers\npipeline_tag: {TASK}\n---\n\n# {_name(title)}\n"
    try:
        return add_measurements(card, measurements, name=title)
    except SegZooError as error:
        raise SegZooError(f"{path}: {error}") from error


def hub_licence(licence: str | None) -> dict[str, str]:
    """A licence in the form of the Hub's metadata: its identifier, or ``other`` with the name, or ``unknown``.

    >>> hub_licence("CC BY-NC 4.0")
    {'license': 'cc-by-nc-4.0'}
    """
    if licence is None:
        return {"license": "unknown"}
    identifier = re.sub(r"[\s_]+", "-", licence.strip().lower())
    if identifier in HUB_LICENCES:
        return {"license": identifier}
    return {"license": "other", "license_name": _entry(identifier)}


def _metadata(facts: ModelCardFacts) -> ModelCardData:
    licence = hub_licence(facts.weights_licence)
    if facts.licence_url is not None and licence["license"] == "other":
        licence["license_link"] = _entry(facts.licence_url)
    family = [slug(facts.family)[:MOST_IN_NAME]] if facts.family else []
    own = ["segzoo"] if facts.architecture is None else []
    return ModelCardData(
        **licence,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[*own, "semantic-segmentation", "vision", *family, *map(_entry, facts.tags)],
        datasets=[_entry(facts.dataset_id)] if facts.dataset_id else None,
        base_model=_entry(facts.base_model) if facts.base_model else None,
        metrics=["mean_iou"] if facts.measurements else None,
    )


def _summary(facts: ModelCardFacts) -> str:
    if facts.summary is not None:
        return facts.summary
    parts = facts.architecture or " on ".join(part for part in (facts.head, facts.backbone) if part)
    what = f"A semantic-segmentation model: {parts}" if parts else "A semantic-segmentation model"
    trained = (
        f"trained on {shorten(facts.dataset, MOST_IN_NAME)}"
        if facts.dataset
        else "the data set that it was trained on is not known"
    )
    classes = f", {len(facts.classes)} classes" if facts.classes else ""
    size = f" It has {facts.num_parameters / 1e6:.1f} million parameters." if facts.num_parameters else ""
    return f"{what}; {trained}{classes}.{size}"


def _synthetic_warning(facts: ModelCardFacts) -> str:
    if not facts.synthetic:
        return ""
    return "> **Synthetic data.** This model has seen drawn pictures only. Its scores say nothing about photographs."


def _usage(facts: ModelCardFacts) -> str:
    name = python_string(_entry(facts.repo_id or "PATH_OR_REPOSITORY"))
    package, first = ("segzoo", "import segzoo  # or pass trust_remote_code=True below\n")
    if facts.architecture is not None and not facts.segzoo_processor:
        package, first = "transformers torchvision", ""
    return f"""```bash
pip install {package}
```

```python
{first}import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

processor = AutoImageProcessor.from_pretrained({name})
model = AutoModelForSemanticSegmentation.from_pretrained({name}).eval()

image = Image.open("picture.jpg")
with torch.no_grad():
    outputs = model(**processor(images=image, return_tensors="pt"))
label_map = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]
```

`pipeline("image-segmentation", {name})` works too."""


def _scores(facts: ModelCardFacts) -> str:
    parts = [measured_block({})]
    where = markdown_link("published", facts.published_url)
    several = "multi-scale and flip" if facts.published_flip else "multi-scale"
    rows = [
        f"| {where}, {metric} | {percent(value)} | {_name(facts.dataset or 'data set not known')}; {scales} |"
        for metric, value, scales in (
            (METRIC_TITLES["mean_iou"], facts.published_miou, "single scale"),
            (METRIC_TITLES["mean_iou"], facts.published_miou_multi_scale, several),
            ("Dice", facts.published_dice, "single scale"),
        )
        if value is not None
    ]
    if rows:
        parts.append("\n".join(["| published by the authors | % | on |", "|---|---|---|", *rows]))
    if facts.inference:
        parts.append(f"Test protocol that the processor carries: {table_cell(facts.inference)}")
    return "## Scores\n\n" + "\n\n".join(parts)


def _origin(facts: ModelCardFacts) -> str:
    rows = [
        ("data set", markdown_link(facts.dataset, facts.dataset_url)),
        ("licence of the weights", markdown_link(facts.weights_licence, facts.licence_url)),
        ("licence of the original code", markdown_link(facts.code_licence, None)),
        ("original code", markdown_link(facts.source_code_url, facts.source_code_url)),
        ("paper", markdown_link(facts.paper_url, facts.paper_url)),
        ("fine-tuned from", markdown_link(facts.base_model, None)),
        ("file", markdown_code(shorten(facts.source_file, MOST_IN_NAME)) if facts.source_file else None),
        ("address", markdown_link(facts.source_url, facts.source_url)),
        ("SHA-256 of the file", f"`{facts.source_sha256}`" if facts.source_sha256 else None),
    ]
    must_be_said = {"data set", "licence of the weights"}
    if facts.source_file or facts.source_url:
        must_be_said |= {"file", "address", "SHA-256 of the file", "licence of the original code"}
    lines = [f"- {name}: {value or 'not known'}" for name, value in rows if value or name in must_be_said]
    if facts.source_file or facts.verification:
        lines += ["", f"How this conversion was verified: {table_cell(facts.verification or 'it was not.')}"]
    return "\n".join(lines)


def _training(facts: ModelCardFacts) -> str:
    if not facts.training:
        return ""
    rows = [f"| {table_cell(name)} | {table_cell(value)} |" for name, value in facts.training.items()]
    return "## Training\n\n" + "\n".join(["| setting | value |", "|---|---|", *rows])


def _classes(facts: ModelCardFacts) -> str:
    if not facts.classes:
        return ""
    names = ", ".join(f"{index} {_name(name)}" for index, name in enumerate(facts.classes))
    return f"## Classes\n\n<details><summary>{len(facts.classes)} classes</summary>\n\n{names}\n\n</details>"


def _limitations(facts: ModelCardFacts) -> list[str]:
    sentences = list(facts.limitations)
    if facts.weights_licence is None:
        sentences.append("The licence of the weights is not known: ask their authors before you use them.")
    sentences.append("It labels every pixel with one of its classes, also pixels of things that are none of them.")
    return sentences


def _component_name(config: "PreTrainedConfig") -> str:
    name = config.model_type.removeprefix("segzoo_").replace("_", " ")
    detail = getattr(
        config, "depth", getattr(config, "backbone", None)
    )  # a ResNet's depth, or the name of a timm model
    return f"{name} {detail}" if isinstance(detail, (int, str)) else name


def _entry(text: object) -> str:
    return shorten(line_text(text), MOST_IN_NAME)


def _name(name: object) -> str:
    return markdown_text(_entry(name))

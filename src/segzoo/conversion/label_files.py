"""What an original makes of the ids in label files, where evaluation here has to be told: notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segzoo.conversion.keys import Context
from segzoo.conversion.labels import are_names, plain_names
from segzoo.conversion.original_config import OriginalConfig
from segzoo.data.facts import facts_for_original_type
from segzoo.text import listed

_UNCOUNTED = 255
_MOST_IDS = 20  # in a note


def note_label_files(context: Context, names: Sequence[str] | None) -> None:
    """Notes that the original gives label files other ids, or does not count a label in its scores.

    Args:
        context: the context with the original config, which takes the notes.
        names: names of the model's classes, where its config names a file of them; None if they are not known.
    """
    dataset = context.original.dataset
    ignored = dataset.ignore_index
    if type(ignored) is int and ignored != _UNCOUNTED:
        context.note(
            dataset.where,
            f"the original does not count label {ignored} in its scores; evaluate with --ignore_index {ignored}",
        )
    given = next((v for v in (dataset.options.get("classes"), dataset.metainfo.get("classes")) if v is not None), None)
    chosen = given if given is None or are_names(given) else names
    facts = facts_for_original_type(dataset.type, reduce_labels=dataset.reduce_labels) if dataset.type else None
    if chosen is None or facts is None:
        return
    wanted, known = plain_names(chosen), plain_names(facts.classes)
    # Names that the class of the data set does not know are refused there: this is another class of the same name.
    if wanted == known or not set(wanted) <= set(known):
        return
    first = int(facts.reduce_labels if dataset.reduce_labels is None else dataset.reduce_labels)
    by_name = {known.index(name) + first: number for number, name in enumerate(wanted)}
    ids = {index: wanted.index(name) if name in wanted else _UNCOUNTED for index, name in enumerate(known)}
    found = _found_in_files(context.original, ids, reduced=bool(first), count=len(wanted))
    changes = listed((f"{old} -> {new}" for old, new in found.items()), _MOST_IDS)
    maybe = " (before 0.24 some may have changed twice)" if context.original.is_before(0, 24) is None else ""
    advice = "evaluate on a YAML file of this data set that lists the model's classes and has default: ignore"
    if found != by_name:
        advice = "by a fault of its version these are not the ids of the names, and the model has learnt others than it names"
    context.note(
        dataset.where,
        f"these are not all classes of {facts.title} in their order, and the original gives the labels in its files new ids: "
        f"{changes}; others do not count{maybe}. Here labels count as they are in the files; {advice}",
    )


def _found_in_files(original: OriginalConfig, ids: Mapping[int, int], *, reduced: bool, count: int) -> dict[int, int]:
    """The class of the model that the original trains on, by the label in a file; without labels that do not count.

    Args:
        original: the config, whose version decides.
        ids: the new id by the old one, of all classes of the data set.
        reduced: whether 0 in a file is no class.
        count: number of classes of the model.
    """
    labels = list(range(_UNCOUNTED + 1))

    def reduce() -> None:
        labels[:] = [_UNCOUNTED if label in (0, _UNCOUNTED) else label - 1 for label in labels]

    if reduced and original.is_1x:
        reduce()
    if original.is_before(0, 24):  # one id after the other; before 0.7 none
        for old, new in () if original.is_before(0, 7) else ids.items():
            labels[:] = [new if label == old else label for label in labels]
    else:
        labels[:] = [ids.get(label, label) for label in labels]
    if reduced and not original.is_1x:
        reduce()
    return {old: new for old, new in enumerate(labels) if new < count}

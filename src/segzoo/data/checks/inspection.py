"""The check of every pair of a data set: its faults, and how often each class occurs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segzoo.data.annotations.recognition import recognise_path
from segzoo.data.checks.class_counts import ClassCounts, ClassTally
from segzoo.data.checks.findings import ERROR, NOTE, WARNING, Case, Finding, Findings
from segzoo.data.checks.label_ids import LabelRule, list_ranges
from segzoo.data.checks.probing import PairFacts, crop_case, few_levels_case, probe_pair
from segzoo.data.classes import ClassFacts
from segzoo.data.loading import SPLIT_NAMES, DataSource, PairingProblem, load_source
from segzoo.data.rows import row_names, undecoded
from segzoo.errors import SegZooError
from segzoo.images.values import ValueRule
from segzoo.text import listed

FORMAT_VERSION = 1
_TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a check of a data set found.

    Attributes:
        source: name of the data set.
        rule: what the ids in its masks mean.
        names: names of the classes, in the order of their ids.
        findings: the faults, errors first.
        pairs: number of pairs by split.
        checked: number of pairs that were checked, by split.
        counts: frequencies of the classes by split, over the pairs that a training can use.
        crop_size: (height, width) of the crop that pictures were compared with, in pixels; None: not compared.
        num_channels: number of channels of the model that pictures were compared with; None: not compared.
        value_rules: number of pictures by the rule that turns their values into grey levels, the commonest first.
        classes_source: where the class names come from, in words; may be empty.
    """

    source: str
    rule: LabelRule
    names: Sequence[str]
    findings: Sequence[Finding]
    pairs: Mapping[str, int]
    checked: Mapping[str, int]
    counts: Mapping[str, ClassCounts]
    crop_size: tuple[int, int] | None = None
    classes_source: str = ""
    num_channels: int | None = None
    value_rules: Mapping[ValueRule, int] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Number of cases of a severity, "error", "warning" or "note"."""
        return sum(finding.count for finding in self.findings if finding.severity == severity)

    @property
    def clean(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not self.count(ERROR) and not self.count(WARNING)

    @property
    def weights_split(self) -> str | None:
        """The split that class weights are computed from: "train" or else the first; None without a usable pair."""
        return next(iter(self.counts), None) if _TRAIN not in self.counts else _TRAIN

    def class_weights(self) -> np.ndarray | None:
        """`ClassCounts.median_frequency_weights` of `weights_split`, (num_labels,); None without a usable pair."""
        return None if self.weights_split is None else self.counts[self.weights_split].median_frequency_weights()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; the weight of a class that does not occur is NaN."""
        weights = self.class_weights()
        classes = [
            {
                "id": index,
                "name": str(name),
                "splits": {
                    split: {
                        "pixels": int(counts.pixels[index]),
                        "share": float(counts.share[index]),
                        "images": int(counts.images[index]),
                    }
                    for split, counts in self.counts.items()
                },
                "weight": None if weights is None else float(weights[index]),
            }
            for index, name in enumerate(self.names)
        ]
        return {
            "format": FORMAT_VERSION,
            "source": self.source,
            "clean": self.clean,
            "num_errors": self.count(ERROR),
            "num_warnings": self.count(WARNING),
            "num_notes": self.count(NOTE),
            "settings": {
                "num_labels": self.rule.num_labels,
                "classes": self.classes_source,
                "ignore_index": self.rule.ignore_index,
                "do_reduce_labels": self.rule.reduce_labels,
                "crop_size": None if self.crop_size is None else list(self.crop_size),
                "num_channels": self.num_channels,
            },
            "values": [
                {"type": rule.name, "rule": rule.words, "pictures": count} for rule, count in self.value_rules.items()
            ],
            "splits": {
                split: {
                    "pairs": self.pairs[split],
                    "checked": self.checked[split],
                    "counted": self.counts[split].num_images if split in self.counts else 0,
                    "ignored_pixels": self.counts[split].ignored if split in self.counts else 0,
                }
                for split in self.pairs
            },
            "findings": [finding.to_dict() for finding in self.findings],
            "classes": classes,
            "class_weights": {"method": "median-frequency balancing", "split": self.weights_split},
        }


def inspect_dataset(
    source: DataSource | str | os.PathLike,
    rule: LabelRule | None = None,
    *,
    classes: ClassFacts | None = None,
    splits: Sequence[str] | None = None,
    crop_size: tuple[int, int] | None = None,
    num_channels: int | None = None,
    max_samples: int | None = None,
    num_workers: int = 0,
    keep_cases: int = 1000,
    progress: Callable[[int], Callable[[], object]] | None = None,
) -> DataReport:
    """Check every pair of a data set and report all faults.

    Every picture and mask is decoded as a training decodes it; a broken one becomes a finding, and the check goes on.
    Memory grows by a 16-byte hash and a name per picture.

    Args:
        source: the data set's location, and how it is read.
        rule: what the ids in masks mean; None: the rule of `classes`, with 255 ignored. A missing number of classes is
            taken from `classes`; if both are missing, no id is out of range.
        classes: names and colours of the classes; the colours help to explain a mask of colours.
        splits: names of the splits to check; None checks all.
        crop_size: (height, width) of training crops in pixels; smaller pictures are reported.
        num_channels: number of channels that the model takes; pictures that do not fit are reported. None: see
            `probe_pair`.
        max_samples: number of pairs to check in each split, spread evenly over it; None checks all.
        num_workers: number of processes that check pairs; 0 uses the calling process.
        keep_cases: number of cases that are listed for each kind of finding; further ones are only counted.
        progress: called once with the number of pairs; the function that it returns is called after each pair.

    Raises:
        SegZooError: the data set cannot be loaded at all, or has no split of that name.
    """
    source, rule = (
        DataSource.of(source),
        rule or LabelRule(reduce_labels=classes is not None and classes.reduce_labels),
    )
    if rule.num_labels is None and classes is not None:
        rule = replace(rule, num_labels=len(classes.names))
    found = Findings(keep_cases)
    tables = load_tables(source, on_case=found.add)
    tables = choose_splits(tables, splits, source)
    colors: dict[tuple[int, ...], str] = {}
    if classes is not None:
        colors = {tuple(color[:3]): name for color, name in zip(classes.palette, classes.names, strict=False)}
    chosen = {split: spread(len(rows), max_samples) for split, rows in tables.items()}
    on_pair = None if progress is None else progress(sum(map(len, chosen.values())))
    tallies = {}
    value_rules: Counter[ValueRule] = Counter()
    seen_pictures: dict[bytes, tuple[str, str]] = {}
    brightest: int | None = None
    for split, rows in tables.items():
        tally = tallies[split] = ClassTally(rule)
        for facts in _probe_all(Probes(rows, chosen[split], rule, colors, num_channels), num_workers):
            tally.add(facts)
            if facts.rule is not None:
                value_rules[facts.rule] += 1
            if facts.brightest is not None:
                brightest = max(facts.brightest, brightest or 0)
            for case in facts.cases:
                found.add(replace(case, split=split))
            if crop_size is not None and facts.size is not None:
                case = crop_case(facts.size, facts.size, crop_size, facts.image_name)
                if case is not None:
                    found.add(replace(case, split=split))
            _judge_twins(facts, split, seen_pictures, found)
            if on_pair is not None:
                on_pair()
    if (case := few_levels_case(brightest)) is not None:
        found.add(case)
    whole = all(len(chosen[split]) == len(rows) for split, rows in tables.items())
    num_labels = _guess_num_labels(tallies) if rule.num_labels is None else rule.num_labels
    names = [f"class {index}" for index in range(num_labels)] if classes is None else classes.names
    counts = {split: tally.counts(num_labels) for split, tally in tallies.items() if tally.num_images}
    _judge_labels(tallies, counts, rule, names, whole, found)
    return DataReport(
        source=str(source),
        rule=rule,
        names=tuple(names),
        findings=found.sorted(),
        pairs={split: len(rows) for split, rows in tables.items()},
        checked={split: len(indices) for split, indices in chosen.items()},
        counts=counts,
        crop_size=crop_size,
        classes_source="" if classes is None else classes.source,
        num_channels=num_channels,
        value_rules=dict(value_rules.most_common()),
    )


# Choosing pairs


def load_tables(source: DataSource, *, on_case: Callable[[Case], object]) -> dict[str, Any]:
    """Load the pairs of a data set, undecoded; files that do not pair up become cases instead of an error.

    Args:
        source: the data set's location, and how it is read.
        on_case: called with each of these cases.

    Returns:
        Tables of undecoded rows by split; empty if nothing pairs up.

    Raises:
        SegZooError: there is no such data set.
    """
    cases = []

    def note(problem: PairingProblem) -> None:
        is_test = problem.kind == "split_without_masks" and problem.split == "test"
        cases.append(Case("test_without_masks" if is_test else problem.kind, "", problem.files, problem.split))

    outlines = None
    try:
        tables = load_source(source, strict=False, on_problem=note)
    except SegZooError:
        outlines = recognise_path(source.path)
        if not cases and outlines is None:  # otherwise they explain the error
            raise
        tables = {}
    if outlines is not None:  # they explain why there are no pairs
        cases = [Case("annotations", outlines.words, (str(source),), fix=outlines.fix)]
    for case in cases:
        on_case(case)
    return {split: undecoded(rows) for split, rows in tables.items()}


def choose_splits(tables: Mapping[str, Any], splits: Sequence[str] | None, source: DataSource) -> dict[str, Any]:
    """The tables of the chosen splits, in the order of the choice.

    Args:
        tables: tables by split.
        splits: any usual names of splits, such as "val" for "validation"; None chooses all.
        source: the data set, for the message.

    Raises:
        SegZooError: `source` does not have one of the splits; the message names those that it has.
    """
    if splits is None:
        return dict(tables)
    wanted = [SPLIT_NAMES.get(split.casefold(), split) for split in splits]
    missing = [split for split in wanted if split not in tables]
    if missing:
        raise SegZooError(f"{source} has no split {missing[0]!r}; it has {', '.join(tables) or 'none with pairs'}.")
    return {split: tables[split] for split in wanted}


def spread(count: int, most: int | None) -> list[int]:
    """Up to `most` of the positions 0..count-1, spread evenly; all if `most` is None."""
    if most is None or most >= count:
        return list(range(count))
    return [int(position) for position in np.linspace(0, count - 1, most).round()]


def _probe_all(probes: Probes, num_workers: int) -> Iterator[PairFacts]:
    """Facts of the chosen pairs, in order."""
    num_workers = min(num_workers, len(probes) // 32)  # starting a process takes as long as some pairs
    if num_workers == 0:
        yield from (probes[position] for position in range(len(probes)))
        return
    from segzoo.data.loader import Loader

    positions = range(len(probes))
    batches = [positions[first : first + 8] for first in positions[::8]]
    for batch in Loader(probes, batches, collate=list, num_workers=num_workers):
        yield from batch


@dataclass(frozen=True)
class Probes:
    """Chosen pairs of a table as a data set whose items are `PairFacts`.

    Args:
        rows: table of undecoded rows (`segzoo.data.rows.undecoded`).
        indices: positions of the pairs in the table.
        rule, palette, num_channels: see `probe_pair`.
    """

    rows: Any
    indices: Sequence[int]
    rule: LabelRule
    palette: Mapping[tuple[int, int, int], str]
    num_channels: int | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> PairFacts:
        index = self.indices[position]
        row = self.rows[index]
        image_name, label_name = row_names(row, index)
        return probe_pair(
            row["image"],
            row.get("label"),
            self.rule,
            image_name=image_name,
            label_name=label_name,
            encoding=row.get("label_encoding"),
            palette=self.palette,
            num_channels=self.num_channels,
        )


# Judging


def _judge_twins(facts: PairFacts, split: str, pictures: dict[bytes, tuple[str, str]], found: Findings) -> None:
    """Add a case if a picture with the same bytes has been seen before."""
    if facts.digest is None or facts.size is None:
        return
    other_split, other = pictures.setdefault(facts.digest, (split, facts.image_name))
    if other == facts.image_name:
        return
    if other_split == split:
        found.add(Case("duplicate_picture", files=(other, facts.image_name), split=split))
    else:
        details = {"splits": [other_split, split]}
        found.add(Case("leakage", f"{other_split} and {split}", (other, facts.image_name), details=details))


def _judge_labels(
    tallies: Mapping[str, ClassTally],
    counts: Mapping[str, ClassCounts],
    rule: LabelRule,
    names: Sequence[str],
    whole: bool,
    found: Findings,
) -> None:
    """Add the cases that only the ids of all masks together reveal.

    Args:
        tallies, counts: ids and class counts by split.
        rule: what the ids in masks mean.
        names: names of the classes, in the order of their ids.
        whole: whether every pair was checked.
        found: receives the cases.
    """
    seen = set().union(*(tally.seen for tally in tallies.values()))
    bad = rule.outside(dict.fromkeys(seen, 0))
    if rule.num_labels is None and seen:
        found.add(Case("classes_unknown", f"the masks hold the ids {list_ranges(seen)}"))
    if seen == {0, 255} and rule.ignore_index == 255 and rule.num_labels in (None, 2):
        found.add(Case("black_and_white"))
    absent = {split: np.flatnonzero(c.pixels == 0).tolist() for split, c in counts.items()}
    everywhere = set.intersection(*map(set, absent.values())) if absent else set()
    last = len(names) - 1
    if whole and not bad and last >= 2 and everywhere == {0} and not rule.reduce_labels:
        found.add(Case("labels_start_at_one", f"no mask holds the id 0, class {names[0]!r}"))
    elif whole and not bad and last >= 2 and everywhere == {last} and rule.reduce_labels and 0 in seen:
        text = f"no mask holds the id {last + 1}, class {names[last]!r}, but 0 occurs"
        found.add(Case("labels_start_at_zero", text))
    for split, classes in absent.items():
        if not classes:
            continue
        text = f"{split}: {len(classes)} of {len(names)} classes: {listed((names[index] for index in classes), 12)}"
        certain = split == _TRAIN and whole and rule.num_labels is not None
        kind = "class_absent" if certain else "class_absent_here"
        found.add(Case(kind, text, split=split, details={"classes": classes}))


def _guess_num_labels(tallies: Mapping[str, ClassTally]) -> int:
    """One more than the largest class that occurs."""
    return 1 + max((index for tally in tallies.values() for index in tally.pixels if index >= 0), default=-1)

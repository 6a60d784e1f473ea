"""The report of a conversion: what each key became, and one error that lists everything that did not fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segzoo.cards.scores import table_cell
from segzoo.conversion.errors import ConversionError
from segzoo.files import json_text, write_whole
from segzoo.text import MOST_IN_NAME, line_text, markdown_code, shorten

_MOST_ENTRIES = 40


@dataclass
class KeyMatch:
    """The result of renaming a state dict.

    Args:
        renamed: native keys by original key, of all tensors that the model takes.
        left_out: original keys that a rule drops on purpose.
        unexpected: original keys that no rule knows, or whose native key the model does not have.
        missing: original keys that are missing, by native key.
        doubled: original keys whose native key another one has already filled.
        unequal: pairs of original keys that name one tensor, and hold different values.
        wrong_shapes: original key, shape in the checkpoint and shape in the model, of tensors whose shapes differ.
        not_finite: original keys of tensors with NaN or infinite values.
        converted_dtypes: number of tensors whose dtype was changed to the model's, by original dtype.
        to_bfloat16: number of tensors that were changed to bfloat16, in which the original runs them, by dtype.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    unequal: list[tuple[str, str]] = field(default_factory=list)
    wrong_shapes: list[tuple[str, list[int], list[int]]] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    converted_dtypes: dict[str, int] = field(default_factory=dict)
    to_bfloat16: dict[str, int] = field(default_factory=dict)

    def raise_for_problems(self, source: str, *, own_config: bool = False) -> None:
        """Raises one error that lists everything that did not fit, of each kind the first 40, if there is anything.

        Args:
            source: name of the checkpoint file, for the message.
            own_config: whether the config is the one that the checkpoint carries, so that no other is to be found.

        Raises:
            ConversionError: a key is missing, unexpected or doubled, two names of one tensor hold different values, a
                shape is wrong, or a value is not finite.
        """
        shapes = [
            f"{key}: {_shape(found)} in the checkpoint, {_shape(wanted)} by the config"
            for key, found, wanted in self.wrong_shapes
        ]
        groups = {
            "missing": list(self.missing.values()),
            "unexpected": self.unexpected,
            "given twice": self.doubled,
            "two names of one tensor with different values": [f"{first}, {second}" for first, second in self.unequal],
            "wrong shape": shapes,
            "NaN or infinite": self.not_finite,
        }
        found = {name: entries for name, entries in groups.items() if entries}
        if not found:
            return
        counts = ", ".join(f"{len(entries)} {name}" for name, entries in found.items())
        if set(found) == {"NaN or infinite"}:
            first = (
                f"{source}: the checkpoint holds NaN or infinite values; take one from before the training diverged"
            )
        elif own_config:
            first = (
                f"{source}: the weights do not fit the checkpoint's own config ({counts}): it is not known to convert with "
                "these options, or the weights were changed later; if the original loads them, please report the config"
            )
        else:
            first = (
                f"{source}: the weights do not fit the config ({counts}); give the config that they were trained with"
            )
        lines = []
        for name, entries in found.items():
            lines += [f"  {name}: {shorten(line_text(entry), MOST_IN_NAME)}" for entry in entries[:_MOST_ENTRIES]]
            if len(entries) > _MOST_ENTRIES:
                lines.append(f"  {name}: ... and {len(entries) - _MOST_ENTRIES:,} more")
        raise ConversionError("\n".join([first, *lines]))


def _row(name: str, value: str) -> str:
    return f"| {table_cell(name)} | {table_cell(value)} |"


def _key(key: str) -> str:
    return markdown_code(shorten(key, MOST_IN_NAME))


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


@dataclass
class ConversionReport:
    """What is known about one conversion, ready for JSON.

    Args:
        source: the checkpoint file or files.
        sha256: SHA-256 of the file, or of the encoder's file.
        config_source: where the original config came from, in words.
        zoo_name: zoo name of the released checkpoint that was converted, or None.
        components: original class name and our model type of each component, in the order of the model.
        parameters: number of weights, without buffers.
        labels_source: where the class names come from, in words.
        notes: what was not carried over, and what was assumed.
        keys: what each key became.
    """

    source: str
    sha256: str
    config_source: str
    zoo_name: str | None
    components: list[tuple[str, str]]
    parameters: int
    labels_source: str
    notes: list[str]
    keys: KeyMatch

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The report as a page in markdown with tables."""
        rows = [
            ("checkpoint", self.source),
            ("SHA-256", self.sha256),
            ("config", self.config_source),
            ("zoo name", self.zoo_name or "none"),
            ("weights", f"{self.parameters:,}"),
            ("class names", self.labels_source or "not known"),
        ]
        text = ["# Conversion report", "", "| | |", "|---|---|", *(_row(a, b) for a, b in rows), ""]
        text += [
            "## Components",
            "",
            "| original | segzoo |",
            "|---|---|",
            *(_row(a, b) for a, b in self.components),
            "",
        ]
        if self.notes:
            text += ["## Notes", "", *(f"- {table_cell(note)}" for note in self.notes), ""]
        if self.keys.left_out:
            text += ["## Left out", "", *(f"- {_key(key)}" for key in self.keys.left_out), ""]
        text += ["## Keys", "", "| original | segzoo |", "|---|---|"]
        text += [f"| {_key(a)} | {_key(b)} |" for a, b in self.keys.renamed.items()]
        return "\n".join(text) + "\n"

    def write(self, path: str | Path) -> Path:
        """Writes the report, as markdown if the name ends in ``.md``, otherwise as JSON; returns the path.

        Raises:
            ConversionError: the file cannot be written.
        """
        path = Path(path)
        text = self.to_markdown() if path.suffix.lower() == ".md" else json_text(self.to_dict(), indent=1)
        try:
            write_whole(path, text)
        except OSError as error:
            raise ConversionError(
                f"{path}: the report cannot be written ({error.strerror}); the model is there, give another name for the report"
            ) from error
        return path

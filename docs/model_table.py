"""Writes the tables of ``models.md``: every backbone, neck, head and method, and what is known and tested of it.

python docs/model_table.py
"""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo import zoo
from segzoo.auto import BACKBONES, HEADS, NECKS, Registration
from segzoo.backbones.wrapper import WrapperConfig
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError

PAGE = Path(__file__).with_name("models.md")
TESTS = Path(__file__).parents[1] / "tests"
SPEED = Path(__file__).with_name("speed_of_methods.json")
"""What ``benchmarks/methods.py --json`` wrote."""
MARK = "<!-- written by docs/model_table.py -->\n"
COLUMNS = "rows that convert", "torch.export, ONNX", "one graph", "checkpointing", "recipes", "best published mIoU"
SPEED_COLUMN = "seconds for a picture"
BEST_ON = "ADE20K"  # where a component has rows for it


@dataclass
class Line:
    """What rows of the zoo say about a component or method.

    Args:
        rows: those that convert.
        heads: ``model_type`` of their decode heads.
    """

    rows: list[zoo.ZooRow] = field(default_factory=list)
    heads: set[str] = field(default_factory=set)

    def recipes(self) -> str:
        names = sorted({row.recipe for row in self.rows if row.recipe})
        return "" if not names else f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    def best(self) -> str:
        scored = [row for row in self.rows if row.miou is not None]
        scored = [row for row in scored if row.dataset == BEST_ON] or scored
        if not scored:
            return ""
        row = max(scored, key=lambda row: row.miou)
        return f"{row.miou:.2f} on {row.dataset}, `{row.name}`"


def constant(file: str, name: str) -> set[str]:
    """The strings that a test file assigns to a name."""
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return set(ast.literal_eval(node.value))
    raise ValueError(f"{file} has no {name}")


def lines() -> dict[str, Line]:
    """By ``model_type`` of backbones, necks and heads, and by the methods' names."""
    found, configs = {name: Line() for name in (*BACKBONES, *NECKS, *HEADS)}, {}
    for row in zoo.rows().values():
        original = zoo.original_config(row.name)
        if original is None:
            continue
        text = repr(original)  # many rows have equal configs
        if text not in configs:
            try:
                configs[text] = translate_config(original).config
            except SegZooError:
                configs[text] = None
        config = configs[text]
        if config is None:
            continue
        backbone, heads = config.backbone_config.model_type, {head.model_type for head in config.decode_head_configs}
        parts = {backbone, *heads, f"{row.system}: {row.method}"}
        parts |= {head.model_type for head in config.auxiliary_head_configs if head.own_outputs is not None}
        if isinstance(config.backbone_config, WrapperConfig):
            parts.add(config.backbone_config.encoder_config.model_type)
        if config.neck_config is not None:
            parts.add(config.neck_config.model_type)
        for part in parts:
            line = found.setdefault(part, Line())
            line.rows.append(row)
            line.heads |= heads
    return found


def has_blocks(entry: Registration) -> bool:
    """Whether the model has blocks for gradient checkpointing."""
    with torch.device("meta"):
        model = entry.model(entry.config.tiny())
    return any(isinstance(module, GradientCheckpointingLayer) for module in model.modules())


def tables() -> str:
    """The tables as markdown."""
    found = lines()
    fixed = constant("export/test_export.py", "FIXED_SIZE")
    compiled = constant("backbones/test_contract.py", "ALWAYS_COMPILED") | constant(
        "heads/test_contract.py", "COMPILED"
    )
    trained_only = {name for name, entry in HEADS.items() if entry.config.tiny().own_outputs is not None}
    blocks = {name for name, entry in (BACKBONES | NECKS | HEADS).items() if has_blocks(entry)}

    def cells(line: Line, parts: Iterable[str], exported: bool) -> list[str]:
        parts = set(parts)
        export = ("one size" if parts & fixed else "any size") if exported else ""
        if parts <= trained_only:
            export = "in training only"
        graph = "each run" if parts <= compiled else "slow tests"
        return [
            str(len(line.rows)),
            export,
            graph if exported else "",
            "yes" if parts & blocks else "",
            line.recipes(),
            line.best(),
        ]

    text = []
    for title, registry, exported in (
        ("Backbones", BACKBONES, True),
        ("Necks", NECKS, False),  # exported and compiled as parts of models only
        ("Heads", HEADS, True),
    ):
        rows = [[f"`{name}`", *cells(found[name], [name], exported)] for name in sorted(registry)]
        text.append(table(title, ("model type", *COLUMNS), rows))
    methods = sorted(name for name in found if ": " in name)
    measured = json.loads(SPEED.read_text(encoding="utf-8"))
    rows = [
        [
            name,
            ", ".join(f"`{head}`" for head in sorted(found[name].heads)),
            *cells(found[name], found[name].heads, True),
            speed(measured["methods"].get(name)),
        ]
        for name in methods
    ]
    text.append(table("Methods, as the systems call them", ("method", "heads", *COLUMNS, SPEED_COLUMN), rows))
    return "\n".join(text)


def speed(figures: dict | None) -> str:
    """Seconds for a picture of a method's smallest model, in words; empty where none was measured."""
    if figures is None:
        return ""
    seconds = " / ".join(f"{figures[precision]:.2f}" for precision in ("float32", "bfloat16"))
    return f"{seconds} s: {figures['backbone']}, {figures['multiply_adds'] / 1e9:.0f} G"


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A heading and a table."""
    columns = list(columns)
    text = [columns, ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in text)


def page() -> str:
    """The whole page with the tables as they are now."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + tables()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
